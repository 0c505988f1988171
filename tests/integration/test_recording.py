"""Recording a user's questions: budgets, disagreement, pace, verifiers and interruptions, on a scripted engine."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.pools import Pool, read_pools
from router.questions import Question
from server.backends.openai import EngineSettings, OpenAIEngine
from server.calibration.asking import Recorder
from server.calibration.collect import record
from server.calibration.journal import partial_of, read_journal
from server.calibration.pace import Paced
from server.calibration.plan import Estimate, Plan, Progress
from server.calibration.verifier import Verifier
from server.calibration.workers import Lost, Workers
from strategies.types import EngineError
from tests.fake_engine import VLLM, FakeEngine, refuses, running, streams, until, within, words
from tests.fakes import menu_of
from tests.recordings import COST, Beside, Script, asked, calibrating, question, sizes, untimed

pytestmark = pytest.mark.anyio

PLAN = Plan(samples=8, first=2, model="tiny")


def settings_for(server: FakeEngine) -> EngineSettings:
    return EngineSettings(url=server.url, max_n=4, retries=0)


@asynccontextmanager
async def client_of(server: FakeEngine, recorder: Recorder) -> AsyncGenerator[OpenAIEngine, None]:
    client = OpenAIEngine(settings_for(server), observe=recorder.observe)
    await client.probe()
    try:
        yield client
    finally:
        await client.aclose()


async def recorded(
    server: FakeEngine, questions: Sequence[Question], plan: Plan, out: Path, **options: Any
) -> list[Pool]:
    """The pools as they are on disk afterwards."""
    recorder = Recorder()
    options.setdefault("progress", lambda progress: None)
    async with client_of(server, recorder) as client:
        await record(questions, plan, client, recorder, out, **options)
    return read_pools(out)


async def recorded_beside(
    server: FakeEngine, questions: Sequence[Question], plan: Plan, out: Path, *deaths: Sequence[int], **options: Any
) -> list[Pool]:
    """As `recorded`, from workers. deaths: of each worker, the numbers of the calls that it dies with."""
    remotes = [Beside(settings_for(server), plan, deaths=numbers) for numbers in deaths]
    workers = Workers(remotes, recorder := Recorder(), nullcontext())
    try:
        await workers.start()
        async with client_of(server, recorder) as client:
            await record(
                questions, plan, client, recorder, out, progress=lambda progress: None, asker=workers.ask, **options
            )
    finally:
        for remote in remotes:
            await remote.aclose()
    return read_pools(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "pools.parquet"


async def test_without_a_budget_every_question_gets_all_its_samples(out: Path) -> None:
    async with running(VLLM, Script(b=["7", "8"])) as server:
        pools = await recorded(server, [question("a"), question("b")], PLAN, out)
    assert sizes(pools) == {"a": 8, "b": 8}
    assert [sum(sample.correct for sample in pool.samples) for pool in pools] == [8.0, 4.0]
    assert {sample.tokens for pool in pools for sample in pool.samples} == {COST}


async def test_what_the_request_asks_for_reaches_the_engine(out: Path) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    odd = question("a", tools=(tool,), sampling={"response_format": {"type": "json_object"}}, verifier="agreement")
    async with running(VLLM, Script()) as server:
        await recorded(server, [odd], replace(PLAN, sampling={"temperature": 0.6}), out)
        body = server.requests[0].body
    assert body["tools"] == [tool]
    assert body["response_format"] == {"type": "json_object"}
    assert body["temperature"] == 0.6
    assert body["max_tokens"] == 10


async def test_an_engine_that_returns_no_logprobs_with_tools_is_not_asked_for_them(out: Path) -> None:
    """llama.cpp refuses such a call."""
    tool = {"type": "function", "function": {"name": "add"}}
    questions = [question("a", tools=(tool,), verifier="agreement"), question("b")]
    async with running(replace(VLLM, logprobs_with_tools=False), Script()) as server:
        pools = await recorded(server, questions, PLAN, out)
        asked = {bool(request.body.get("tools")): request.body.get("logprobs") for request in server.requests}
    assert sizes(pools) == {"a": 8, "b": 8}
    assert asked == {True: None, False: True}


async def test_more_samples_go_where_answers_disagree(out: Path) -> None:
    """Three agree with themselves, one does not: the tokens that the first samples leave go there first."""
    questions = [question(name) for name in "abcd"]
    plan = replace(PLAN, budget=(4 * 2 + 6) * COST + 5)
    async with running(VLLM, Script(c=["7", "8", "9"])) as server:
        pools = await recorded(server, questions, plan, out)
    assert sizes(pools) == {"a": 2, "b": 2, "c": 8, "d": 2}
    assert [pool.question.id for pool in pools] == ["a", "b", "c", "d"]


async def test_what_disagreement_leaves_goes_to_the_others(out: Path) -> None:
    async with running(VLLM, Script(c=["7", "8"])) as server:
        pools = await recorded(server, [question(n) for n in "abc"], replace(PLAN, budget=10_000), out)
    assert sizes(pools) == {"a": 8, "b": 8, "c": 8}


@pytest.mark.parametrize("budget", [1, 9, 10, 23, 60, 61, 117, 200, 333])
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_token_past_the_budget(budget: int, concurrency: int, out: Path) -> None:
    """By the engine's own count. No sample is cut to fit either, and no budget is left that a sample is sure to fit."""
    script = Script(a=["7", "8"], b=["7", "8", "9"], e=["1", "2"])
    questions = [question(name) for name in "abcdefgh"]
    plan = replace(PLAN, budget=budget, concurrency=concurrency)
    async with running(VLLM, script) as server:
        if budget < 10:
            with pytest.raises(ValueError, match="does not last for a single question"):
                await recorded(server, questions, plan, out)
            assert server.tokens == 0
            return
        pools = await recorded(server, questions, plan, out)
        spent = server.tokens
    assert min(budget - 9, 8 * 8 * COST) <= spent <= budget
    assert spent == COST * sum(sizes(pools).values())
    assert {sample.answer is not None for pool in pools for sample in pool.samples} == {True}


async def test_the_plan_tells_before_most_is_spent(out: Path) -> None:
    """From the samples of a few questions; nobody has to wait for the end to learn what the tokens buy."""
    plans: list[tuple[Estimate, int]] = []
    async with running(VLLM, Script()) as server:
        plan = replace(PLAN, budget=1000)
        await recorded(
            server, [question(str(i)) for i in range(40)], plan, out,
            planned=lambda bought: plans.append((bought, server.tokens)), sweep=100,
        )  # fmt: skip
        assert server.tokens <= 900
    ((bought, spent),) = plans
    assert spent == 8 * 2 * COST
    assert (bought.tokens, bought.opened, bought.samples) == (COST, 40, 180)
    assert "1,000 tokens buy about 180 samples" in str(bought)


async def test_an_interrupted_recording_goes_on_within_the_same_budget(out: Path) -> None:
    """Also what was lost in the middle of a call counts; nothing that was kept is asked again."""
    questions = [question(str(i)) for i in range(6)]
    plan = replace(PLAN, budget=170)
    stuck = asyncio.Event()
    replies = [words("The answer is 7", after=stuck), words("The answer is 7")]
    async with running(VLLM, Script()) as server:
        server.acts.extend([streams(), streams(), streams(*replies)])
        task = asyncio.create_task(recorded(server, questions, plan, out))
        request = await server.asked(3)
        await until(lambda: request.tokens >= 3 + COST)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await within(request.gone.wait())
        kept = read_journal(out)
        assert sizes(list(kept.values())) == dict.fromkeys(kept, 2)
        assert len(kept) == 2

        first = server.tokens
        pools = await recorded(server, questions, plan, out)
        again = Counter(asked(each) for each in server.requests[3:5])
    assert first < server.tokens <= 170
    assert not partial_of(out).exists()
    assert len(pools) == 6
    assert not set(again) & set(kept)
    assert sum(sizes(pools).values()) * COST <= 170 - (first - 4 * COST)


async def test_a_larger_budget_goes_on_with_what_a_smaller_one_bought(out: Path) -> None:
    questions = [question(str(i)) for i in range(6)]

    def stop(progress: Progress) -> None:
        if progress.samples == 6:
            raise KeyError

    async with running(VLLM, Script()) as server:
        with pytest.raises(KeyError):
            await recorded(server, questions, replace(PLAN, budget=100), out, progress=stop)
        pools = await recorded(server, questions, replace(PLAN, budget=300), out)
        assert server.tokens <= 300
    assert sum(sizes(pools).values()) * COST == server.tokens > 100


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plan: replace(plan, samples=9), "begun with model tiny, temperature 0.8, samples 8"),
        (lambda plan: replace(plan, model="other"), "go on with the same settings"),
        (lambda plan: replace(plan, runs=menu_of("beam_search@2x2")), "go on with the same settings"),
    ],
)
async def test_other_settings_do_not_go_on(change: Callable[[Plan], Plan], complaint: str, out: Path) -> None:
    async with running(VLLM, Script()) as server:
        await _interrupted(server, [question("a"), question("b")], out)
        with pytest.raises(ValueError, match=complaint):
            await recorded(server, [question("a"), question("b")], change(PLAN), out)


async def test_another_question_under_the_same_id_does_not_go_on(out: Path) -> None:
    async with running(VLLM, Script()) as server:
        await _interrupted(server, [question("a"), question("b")], out)
        with pytest.raises(ValueError, match="another question with the id 'a'"):
            await recorded(server, [question("a", reference="8"), question("b")], PLAN, out)


async def _interrupted(server: FakeEngine, questions: Sequence[Question], out: Path) -> None:
    """After the first question."""

    def stop(progress: Progress) -> None:
        if progress.samples == PLAN.samples:
            raise KeyError

    with pytest.raises(KeyError):
        await recorded(server, questions, PLAN, out, progress=stop)


async def test_questions_are_asked_beside_each_other(out: Path) -> None:
    """As many as were asked for, and not one more."""
    go = asyncio.Event()
    async with running(VLLM, lambda request: [words("The answer is 7", after=go)] * 2) as server:
        plan = replace(PLAN, samples=2, concurrency=3)
        task = asyncio.create_task(recorded(server, [question(str(i)) for i in range(5)], plan, out))
        await server.asked(3)
        assert server.busy == 3
        go.set()
        assert len(await within(task)) == 5
    assert len(server.requests) == 5


async def test_every_call_to_the_engine_waits_for_its_turn(out: Path) -> None:
    """Beam search's steps too."""
    turns = 0

    class Turns:
        async def __aenter__(self) -> None:
            nonlocal turns
            turns += 1

        async def __aexit__(self, *_: object) -> None: ...

    recorder = Recorder()
    plan = replace(PLAN, samples=4, runs=menu_of("beam_search@2x2"))
    async with running(VLLM, Script()) as server, client_of(server, recorder) as client:
        await record([question("a")], plan, Paced(client, Turns()), recorder, out, progress=lambda progress: None)
        assert turns == len(server.requests) > 1
    (pool,) = read_pools(out)
    assert [run.spec for run in pool.runs] == ["beam_search@2x2"]
    assert pool.runs[0].correct == 1.0


async def test_beam_searches_are_run_as_often_as_asked_and_go_on(out: Path) -> None:
    """All questions once before any a second time; what an interrupted recording has run is not run again."""
    plan = replace(PLAN, samples=4, runs=menu_of("beam_search@2x2"), runs_each=3)
    questions = [question("a"), question("b")]
    turns: list[str] = []

    async def act(exchange: Any) -> None:
        if exchange.request.body.get("stop"):  # a beam search's step: here the only one
            turns.append(asked(exchange.request))
        await (refuses(503) if len(turns) == 3 else streams())(exchange)

    async with running(VLLM, Script(), act=act) as server:
        with pytest.raises(EngineError):
            await recorded(server, questions, plan, out)
        assert [len(pool.runs) for pool in read_journal(out).values()] == [1, 1]
        pools = await recorded(server, questions, replace(plan, runs_each=2), out)
    assert turns == ["a", "b", "a", "a", "b"]
    assert [len(pool.runs) for pool in pools] == [2, 2]


async def test_a_question_that_the_engine_refuses_is_left_out(out: Path) -> None:
    """A prompt that is too long for it says nothing about the next one; an engine that is down does."""

    async def act(exchange: Any) -> None:
        await (refuses(400) if asked(exchange.request) == "b" else streams())(exchange)

    async with running(VLLM, Script(), act=act) as server:
        pools = await recorded(server, [question(name) for name in "abc"], PLAN, out)
    assert list(sizes(pools)) == ["a", "c"]
    assert sum(asked(request) == "b" for request in server.requests) == 1


@pytest.mark.parametrize("status", [400, 503])
async def test_an_engine_that_refuses_all_is_told(status: int, out: Path) -> None:
    async with running(VLLM, Script(), act=refuses(status)) as server:
        with pytest.raises(Exception, match=f"scripted {status}"):
            await recorded(server, [question("a"), question("b")], replace(PLAN, concurrency=2), out)
    assert not list(out.parent.glob("pools.parquet"))


async def test_without_a_reference_the_vote_over_all_samples_is_the_label(out: Path) -> None:
    async with running(VLLM, Script(a=["8", "7", "7", "7"])) as server:
        (pool,) = await recorded(
            server, [question("a", reference="", verifier="agreement")],
            replace(PLAN, runs=menu_of("beam_search@2x2")), out,
        )  # fmt: skip
    assert pool.label == "agreement"
    assert [sample.correct for sample in pool.samples] == [0.0, 1.0, 1.0, 1.0] * 2
    assert pool.runs[0].correct in (0.0, 1.0)


# --- from other processes

MIXED = {"a": ["7", "8"], "b": ["7", "8", "9"], "e": ["1", "2"]}
# with several at once the last tokens of a budget go to whoever comes first
PLANS = [replace(PLAN, concurrency=3, runs=menu_of("beam_search@2x2")), replace(PLAN, budget=200)]


@pytest.mark.parametrize("plan", PLANS, ids=["all", "budget"])
async def test_workers_record_the_same(plan: Plan, tmp_path: Path) -> None:
    """Questions, samples in their order, labels, and what it cost; only times are another."""
    pools: list[list[Pool]] = []
    spent: list[int] = []
    for ask in (recorded, recorded_beside):
        out = tmp_path / f"{ask.__name__}.parquet"
        async with running(VLLM, Script(**MIXED)) as server:
            workers = ((), ()) if ask is recorded_beside else ()
            pools.append(await ask(server, [question(name) for name in "abcdefgh"], plan, out, *workers))
            spent.append(server.tokens)
    assert untimed(pools[0]) == untimed(pools[1])
    assert spent[0] == spent[1]
    assert [len(pool.calls) for pool in pools[0]] == [len(pool.calls) for pool in pools[1]]


@pytest.mark.parametrize("budget", [61, 117, 200, 333])
async def test_no_token_past_the_budget_whoever_dies(budget: int, out: Path) -> None:
    """The engine had answered when they died, so those tokens were made for nothing and count all the same."""
    plan = replace(PLAN, budget=budget, concurrency=3)
    async with running(VLLM, Script(**MIXED)) as server:
        pools = await recorded_beside(server, [question(name) for name in "abcdefgh"], plan, out, [2, 5], [3])
        assert server.tokens <= budget
        assert server.tokens > COST * sum(sizes(pools).values())
    assert not partial_of(out).exists()


async def test_the_question_of_a_dead_worker_is_asked_again(out: Path) -> None:
    async with running(VLLM, Script()) as server:
        pools = await recorded_beside(server, [question(n) for n in "abc"], replace(PLAN, samples=4), out, [2])
        assert sizes(pools) == {"a": 4, "b": 4, "c": 4}
        assert [asked(request) for request in server.requests] == ["a", "b", "b", "c"]


async def test_a_question_that_workers_die_with_leaves_what_was_recorded(out: Path) -> None:
    async with running(VLLM, Script()) as server:
        with pytest.raises(Lost, match="3 workers died with question 'b'"):
            await recorded_beside(server, [question(n) for n in "abc"], replace(PLAN, samples=4), out, [2, 3, 4])
        assert list(read_journal(out)) == ["a"]
        assert sizes(await recorded(server, [question(n) for n in "abc"], replace(PLAN, samples=4), out))["b"] == 4


async def test_a_question_that_is_refused_to_a_worker_is_left_out(out: Path) -> None:
    async def act(exchange: Any) -> None:
        await (refuses(400) if asked(exchange.request) == "b" else streams())(exchange)

    async with running(VLLM, Script(), act=act) as server:
        assert list(sizes(await recorded_beside(server, [question(n) for n in "abc"], PLAN, out, ()))) == ["a", "c"]


# --- verifiers

Judging = Callable[[Verifier], Awaitable[list[Pool]]]

CHECKS = """
import time


def score(messages, candidates):
    return [1.0 if "7" in c["text"] and "How much" in messages[-1]["content"] else 0.25 for c in candidates]

def hangs_on_eight(messages, candidates):
    while "8" in candidates[0]["text"]:
        time.sleep(1)
    return [True]

def breaks(messages, candidates):
    raise RuntimeError(messages[0]["content"])

def marks(messages, candidates):
    return [9]

def nothing(messages, candidates):
    return [None]
"""


async def judged_by(written: str, out: Path, *, seconds: float = 30.0) -> tuple[Pool, int]:
    (out.parent / "check.py").write_text(CHECKS)
    verifier = Verifier(f"{out.parent}/{written}", seconds=seconds)
    try:
        async with running(VLLM, Script(a=["7", "8"])) as server:
            (pool,) = await recorded(
                server, [question("a", reference="", verifier="function")], replace(PLAN, samples=4), out,
                judge=verifier.judge,
            )  # fmt: skip
    finally:
        await verifier.aclose()
    return pool, verifier.late


async def test_the_users_function_judges_every_sample(out: Path) -> None:
    """The file alone names its function `score`; partial credit is kept."""
    pool, late = await judged_by("check.py", out)
    assert [sample.correct for sample in pool.samples] == [1.0, 0.25, 1.0, 0.25]
    assert (pool.label, late) == ("verifier", 0)


async def test_a_sample_that_the_verifier_is_not_done_with_counts_as_wrong(out: Path) -> None:
    pool, late = await judged_by("check.py:hangs_on_eight", out, seconds=1.5)
    assert [sample.correct for sample in pool.samples if "8" in sample.text] == [0.0, 0.0]
    assert late >= 2


async def test_no_opinion_is_not_right(out: Path) -> None:
    pool, _ = await judged_by("check.py:nothing", out)
    assert {sample.correct for sample in pool.samples} == {0.0}


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("check.py:breaks", r"the verifier can't judge: its function failed: RuntimeError in line 14$"),
        ("check.py:marks", "gave 9: how right an answer is goes from 0 to 1"),
        ("check.py:absent", "the verifier can't judge: its file can't be loaded"),
        ("other.py", "there is no verifier file"),
    ],
)
async def test_a_verifier_that_is_broken_ends_the_recording(written: str, complaint: str, out: Path) -> None:
    """Before tokens are spent on what nobody judges, and without a prompt in what is said."""
    with pytest.raises(ValueError, match=complaint):
        await judged_by(written, out)
    assert not list(out.parent.glob("pools.parquet"))


# --- the command


async def test_ctrl_c_leaves_what_the_same_command_goes_on_with(tmp_path: Path) -> None:
    go = asyncio.Event()
    async with running(VLLM, Script()) as server:
        server.acts.extend([streams(), streams(), streams(words("The answer is 7", after=go))])
        process = await calibrating(tmp_path, server, "--samples", "4")
        await server.asked(3)
        process.send_signal(signal.SIGINT)
        _, said = await within(process.communicate())
        assert process.returncode == 130
        assert b"interrupted: 2 questions with 8 samples are in" in said
        assert b"Traceback" not in said

        process = await calibrating(tmp_path, server, "--samples", "4")
        printed, said = await within(process.communicate())
        assert process.returncode == 0, said
    assert printed.decode().strip() == str(tmp_path / "mine.parquet")
    assert b"4 questions have neither a reference nor a verifier" in said
    assert len(read_pools(tmp_path / "mine.parquet")) == 4
    assert len(server.requests) == 3 + 2


async def test_a_dry_run_asks_nobody(tmp_path: Path) -> None:
    async with running(VLLM, Script()) as server:
        process = await calibrating(tmp_path, server, "--dry-run", "--budget", "100000")
        printed, said = await within(process.communicate())
    assert process.returncode == 0, said
    assert b"100,000 tokens buy at least" in printed
    assert not server.requests
    assert not server.others
