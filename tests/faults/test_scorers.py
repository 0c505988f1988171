"""Configured scorers over real sockets, through the whole gateway.

The servers are scripted: they answer in the schemas of vLLM's `/pooling` and `/classify` and check what they are asked,
but nothing here is a real reward model, and nothing tells how good one is. The user's own functions are real processes.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from server.app import create_app
from server.config import Config
from server.gateway import Gateway
from server.scorers.function import Function
from strategies.types import Candidate
from tests.fake_engine import (
    VLLM,
    Exchange,
    FakeEngine,
    Reply,
    Request,
    drops,
    endless,
    hangs,
    running,
    script_of,
    until,
    within,
    words,
)
from tests.fakes import ask

pytestmark = pytest.mark.anyio

NO_ALGEBRA = {"answers": {"maths": "never"}}  # its process takes longer to start than most tests here
# two of three say 8, so that a scorer which prefers 7 is seen to have decided
THREE = script_of(words("First \\boxed{8}"), words("Second \\boxed{7}"), words("Third \\boxed{8}"))


class ScorerServer(FakeEngine):
    """Answers every POST by its script, which returns JSON, an act, or bytes that are not JSON."""

    def __init__(self, answer: Callable[[Request], Any], *, status: int = 200) -> None:
        super().__init__()
        self._answer = answer
        self.status = status

    async def answer(self, exchange: Exchange) -> None:
        self.requests.append(exchange.request)
        answer = self._answer(exchange.request)
        if callable(answer):
            await answer(exchange)
            return
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await exchange.respond(self.status, body, "application/json")


@asynccontextmanager
async def scoring(answer: Callable[[Request], Any], *, status: int = 200) -> AsyncGenerator[ScorerServer, None]:
    server = ScorerServer(answer, status=status)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Asked:
    """A gateway with its lifespan running, and what it answers."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.client = client

    async def chat(self, strategy: str, **own: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions",
            json={
                "messages": [{"role": "user", "content": "How much is 3 + 4?"}],
                "apportion": {"strategy": strategy, "include": ["candidates"], **own},
            },
        )

    async def answer(self, strategy: str, **own: Any) -> tuple[str, str | None]:
        """The text, and the note."""
        response = await within(self.chat(strategy, **own))
        assert response.status_code == 200, response.text
        body = response.json()
        return body["choices"][0]["message"]["content"], body["apportion"].get("note")


@asynccontextmanager
async def serving(engine: FakeEngine, *, name: str = "mine", **scorer: Any) -> AsyncGenerator[Asked, None]:
    """With one configured scorer."""
    config = Config.model_validate({**NO_ALGEBRA, "engine": {"url": engine.url}, "scorers": {name: scorer}})
    app = create_app(config)
    async with app.router.lifespan_context(app):
        gateway = cast("Gateway", app.state.gateway)
        await until(lambda: gateway.ready, "the probe of the engine")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            yield Asked(gateway, client)


# --- reward models


def prm(request: Request) -> Any:
    """Two probabilities a step, bad and good, like vLLM with a step pooler: the answers with a 7 get better."""
    solution = request.body["messages"][-1]
    assert (request.path, request.body["task"], solution["role"]) == ("/pooling", "token_classify", "assistant")
    steps = solution["content"].split("<extra_0>")
    assert steps.pop() == ""
    good = [0.9 if "7" in step else 0.4 for step in steps]
    return {
        "id": "pool-1", "object": "list", "created": 1, "model": "prm", "usage": {"prompt_tokens": 9},
        "data": [{"index": 0, "object": "pooling", "data": [[1 - p, p] for p in good]}],
    }  # fmt: skip


def orm(request: Request) -> Any:
    assert request.path == "/classify"
    good = 0.9 if "7" in request.body["messages"][-1]["content"] else 0.2
    return {
        "id": "classify-1", "object": "list", "created": 1, "model": "orm", "usage": {"prompt_tokens": 9},
        "data": [{"index": 0, "label": "LABEL_1", "probs": [1 - good, good], "num_classes": 2}],
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "answer"), [("process_reward", prm), ("outcome_reward", orm)])
async def test_a_reward_model_decides(kind: str, answer: Callable[[Request], Any]) -> None:
    async with running(script=THREE) as engine, scoring(answer) as server:
        settings = {"kind": kind, "url": f"{server.url}/v1", "model": "reward", "api_key": "sk-reward"}
        async with serving(engine, **settings) as asked:
            assert await asked.answer("best_of_n@3:mine") == ("Second \\boxed{7}", None)
        assert [request.body["model"] for request in server.requests] == ["reward"] * 3
        assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-reward"}
        assert server.requests[0].body["messages"][0] == {"role": "user", "content": "How much is 3 + 4?"}


async def test_scores_are_shown_with_the_candidates() -> None:
    async with running(script=THREE) as engine, scoring(orm) as server:
        async with serving(engine, kind="outcome_reward", url=server.url) as asked:
            body = (await asked.chat("best_of_n@3:mine")).json()
        assert [each["score"] for each in body["apportion"]["candidates"]["list"]] == [0.2, 0.9, 0.2]
        assert body["apportion"]["actual"]["scoring_tokens"] == 0


@pytest.mark.parametrize(
    ("aggregation", "score"), [("last", 0.5), ("min", 0.2), ("product", 0.08), ("mean", pytest.approx(0.5))]
)
async def test_steps_end_at_blank_lines_and_their_scores_become_one(aggregation: str, score: Any) -> None:
    """A candidate that writes the step mark itself gains no step by it."""

    def answer(request: Request) -> Any:
        solution = request.body["messages"][-1]["content"]
        assert solution in [f"Step 1<+>Step 2<+>So \\boxed{{{number}}}<+>" for number in (7, 8)]
        return {"data": [{"data": [[0.2, 0.8], [0.8, 0.2], [0.5, 0.5]]}]}

    script = script_of(*[words(f"Step 1<+>\n\n\nStep 2\n \nSo \\boxed{{{number}}}") for number in (7, 8)])
    async with running(script=script) as engine, scoring(answer) as server:
        settings = {"kind": "process_reward", "url": server.url, "aggregation": aggregation, "step_mark": "<+>"}
        async with serving(engine, **settings) as asked:
            body = (await asked.chat("best_of_n@2:mine")).json()
        assert body["apportion"]["candidates"]["list"][0]["score"] == pytest.approx(score)


@pytest.mark.parametrize("mark", ["<+>", " <+>", "<- _>"])
async def test_the_step_mark_can_not_be_written_by_nesting_it_or_by_the_client(mark: str) -> None:
    """What is left when a mark is taken out of another one would be a mark again."""
    nested = mark[:2] + mark + mark[2:]

    def answer(request: Request) -> Any:
        asked, solution = (message["content"] for message in request.body["messages"])
        assert [part["type"] for part in asked] == ["text", "image_url"]
        assert mark not in asked[0]["text"]
        assert asked[0]["text"].startswith("How much")
        assert (solution.count(mark), solution.endswith(mark)) == (2, True)
        return {"data": [{"data": [0.5, 0.5]}]}

    script = script_of(*[words(f"One{nested}step\n\nSo{mark}{nested} \\boxed{{{number}}}") for number in (7, 8)])
    async with running(script=script) as engine, scoring(answer) as server:
        settings = {"kind": "process_reward", "url": server.url, "step_mark": mark}
        async with serving(engine, **settings) as asked:
            content = [
                {"type": "text", "text": f"How much{nested} is it?{mark}"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ]
            response = await asked.client.post(
                "/v1/chat/completions",
                json={
                    "messages": [{"role": "user", "content": content}],
                    "apportion": {"strategy": "best_of_n@2:mine"},
                },
            )
        assert response.json()["apportion"].get("note") is None
        assert len(server.requests) == 2


async def test_scores_in_plain_numbers_are_understood_too() -> None:
    async with (
        running(script=THREE) as engine,
        scoring(lambda request: {"data": [{"data": [0.5]}]}) as server,
        serving(engine, kind="process_reward", url=server.url) as asked,
    ):
        assert (await asked.answer("best_of_n@3:mine"))[1] is None


async def test_a_class_that_the_model_does_not_have_is_named() -> None:
    async with (
        running(script=THREE) as engine,
        scoring(orm) as server,
        serving(engine, kind="outcome_reward", url=server.url, good_class=2) as asked,
    ):
        assert "its model has 2 classes, and class 2 was configured" in str((await asked.answer("best_of_n@3:mine"))[1])


async def test_a_reward_model_steers_a_beam_search() -> None:
    """One answer a round, told apart by what the model makes of it."""
    async with (
        running(script=THREE) as engine,
        scoring(prm) as server,
        serving(engine, kind="process_reward", url=server.url) as asked,
    ):
        assert await asked.answer("beam_search@1x3:mine") == ("Second \\boxed{7}", None)


# --- an endpoint of one's own


def right(request: Request) -> Any:
    assert request.body["messages"] == [{"role": "user", "content": "How much is 3 + 4?"}]
    return {"scores": [float("7" in each["text"]) for each in request.body["candidates"]]}


@pytest.mark.parametrize("together", [False, True])
async def test_an_endpoint_decides_one_by_one_or_over_all(together: bool) -> None:
    async with running(script=THREE) as engine, scoring(right) as server:
        async with serving(engine, kind="http", url=f"{server.url}/score", together=together) as asked:
            assert await asked.answer("best_of_n@3:mine") == ("Second \\boxed{7}", None)
        assert {request.path for request in server.requests} == {"/score"}
        assert sorted(len(request.body["candidates"]) for request in server.requests) == ([3] if together else [1] * 3)


@pytest.mark.parametrize("strategy", ["best_of_n@3:mine", "best_of_n@3:mine:weighted", "best_of_n@3:mine:borda"])
@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        ({"error": "no"}, 500, "its server answered 500"),
        ({"error": "no"}, 503, "its server answered 503"),
        (b"{nonsense", 200, "its server's answer is not JSON"),
        ([1, 2], 200, 'it answered something other than {"scores": [...]}'),
        ({"scores": [0.1, 0.2]}, 200, "it gave 2 scores for 1 candidates"),
        ({"scores": ["high"]}, 200, "it gave a score that is no number"),
        ({"scores": [True]}, 200, "it gave a score that is no number"),
        (drops, 200, "its server does not answer"),
    ],
    ids=str,
)
async def test_whatever_goes_wrong_the_vote_decides_and_says_so(
    strategy: str, answer: Any, status: int, says: str
) -> None:
    async with running(script=THREE) as engine, scoring(lambda request: answer, status=status) as server:
        async with serving(engine, kind="http", url=server.url) as asked:
            text, note = await asked.answer(strategy)
        assert text.endswith("\\boxed{8}")
        assert note is not None
        assert note.startswith("the scorer mine failed: ")
        assert says in note
        assert note.endswith("so the majority vote decided")


@pytest.mark.parametrize("kind", ["process_reward", "outcome_reward"])
@pytest.mark.parametrize(
    "answer", [{}, {"data": []}, {"data": [{"data": "x", "probs": "x"}]}, {"data": 3}, []], ids=str
)
async def test_an_answer_of_another_shape_is_a_failure(kind: str, answer: Any) -> None:
    async with running(script=THREE) as engine, scoring(lambda request: answer) as server:
        async with serving(engine, kind=kind, url=server.url) as asked:
            text, note = await asked.answer("best_of_n@3:mine")
        assert text.endswith("\\boxed{8}")
        assert "has not the shape of" in str(note)


async def test_a_score_for_every_token_is_not_taken_for_a_score_of_every_step() -> None:
    answer = {"data": [{"data": [[0.5, 0.5]] * 7}]}
    async with (
        running(script=THREE) as engine,
        scoring(lambda request: answer) as server,
        serving(engine, kind="process_reward", url=server.url) as asked,
    ):
        assert "it gave 7 scores for 1 steps" in str((await asked.answer("best_of_n@3:mine"))[1])


async def test_a_server_that_is_busy_for_a_moment_is_asked_again() -> None:
    async with running(script=THREE) as engine:
        left = [503, 429]

        def answer(request: Request) -> Any:
            server.status = left.pop() if left else 200
            return right(request)

        async with scoring(answer) as server, serving(engine, kind="http", url=server.url, concurrency=1) as asked:
            assert await asked.answer("best_of_n@3:mine") == ("Second \\boxed{7}", None)
            assert len(server.requests) == 5


async def test_calls_at_once_are_bounded() -> None:
    release, most = asyncio.Event(), 0

    async def act(exchange: Exchange) -> None:
        nonlocal most
        most = max(most, sum(not r.answered for r in server.requests))
        if len(server.requests) == 2:
            release.set()
        await release.wait()
        await exchange.respond(200, b'{"scores": [0.5]}', "application/json")

    async with (
        running(script=THREE) as engine,
        scoring(lambda request: act) as server,
        serving(engine, kind="http", url=server.url, concurrency=2) as asked,
    ):
        await asked.answer("best_of_n@6:mine")
    assert (most, len(server.requests)) == (2, 6)


async def test_a_server_that_hangs_costs_its_time_limit_and_no_more() -> None:
    async with (
        running(script=THREE) as engine,
        scoring(lambda request: hangs) as server,
        serving(engine, kind="http", url=server.url, timeout_seconds=0.1) as asked,
    ):
        text, note = await asked.answer("best_of_n@3:mine")
        assert text.endswith("\\boxed{8}")
        assert note == "the scorer mine gave no score within 0.1 s, so the majority vote decided"
        await until(lambda: all(request.gone.is_set() for request in server.requests))


async def test_a_server_that_hangs_never_costs_more_than_the_requests_deadline() -> None:
    async with (
        running(script=THREE) as engine,
        scoring(lambda request: hangs) as server,
        serving(engine, kind="http", url=server.url, timeout_seconds=3600) as asked,
    ):
        response = await within(asked.chat("best_of_n@3:mine", deadline_ms=400))
        own = response.json()["apportion"]
        assert (own["cut_short"], own["actual"]["seconds"] < 5) == ("deadline", True)
        assert own["note"] == "no score had come yet, so the majority vote decided"


async def test_a_client_that_leaves_ends_its_scores() -> None:
    async with (
        running(script=THREE) as engine,
        scoring(lambda request: hangs) as server,
        serving(engine, kind="http", url=server.url) as asked,
    ):
        asking = asyncio.create_task(asked.chat("best_of_n@3:mine"))
        await until(lambda: len(server.requests) == 3, "the scores being asked for")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: all(request.gone.is_set() for request in server.requests), "the scores being ended")
        await until(lambda: asked.gateway.in_flight == 0)


# --- a function of one's own


FUNCTION = """
import os, sys, time

def score(messages, candidates):
    print("noise on standard output")
    return [float("7" in candidate["text"]) for candidate in candidates]

def none(messages, candidates):
    return [None for _ in candidates]

def raises(messages, candidates):
    raise KeyError("a prompt that must not be told")

def never(messages, candidates):
    open(os.environ["SCORER_PIDS"], "a").write(f"{os.getpid()}\\n")
    while True:
        pass

def dies(messages, candidates):
    os._exit(3)

def imports(messages, candidates):
    return [float(not any("server" in path or "scorers" in path for path in sys.path) and "server" not in sys.modules)]

pid = lambda messages, candidates: [float(os.getpid()) for _ in candidates]
"""


@pytest.fixture
def verify(tmp_path: Path) -> str:
    file = tmp_path / "verify.py"
    file.write_text(FUNCTION)
    return str(file)


@pytest.mark.parametrize("together", [False, True])
async def test_a_function_decides(verify: str, together: bool) -> None:
    async with (
        running(script=THREE) as engine,
        serving(engine, kind="python", function=f"{verify}:score", together=together) as asked,
    ):
        assert await asked.answer("best_of_n@3:mine") == ("Second \\boxed{7}", None)


async def test_the_first_that_the_verifier_calls_right_ends_the_drawing(verify: str) -> None:
    """And what the engine still writes is cut there."""
    never = asyncio.Event()
    script = script_of(words("First \\boxed{8}"), words("Second \\boxed{7}"), *[endless("Once", after=never)] * 6)
    async with (
        running(script=script) as engine,
        serving(engine, name="verifier", kind="python", function=f"{verify}:score") as asked,
    ):
        body = (await within(asked.chat("best_of_n@8:verifier"))).json()
        assert body["choices"][0]["message"]["content"] == "Second \\boxed{7}"
        assert body["apportion"]["cut_short"] == "verified"
        assert body["apportion"]["actual"]["cancelled_tokens"] == sum(
            each["finish_reason"] is None for each in body["apportion"]["candidates"]["list"]
        )
        await until(lambda: engine.busy == 0, "the engine's work to end")
        metrics = (await asked.client.get("/metrics")).text
        assert 'apportion_early_stops_total{reason="verified",strategy="best_of_n"} 1.0' in metrics


async def test_processes_are_kept_and_no_more_than_configured(verify: str) -> None:
    async with running(script=THREE) as engine:
        async with serving(engine, kind="python", function=f"{verify}:pid", concurrency=2) as asked:
            seen: set[float] = set()
            for _ in range(3):
                body = (await within(asked.chat("best_of_n@6:mine"))).json()
                seen |= {each["score"] for each in body["apportion"]["candidates"]["list"]}
        assert 1 <= len(seen) <= 2
    for pid in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


async def test_a_function_runs_without_any_of_the_gateway(verify: str) -> None:
    async with running(script=THREE) as engine, serving(engine, kind="python", function=f"{verify}:imports") as asked:
        body = (await within(asked.chat("best_of_n@2:mine"))).json()
        assert body["apportion"]["candidates"]["list"][0]["score"] == 1.0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "its function failed: KeyError in line 12"),
        ("dies", "its process ended"),
        ("missing", "its file can't be loaded: AttributeError"),
    ],
)
async def test_a_function_that_fails_leaves_the_vote_and_works_again_later(verify: str, name: str, says: str) -> None:
    async with running(script=THREE) as engine, serving(engine, kind="python", function=f"{verify}:{name}") as asked:
        for _ in range(2):
            text, note = await asked.answer("best_of_n@3:mine")
            assert text.endswith("\\boxed{8}")
            assert note == f"the scorer mine failed: {says}, so the majority vote decided"


async def test_a_function_that_never_returns_is_killed(
    verify: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep a thread for ever."""
    pids = tmp_path / "pids"
    monkeypatch.setenv("SCORER_PIDS", str(pids))
    async with (
        running(script=THREE) as engine,
        serving(engine, kind="python", function=f"{verify}:never", timeout_seconds=1.5) as asked,
    ):
        text, note = await asked.answer("best_of_n@3:mine")
        assert text.endswith("\\boxed{8}")
        assert "gave no score within 1.5 s" in str(note)
        for pid in pids.read_text().split():
            await until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "its end")


# --- a judge


def judged(request: Request) -> Mapping[str, Any]:
    assert request.path == "/v1/chat/completions"
    return request.body


@pytest.mark.parametrize("compare", ["pointwise", "pairwise"])
async def test_the_engine_itself_can_be_the_judge_and_its_words_are_paid_for(compare: str) -> None:
    def script(request: Request) -> Any:
        prompt = request.body["messages"][0]["content"]
        if "examiner" not in prompt:
            return THREE(request)
        if compare == "pairwise":
            first = prompt.partition("<answer_A>")[2].partition("</")[0]
            return [words(f"Hm. Better: {'A' if '7' in first else 'B'}")]
        return [words(f"Score: {9 if '{7}' in prompt else 2}")]

    async with running(script=script) as engine:
        async with serving(engine, kind="judge", compare=compare, max_tokens=20) as asked:
            body = (await within(asked.chat("best_of_n@3:mine"))).json()
        assert body["choices"][0]["message"]["content"] == "Second \\boxed{7}"
        verdicts = [r for r in engine.requests if "examiner" in r.body["messages"][0]["content"]]
        assert len(verdicts) == (3 if compare == "pointwise" else 2)
        assert {(r.body["temperature"], r.body["max_tokens"]) for r in verdicts} == {(0, 20)}
        assert body["apportion"]["actual"]["scoring_tokens"] == sum(r.tokens for r in verdicts) > 0
        assert body["usage"]["completion_tokens"] == engine.tokens
        assert body["usage"]["prompt_tokens"] == 7 * len(engine.requests)


async def test_a_judge_elsewhere_has_its_own_model_and_key() -> None:
    async with running(script=THREE) as engine:
        other = running(script=script_of(words("Score: 5")), api_key="sk-judge", models=("big",))
        async with other as elsewhere:
            settings = {"kind": "judge", "url": elsewhere.url, "model": "big", "api_key": "sk-judge"}
            async with serving(engine, **settings) as asked:
                assert (await asked.answer("best_of_n@3:mine:weighted"))[1] is None
            assert [request.body["model"] for request in elsewhere.requests] == ["big"] * 3
            assert len(engine.requests) == 1


async def test_a_judge_stays_within_the_budget() -> None:
    """What candidates and verdicts may take together is never more than the budget."""
    talk = " ".join(["w"] * 100)
    async with running(script=script_of(words(f"{talk} \\boxed{{7}}"))) as engine:
        async with serving(engine, kind="judge", max_tokens=30) as asked:
            body = (await within(asked.chat("best_of_n@4:mine", max_total_tokens=300))).json()
        assert sum(int(r.body.get("n") or 1) * r.body["max_tokens"] for r in engine.requests) <= 300
        assert body["usage"]["completion_tokens"] == engine.tokens <= 300


# --- names, and engines without logprobs


async def test_an_unknown_scorer_is_a_400_that_names_the_known_ones() -> None:
    async with running() as engine, serving(engine, kind="judge") as asked:
        response = await asked.chat("best_of_n@3:oracle")
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "apportion.strategy")
        assert error["message"] == (
            "unknown scorer 'oracle': known are mean_logprob, self_certainty, lowest_group_confidence, "
            "tail_confidence, mine"
        )


async def test_without_logprobs_strategies_that_need_them_are_not_offered_and_the_table_says_why() -> None:
    async with running() as engine:
        config = Config.model_validate(
            {**NO_ALGEBRA, "engine": {"url": engine.url, "capabilities": {"logprobs": False}}}
        )
        app = create_app(config)
        async with app.router.lifespan_context(app):
            gateway = cast("Gateway", app.state.gateway)
            await until(lambda: gateway.ready)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
                asked = Asked(gateway, client)
                body = (await asked.chat("auto", include=["predictions"])).json()
                rows = {row["strategy"]: row["reason"] for row in body["apportion"]["predictions"]}
                assert rows["best_of_n@8"] == "mean_logprob needs logprobs, which the engine does not return"
                assert rows["majority_vote@8"] is None
                named = (await asked.chat("best_of_n@8:self_certainty")).json()["apportion"]
                assert named["strategy"] == "single"
                assert "self_certainty needs logprobs" in named["reason"]


@pytest.mark.parametrize(("logprobs", "strategy"), [(None, "single"), (True, "best_of_n@3")])
async def test_an_engine_that_was_asked_for_logprobs_and_sent_none_is_not_asked_again(
    logprobs: bool | None, strategy: str
) -> None:
    """Unless the operator says that it sends them always."""

    def mute(request: Request) -> Sequence[Reply]:
        request.body.pop("logprobs", None)
        return [words("\\boxed{8}")]

    async with running(script=mute) as engine:
        config = Config.model_validate({"engine": {"url": engine.url, "capabilities": {"logprobs": logprobs}}})
        app = create_app(config)
        async with app.router.lifespan_context(app):
            gateway = cast("Gateway", app.state.gateway)
            await until(lambda: gateway.ready)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
                asked = Asked(gateway, client)
                first = (await asked.chat("best_of_n@3")).json()["apportion"]
                assert first["strategy"] == "best_of_n@3"
                assert first["note"] == "the engine sent no logprobs, so the majority vote decided"
                second = (await asked.chat("best_of_n@3")).json()["apportion"]
                assert second["strategy"] == strategy
                assert ("which the engine does not return" in second["reason"]) == (strategy == "single")


async def test_a_scorers_calls_are_what_its_predicted_seconds_follow() -> None:
    async def predicted(asked: Asked) -> Mapping[str, Any]:
        body = (await asked.chat("best_of_n@3:mine", include=["predictions"])).json()
        (row,) = [row for row in body["apportion"]["predictions"] if row["strategy"] == "best_of_n@3:mine"]
        return row

    async with (
        running(script=THREE) as engine,
        scoring(right) as server,
        serving(engine, kind="http", url=server.url, timeout_seconds=3600) as asked,
    ):
        gateway_cost = asked.gateway.pipeline.scorers.costs["mine"]
        assert (await predicted(asked))["seconds"] > gateway_cost.seconds == pytest.approx(120)
        assert asked.gateway.pipeline.scorers.costs["mine"].seconds < 60


async def test_a_judge_that_leaves_its_candidates_no_room_is_not_said_to_fit() -> None:
    async with running(script=THREE) as engine, serving(engine, kind="judge") as asked:

        async def chat(**own: Any) -> httpx.Response:
            return await asked.client.post(
                "/v1/chat/completions",
                json={
                    "messages": [{"role": "user", "content": "How much is 3 + 4?"}],
                    "max_tokens": 100,
                    "apportion": {"strategy": "best_of_n@8:mine", **own},
                },
            )

        refused = await chat(max_total_tokens=800, strict=True)
        assert refused.status_code == 400
        assert "max_total_tokens 4096" in refused.json()["error"]["message"]  # twice eight verdicts of 256
        assert (await chat(max_total_tokens=800)).json()["apportion"]["budget"]["fits"] is False


async def test_a_judge_in_a_beam_search_spends_half_of_the_budget_at_most_and_says_so() -> None:
    def script(request: Request) -> Sequence[Reply]:
        if "strict examiner" in str(request.body["messages"][0]["content"]):
            return [words("Hm. " * 30 + "Score: 5")]
        if str(request.body["messages"][-1]["content"]).count("Step") == 6:
            return [words("So \\boxed{7}") for _ in range(int(request.body.get("n") or 1))]
        return [words(f"Step {len(engine.requests)} {i}\n\n") for i in range(int(request.body.get("n") or 1))]

    async with running(VLLM, script) as engine, serving(engine, kind="judge") as asked:
        body = (await within(asked.chat("beam_search@2x2:mine", max_total_tokens=1000))).json()
        assert 400 < body["apportion"]["actual"]["scoring_tokens"] <= 500
        assert "its half of the token budget is used up" in body["apportion"]["note"]


async def test_a_function_of_the_users_sees_no_key_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it started itself ends with it, when its time is over."""
    monkeypatch.setenv("APPORTION_ENGINE__API_KEY", "secret")
    mark = tmp_path / "pid"
    verifier = tmp_path / "verify.py"
    verifier.write_text(
        "import os, subprocess\n"
        "def score(messages, candidates):\n"
        "    assert not [name for name in os.environ if name.startswith('APPORTION_')]\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(mark)!r}, 'w').write(str(child.pid))\n"
        "    child.wait()\n"
    )
    function = Function(f"{verifier}:score", together=False, processes=1)
    scoring = asyncio.create_task(function.score(ask(), [Candidate(index=0, text="7", tokens=1, finish_reason="stop")]))
    await until(lambda: scoring.done() or (mark.exists() and bool(mark.read_text())), "the start of the child")
    assert not scoring.done(), scoring.result()
    scoring.cancel()
    await asyncio.gather(scoring, return_exceptions=True)
    await until(lambda: _ended(mark.read_text()), "the end of the child")
    await function.aclose()


def _ended(pid: str) -> bool:
    """Gone, or a zombie that nobody has read the end of."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"
