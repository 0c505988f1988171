"""How a profile takes in what is found out, and reading what any server may answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.backends.inquiry import identified
from server.backends.profile import CAPABILITIES, LLAMA_CPP, OTHER, VLLM, EngineProfile
from server.backends.trials import limit_in

pytestmark = pytest.mark.anyio


def test_every_capability_is_a_field_and_assumed_at_first() -> None:
    for profile in (VLLM, LLAMA_CPP, OTHER):
        for name in CAPABILITIES:
            assert isinstance(getattr(profile, name), bool | int | None)
            assert profile.known(name) == "assumed"


def test_what_was_not_found_out_stays_and_what_the_operator_says_holds() -> None:
    profile = VLLM.learned("told", {"context": 2048, "slots": None})
    assert (profile.context, profile.known("context")) == (2048, "told")
    assert (profile.slots, profile.known("slots")) == (None, "assumed")
    said = profile.learned("configured", {"context": 1000, "logprobs": False})
    seen = said.learned("seen", {"context": 7, "logprobs": True, "structured_output": True})
    assert (seen.context, seen.logprobs, seen.known("logprobs")) == (1000, False, "configured")
    assert seen.known("structured_output") == "seen"


def test_learning_nothing_new_changes_nothing() -> None:
    """So that a request's look at its logprobs costs next to nothing."""
    profile = VLLM.learned("seen", {"logprobs": True})
    assert profile.learned("seen", {"logprobs": True}) is profile


def test_an_engine_is_the_same_whenever_it_was_asked() -> None:
    """llama.cpp writes the present time into its list of models."""
    one = LLAMA_CPP.learned("told", {"cards": {"m": {"created": 1}}})
    assert one.same_engine(LLAMA_CPP.learned("told", {"cards": {"m": {"created": 2}}}))
    assert not one.same_engine(one.learned("told", {"slots": 4}))


def test_the_line_of_the_log_sorts_by_how_it_is_known() -> None:
    line = str(VLLM.learned("told", {"context": 2048, "version": "0.33.0"}).learned("seen", {"logprobs": False}))
    assert line.startswith("vllm 0.33.0; told: context 2048; seen: no logprobs; assumed: max_n 64, slots unknown, ")


@pytest.mark.parametrize(
    ("message", "asked", "limit"),
    [  # as they were sent: llama.cpp; vLLM
        ("Field 'n': Value must be between 1 <= value <= 4, but got 16", 16, 4),
        ("n must be at most 8, got 64. To increase this limit, set the VLLM_MAX_N_SEQUENCES variable.", 64, 8),
        ("Requested sample logprobs of 20, which is greater than max allowed: 3 (parameter=logprobs, value=20)", 20, 3),
        ("List should have at most 4 items after validation, not 16", 16, 4),
        ("Requested sample logprobs of 20, which is greater than max allowed: 0", 20, None),
        ("no", 16, None),
        ("9" * 5000, 16, None),
    ],
)
def test_a_limit_is_read_from_a_refusal(message: str, asked: int, limit: int | None) -> None:
    assert limit_in(message, asked=asked) == limit


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "data", "id", "owned_by", "max_model_len", "default_generation_settings", "n_ctx", "total_slots", "paths",
            "version", "build_info", "vllm_config", "scheduler_config", "max_num_seqs", "policy", "other",
        ]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(models=JSON, page=JSON, metrics=st.binary(max_size=80), owner=st.sampled_from(["vllm", "llamacpp", "x"]))
async def test_no_answer_of_a_server_breaks_the_inquiry(models: Any, page: Any, metrics: bytes, owner: str) -> None:
    """Either what answers is no engine, or its profile is one that can be calculated with."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            body = models if owner == "x" else {"data": [{"id": "m", "owned_by": owner, "max_model_len": models}]}
            return httpx.Response(200, content=json.dumps(body))
        if request.url.path == "/metrics":
            return httpx.Response(200, content=metrics)
        return httpx.Response(200, content=json.dumps(page))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://engine") as client:
        try:
            profile = await identified(client, seconds=30)
        except ValueError:
            return
    assert isinstance(profile, EngineProfile)
    assert profile.max_n >= 1
    for value in (profile.context, profile.slots):
        assert value is None or (isinstance(value, int) and value > 0)
