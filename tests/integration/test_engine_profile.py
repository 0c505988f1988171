"""What the gateway finds out about an engine when it starts, and what follows from it.

Most of it stands in front of the scripted engine (tests/fake_engine.py), for what engines say and how they fail; the
last part asks the real llama.cpp. The real vLLM is asked in tests/vllm.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.api.status import Readiness
from server.backends.openai import EngineSettings, OpenAIEngine
from server.backends.profile import CAPABILITIES, EngineProfile, Signals
from server.backends.trials import REQUEST_ID
from tests.conftest import Live, free_port
from tests.fake_engine import (
    LLAMA_CPP,
    PLAIN,
    VLLM,
    Act,
    Dialect,
    Exchange,
    FakeEngine,
    drops,
    hangs,
    metrics_page,
    refuses,
    running,
    says,
    streams,
    until,
    vllm_error,
    within,
    words,
)
from tests.serving import serving

pytestmark = pytest.mark.anyio
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@asynccontextmanager
async def asking(engine: FakeEngine, **settings: Any) -> AsyncGenerator[OpenAIEngine, None]:
    made = OpenAIEngine(EngineSettings(url=engine.url, **settings))
    try:
        yield made
    finally:
        await made.aclose()


async def profile_of(dialect: Dialect, **settings: Any) -> EngineProfile:
    async with running(dialect) as engine, asking(engine, **settings) as made:
        return await made.probe()


def known(profile: EngineProfile, *names: str) -> dict[str, tuple[Any, str]]:
    return {name: (getattr(profile, name), profile.known(name)) for name in names}


# --- what it says


async def test_what_vllm_says_of_itself_is_taken_from_there() -> None:
    profile = await profile_of(VLLM, probe_calls="never")
    assert profile.version == "0.33.0"
    assert known(profile, "context", "tokenize", "pooling", "metrics") == {
        "context": (2048, "told"),
        "tokenize": (True, "told"),
        "pooling": (False, "told"),
        "metrics": (True, "told"),
    }
    assert {profile.known(name) for name in ("max_n", "slots", "continuation", "logprobs")} == {"assumed"}


async def test_what_llama_cpp_says_of_itself_is_taken_from_there() -> None:
    profile = await profile_of(LLAMA_CPP, probe_calls="never")
    assert known(profile, "max_n", "slots", "context") == {
        "max_n": (4, "told"),
        "slots": (4, "told"),
        "context": (1024, "told"),
    }


async def test_metrics_that_the_engine_does_not_have_are_not_looked_for_later() -> None:
    page = metrics_page("vllm:num_requests_running", "vllm:something_else")
    some = await profile_of(replace(VLLM, pages={"/metrics": page}), probe_calls="never")
    assert some.signals == Signals(running="vllm:num_requests_running")
    none = await profile_of(replace(VLLM, pages={}), probe_calls="never")
    assert none.signals.names == ()
    assert known(none, "metrics") == {"metrics": (False, "told")}


async def test_a_vllm_that_shows_its_settings_says_how_many_sequences_it_takes() -> None:
    """With VLLM_SERVER_DEV_MODE."""
    shown = {"vllm_config": {"scheduler_config": {"max_num_seqs": 7, "policy": "priority"}}}
    profile = await profile_of(replace(VLLM, pages={"/server_info?config_format=json": shown}), probe_calls="never")
    assert known(profile, "slots", "priority") == {"slots": (7, "told"), "priority": (True, "told")}


# --- what trying shows


async def test_what_a_vllm_can_do_is_seen_in_small_calls() -> None:
    async with running(VLLM) as engine, asking(engine) as made:
        profile = await made.probe()
        assert known(
            profile, "continuation", "logprobs", "top_logprobs", "structured_output", "names_stop", "max_stops"
        ) == {
            "continuation": (True, "seen"),
            "logprobs": (True, "seen"),
            "top_logprobs": (20, "seen"),
            "structured_output": (True, "seen"),
            "names_stop": (True, "seen"),
            "max_stops": (4, "seen"),
        }
        assert engine.trials
        assert all(request.body["max_tokens"] <= 4 for request in engine.trials)
        assert not engine.requests
        assert made.running == 0


@pytest.mark.parametrize(
    ("dialect", "name", "value"),
    [
        (replace(VLLM, top_logprobs=0), "logprobs", False),
        (replace(VLLM, top_logprobs=3), "logprobs", True),
        (replace(VLLM, top_logprobs=3), "top_logprobs", 3),
        (replace(VLLM, structured=False), "structured_output", False),
        (replace(VLLM, stop_reason=False), "names_stop", False),
        (replace(VLLM, max_stops=9), "max_stops", 9),
        (replace(VLLM, max_stops=None), "max_stops", 16),
        (replace(VLLM, max_n=8), "max_n", 8),
        (LLAMA_CPP, "logprobs_with_tools", False),
        (replace(LLAMA_CPP, logprobs_with_tools=True), "logprobs_with_tools", True),
        (LLAMA_CPP, "continuation", True),
        (replace(LLAMA_CPP, continues=False), "continuation", False),
        (replace(LLAMA_CPP, props=None), "max_n", 4),
        (replace(LLAMA_CPP, props=None, max_n=None), "max_n", 16),
    ],
)
async def test_what_an_engine_lacks_is_seen_in_small_calls(dialect: Dialect, name: str, value: object) -> None:
    assert known(await profile_of(dialect), name) == {name: (value, "seen")}


def taking_out(*names: str) -> Act:
    """An engine that takes a field and does nothing about it."""

    async def act(exchange: Exchange) -> None:
        for name in names:
            exchange.request.body.pop(name, None)
        await FakeEngine(exchange.engine.dialect).trial(exchange)

    return act


async def test_fields_that_the_engine_ignores_are_noticed() -> None:
    """An older vLLM begins a new turn where it should go on, and says nothing about it."""
    async with running(VLLM) as engine, asking(engine) as made:
        engine.trial = taking_out("continue_final_message", "add_generation_prompt", "logprobs")
        profile = await made.probe()
    assert known(profile, "continuation", "logprobs") == {"continuation": (False, "seen"), "logprobs": (False, "seen")}


async def test_an_unknown_engine_may_be_paid_by_the_token_and_is_not_tried() -> None:
    async with running(PLAIN) as engine, asking(engine) as made:
        profile = await made.probe()
        assert not engine.trials
    assert known(profile, "continuation", "logprobs") == {
        "continuation": (False, "assumed"),
        "logprobs": (True, "assumed"),
    }


@pytest.mark.parametrize("continues", [True, False])
async def test_an_unknown_engine_is_tried_when_that_is_configured(continues: bool) -> None:
    profile = await profile_of(replace(PLAIN, continues=continues), probe_calls="always")
    assert known(profile, "continuation", "max_n", "structured_output") == {
        "continuation": (continues, "seen"),
        "max_n": (16, "seen"),
        "structured_output": (True, "seen"),
    }


async def test_what_the_operator_says_holds_and_is_not_tried() -> None:
    said = {"logprobs": False, "top_logprobs": 2, "continuation": False, "slots": 256, "context": 999}
    async with running(VLLM) as engine, asking(engine, capabilities=said, max_n=3) as made:
        profile = await made.probe()
        assert known(profile, *said, "max_n") == {
            **{name: (value, "configured") for name, value in said.items()},
            "max_n": (3, "configured"),
        }
        assert made.max_n == 3
        bodies = [request.body for request in engine.trials]
        assert not any(body.get("continue_final_message") or body.get("n") for body in bodies)
        assert not any(body.get("logprobs") and "tools" not in body for body in bodies)


# --- what goes wrong


def after_the_first(act: Act) -> Act:
    """A plain call is answered, and whatever comes then goes wrong."""

    async def one(exchange: Exchange) -> None:
        first = len(exchange.engine.trials) == 1
        await (FakeEngine(exchange.engine.dialect).trial if first else act)(exchange)

    return one


@pytest.mark.parametrize(
    "act",
    [
        refuses(500),
        refuses(401, {"error": "Unauthorized"}),
        refuses(429),
        drops,
        streams(words("Hello"), events=1, then=drops),
        streams(events=0, then=says(b"data: {\n\n")),
        streams(events=0, then=says(b'data: {"choices": [{"index": "x", "delta": 3}]}\n\n')),
        streams(events=0, then=says(b'data: {"error": {"message": "no", "code": 500}}\n\n')),
        streams(events=0, then=says(b'data: {"choices": 7}\n\ndata: [DONE]\n\n')),
    ],
)
@pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
@pytest.mark.parametrize("plain", [True, False], ids=["but a plain call", "all"])
async def test_a_trial_that_fails_shows_nothing_and_the_gateway_starts(act: Act, dialect: Dialect, plain: bool) -> None:
    async with running(dialect) as engine, asking(engine, probe_timeout=30) as made:
        engine.trial = after_the_first(act) if plain else act
        profile = await made.probe()
        tried = ("continuation", "logprobs", "top_logprobs", "logprobs_with_tools", "structured_output", "names_stop")
        assert {profile.known(name) for name in tried} == {"assumed"}
        assert profile.known("context") == "told"


async def test_an_engine_that_refuses_everything_is_not_taken_to_lack_everything() -> None:
    """It may refuse for another reason, such as a chat template that it does not have."""
    async with running(VLLM) as engine, asking(engine) as made:
        engine.trial = refuses(400, vllm_error(400, "there is no chat template"))
        profile = await made.probe()
        assert len(engine.trials) == 1
    assert known(profile, "logprobs", "continuation") == {
        "logprobs": (True, "assumed"),
        "continuation": (True, "assumed"),
    }


@pytest.mark.parametrize("plain", [True, False], ids=["but a plain call", "all"])
async def test_trials_end_at_their_time_and_their_calls_with_them(plain: bool) -> None:
    """And what is not known yet is tried again the next time."""
    async with running(VLLM) as engine, asking(engine, probe_timeout=0.3) as made:
        engine.trial = after_the_first(hangs) if plain else hangs
        profile = await made.probe()
        assert profile.known("logprobs") == "assumed"
        for request in engine.trials[plain:]:
            await within(request.gone.wait())
    async with running(VLLM) as engine, asking(engine) as made:
        engine.trial = after_the_first(refuses(503))
        await made.probe()
        engine.trial = FakeEngine(VLLM).trial
        assert (await made.probe()).known("logprobs") == "seen"


async def test_pages_that_do_not_come_are_given_up() -> None:
    async with running(VLLM) as engine, asking(engine, probe_timeout=0.3, probe_calls="never") as made:
        engine.routes["/version"] = hangs
        profile = await made.probe()
    assert (profile.name, profile.context, profile.version) == ("vllm", 2048, None)


# --- an engine that was away


async def test_an_engine_that_comes_back_as_it_was_is_not_tried_again() -> None:
    async with running(VLLM) as engine, asking(engine) as made:
        profile = await made.probe()
        count = len(engine.trials)
        assert await made.probe() is profile
        assert len(engine.trials) == count


async def test_another_engine_in_its_place_is_found_out_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that can't be made is what makes the gateway ask again; nothing is asked while all goes well."""
    monkeypatch.setattr("server.gateway._PROBE_AGAIN", 0.01)
    caplog.set_level(logging.INFO, "apportion")
    port = free_port()
    engine = FakeEngine(VLLM)
    await engine.start(port)
    try:
        async with serving(engine.url, engine={"retries": 0}) as served:
            assert (await served.client.get("/ready")).json()["engine"]["name"] == "vllm"
            await engine.stop()
            assert (await served.chat()).status_code == 503
            await until(lambda: "asking again" in caplog.text, "the gateway's noticing")
            engine = FakeEngine(LLAMA_CPP, models=("other",))
            await engine.start(port)
            await until(lambda: served.gateway.engine.profile.name == "llama.cpp", "the gateway's noticing")
            ready = (await served.client.get("/ready")).json()
            assert (ready["engine"]["name"], ready["engine"]["max_n"]) == ("llama.cpp", 4)
            assert [model["id"] for model in (await served.client.get("/v1/models")).json()["data"]] == ["other"]
            assert "engine vllm" in caplog.text
            assert "engine llama.cpp" in caplog.text
    finally:
        await engine.stop()


# --- what follows


async def test_ready_and_one_line_of_the_log_say_what_is_off_the_menu_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "apportion")
    menu = ["single", "majority_vote@4", "best_of_n@4:self_certainty", "beam_search@2x2"]
    async with (
        running(replace(LLAMA_CPP, continues=False, top_logprobs=3)) as engine,
        serving(engine.url, menu=menu) as served,
    ):
        body = (await served.client.get("/ready")).json()
        Readiness.model_validate(body, strict=True, extra="forbid")
        assert list(body["engine"]["capabilities"]) == list(CAPABILITIES)
        assert body["engine"]["capabilities"]["continuation"] == {"value": False, "known_from": "seen"}
        certain = "self_certainty needs logprobs of 5 alternatives, and the engine returns 3"
        beams = "beam_search needs the assistant's text continued, which the engine does not do"
        assert body["off"] == [
            {"strategy": "best_of_n@4:self_certainty", "reason": certain},
            {"strategy": "beam_search@2x2", "reason": beams},
        ]
        (line,) = [record.message for record in caplog.records if record.message.startswith("engine ")]
        assert "told: max_n 4, slots 4, context 1024" in line
        assert "seen: no continuation" in line
        assert certain in line
        assert beams in line


async def test_a_client_that_asks_for_what_the_engine_can_not_do_gets_single_and_the_reason() -> None:
    async with running(replace(LLAMA_CPP, continues=False)) as engine, serving(engine.url) as served:
        named = (await served.chat("beam_search@2x2")).json()["apportion"]
        assert named["strategy"] == "single"
        assert named["reason"].startswith("single instead of beam_search@2x2")
        assert "which the engine does not" in named["reason"]


async def test_logprobs_that_do_not_come_with_tools_are_not_asked_for_with_tools() -> None:
    """llama.cpp answers such a call with 400, which would be the client's answer."""
    async with running(LLAMA_CPP) as engine, serving(engine.url) as served:
        refused = (await served.chat("best_of_n@2", tools=TOOLS)).json()["apportion"]
        assert refused["strategy"] == "single"
        assert refused["reason"].endswith("needs logprobs, which the engine does not return with tools")
        assert (await served.chat("best_of_n@2")).json()["apportion"]["strategy"] == "best_of_n@2"


async def test_the_probes_calls_are_nobodys_request() -> None:
    """They are in no metric, and no budget or key pays for them."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        assert engine.trials
        assert {request.headers["x-request-id"] for request in engine.trials} == {REQUEST_ID}
        page = (await served.client.get("/metrics")).text
        calls = [line for line in page.splitlines() if line.startswith("apportion_engine_requests_total{")]
        assert all(line.endswith(" 0.0") for line in calls), calls


# --- the real llama.cpp


@pytest.mark.engine
async def test_what_the_real_llama_cpp_can_do_is_found_out(gateway: Live) -> None:
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        body = (await client.get(f"{gateway.url}/ready")).json()
    assert body["engine"]["name"] == "llama.cpp"
    found: Mapping[str, Mapping[str, Any]] = body["engine"]["capabilities"]
    told = {"max_n": 8, "slots": 8, "context": 2048, "metrics": True}
    seen = {
        "continuation": True, "logprobs": True, "top_logprobs": 20, "logprobs_with_tools": False,
        "structured_output": True, "names_stop": True, "tokenize": True,
    }  # fmt: skip
    assert {name: found[name] for name in told} == {
        name: {"value": value, "known_from": "told"} for name, value in told.items()
    }
    assert {name: found[name] for name in seen} == {
        name: {"value": value, "known_from": "seen"} for name, value in seen.items()
    }
    assert body["off"] == []


@pytest.mark.engine
async def test_the_real_llama_cpp_gets_no_call_that_it_would_refuse_for_its_logprobs(gateway: Live) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Say hello."}], "tools": TOOLS, "max_tokens": 8,
        "apportion": {"strategy": "best_of_n@2"},
    }  # fmt: skip
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        own = await client.post(
            f"{gateway.engine_url}/v1/chat/completions",
            json={**asked, "stream": True, "logprobs": True, "top_logprobs": 1},
        )
        assert own.status_code == 400, "it takes logprobs with tools by now: the reason for all this is gone"
        response = await client.post(f"{gateway.api}/chat/completions", json=asked)
    assert response.status_code == 200
    assert response.json()["apportion"]["strategy"] == "single"


@pytest.mark.parametrize(("has", "sent"), [(True, [-5, None]), (False, [None, None])])
async def test_a_profiles_priority_goes_to_engines_that_have_priorities(has: bool, sent: list[int | None]) -> None:
    """Others refuse the field, or a value in it."""
    profiles = {"urgent": {"priority": -5}, "usual": {}}
    said = {"capabilities": {"priority": has}}
    async with running(VLLM) as engine, serving(engine.url, engine=said, profiles=profiles) as served:
        for profile in profiles:
            assert (await served.chat("single", apportion={"profile": profile})).status_code == 200
        assert [request.body.get("priority") for request in engine.requests] == sent
