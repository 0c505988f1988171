"""The algebra of answers in its own process: what it finds equal, what hostile input costs, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.maths.client import MathsEquivalence, available
from strategies.answers import comparable, extract
from strategies.ledger import Ledger
from strategies.majority_vote import majority_vote
from strategies.sampling import MeteredSampler
from strategies.spec import StrategySpec
from strategies.stopping import ByPosterior
from strategies.types import Tools
from tests.fake_engine import until
from tests.fakes import ScriptedEngine, ask, says

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not available(), reason="the extra maths is not installed")]
HOSTILE = "9^{9^{9^{9}}}"


@asynccontextmanager
async def algebra(seconds: float = 0.2) -> AsyncGenerator[MathsEquivalence]:
    equivalence = MathsEquivalence(seconds=seconds)
    equivalence.start()
    try:
        await asyncio.wait_for(equivalence.ready.wait(), 60)
        yield equivalence
    finally:
        await equivalence.aclose()


@pytest.fixture(scope="module")
async def maths() -> AsyncGenerator[MathsEquivalence]:
    """With a limit that a busy machine does not reach."""
    async with algebra(5.0) as equivalence:
        yield equivalence


def family(parent: int) -> list[int]:
    """The processes whose parent it is, dead ones that nobody has waited for included."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("\\sqrt8", "2\\sqrt2", True),
        ("sqrt(8)", "2sqrt2", True),
        ("\u221a8", "2\u221a2", True),
        ("\\sqrt{144}", "12", True),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", True),
        ("\\frac{1}{2}\\pi", "\\frac{\\pi}{2}", True),
        ("\\frac{\\pi}{2}", "\\pi/2", True),
        ("\\frac{1}{2}\\pi", "\\frac{1}{2\\pi}", False),
        ("\\sqrt{2}", "1.414214", False),
        ("\\sqrt{2}", "1.41421356237309", False),
        ("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}", True),
        ("6.63 \\times 10^{-34}", "1.05 \\times 10^{-34}", False),
        ("6.63 \\times 10^{-34}", "6.63 \\cdot 10^{-34}", True),
        ("6.02 \\times 10^{23}", "602 \\times 10^{21}", True),
        ("2^{-60}", "2^{-61}", False),
        ("10^{-20}\\pi", "2\\pi 10^{-20}", False),
        ("\\sqrt{10^{40}+1}", "10^{20}", False),
        ("\\pm 10^{-20}\\pi", "\\pm 2\\pi 10^{-20}", False),
        ("\\pm\\sqrt{8}", "\\pm 2\\sqrt{2}", True),
        ("0.1x + 0.2x", "0.3x", True),
        ("(x+1)(x-2)", "x^2 - x - 2", True),
        ("x^2 - x - 2", "x^2 - x - 3", False),
        ("2 \\cdot x", "2x", True),
        ("x^10", "x^{10}", True),
        ("2^(x+1)", "2 \\cdot 2^x", True),
        ("y' + 1", "y + 1", False),
        ("f^{(2)}(x)", "f(x)^2", False),
        ("f^(2)(x)", "f(x)^2", False),
        ("1 + \\ldots + x", "1 + x", False),
        ("1.2.3x", "0.36x", False),
        ("2x \\approx \\pi", "3x \\approx \\pi", False),
        ("x \\equiv 1 \\mod 3", "x \\equiv 1 \\mod 5", False),
        ("\\frac{1}{x-x}", "\\frac{2}{x-x}", False),
        ("\\pi r^2", "r^2 \\pi", True),
        ("\\frac{x}{2}", "0.5x", True),
        ("x + y = 1", "2x + 2y = 2", True),
        ("x + y = 1", "x + y = 2", False),
        ("x^2 = -1", "x^2 = -2", False),  # both without a real solution
        ("x < 5", "5 > x", True),
        ("x < 5", "x > 5", False),
        ("x < 5", "x \\le 5", False),
        ("1 < x < 5", "1 < x < \\sqrt{25}", True),
        ("1 < x < 5", "1 < x \\le 5", False),
        ("x = 2y = 4", "x = 3y = 4", False),
        ("(1, \\sqrt{4})", "(1, 2)", True),
        ("(\\sqrt{4}, 1)", "(1, 2)", False),
        ("\\{\\sqrt{4}, 1\\}", "\\{1, 2\\}", True),
        ("\\{x, x\\}", "\\{x, 2\\}", False),
        ("(-\\infty, \\sqrt{9}]", "(-\\infty, 3]", True),
        ("(\\pi, 1)", "(\\pi, 2)", False),  # to math-verify both are the empty interval
        ("[0, 1) \\cup (2, 3]", "(2, 3] \\cup [0, 1)", True),
        ("\\mathbb{R} \\setminus \\{0\\} \\cup \\{1\\}", "\\{1\\} \\cup \\mathbb{R} \\setminus \\{0\\}", False),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 2 \\end{bmatrix}", True),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}", False),
        ("\\mathbb{R}", "\\mathbb{Q}", False),
        ("\\infty", "-\\infty", False),
        ("x +", "x", False),
    ],
)
async def test_equality_beyond_spelling(maths: MathsEquivalence, one: str, other: str, same: bool) -> None:
    left, right = (extract(f"\\boxed{{{written}}}") for written in (one, other))
    assert left is not None
    assert right is not None
    for answer, another in ((left.value, right.value), (right.value, left.value)):
        found = comparable(answer, another) and list(await maths.same(answer, [another])) == [True]
        assert (answer == another or found) is same


@pytest.mark.parametrize(
    "hostile", [HOSTILE, "x^{x^{x^{999999}}}", "9^{9^{9^{9}}}x", "(((99999^{9999})^{9999})^{9999})^{9999}"]
)
async def test_hostile_input_is_cut_off_and_the_next_question_answered(hostile: str) -> None:
    async with algebra(0.5) as equivalence:
        assert equivalence.pid is not None
        assert list(await equivalence.same("x+1", ["1+x"])) == [True]
        before = family(equivalence.pid)
        assert len(before) == 1
        began = time.perf_counter()
        verdicts = await equivalence.same(hostile, ["\\sqrt{2}", "7"])
        assert time.perf_counter() - began < 2.0
        assert True not in verdicts
        assert list(await equivalence.same("x+1", ["1+x"])) == [True]
        if equivalence.cut:
            assert None in verdicts
            assert len(family(equivalence.pid)) == 1
            assert family(equivalence.pid) != before


async def test_what_was_found_out_before_the_limit_counts() -> None:
    async with algebra(1.0) as equivalence:
        assert list(await equivalence.same("\\sqrt{8}", ["2\\sqrt{2}", HOSTILE, "7"])) == [True, None, None]
        assert equivalence.cut == 1


async def test_very_long_input_is_refused_without_work(maths: MathsEquivalence) -> None:
    long = "+".join(["x"] * 100_000)
    assert list(await maths.same(long, ["x"])) == [False]
    assert maths.cut == 0


async def test_who_stops_waiting_disturbs_nobody() -> None:
    async with algebra(1.0) as equivalence:
        waiting = [asyncio.create_task(equivalence.same(HOSTILE, ["7"])) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert list(await equivalence.same("x+1", ["1+x"])) == [True]
        assert equivalence.cut == 1  # the other two were not even begun


async def test_hostile_questions_before_it_delay_a_vote_by_no_more_than_its_own_limit() -> None:
    async with algebra(0.5) as equivalence:
        hostile = [asyncio.create_task(equivalence.same(HOSTILE, ["7"])) for _ in range(15)]
        await asyncio.sleep(0)  # they are in the queue
        assert list(await equivalence.same("x+1", ["1+x"])) == [None]
        assert equivalence.cut < 15  # not every one before it has had its turn
        assert [list(found) for found in await asyncio.gather(*hostile)] == [[None]] * 15
        cut = equivalence.cut
        async with asyncio.timeout(30):
            while list(await equivalence.same("x+1", ["1+x"])) != [True]:
                pass
        assert equivalence.cut <= cut + 1  # what was given up was not asked afterwards: one was on its way


async def test_a_full_queue_is_no_answer_at_once() -> None:
    async with algebra() as equivalence:
        waiting = [asyncio.create_task(equivalence.same(HOSTILE, ["7"])) for _ in range(40)]
        done, pending = await asyncio.wait(waiting, timeout=0.15)
        assert len(done) >= 20
        assert all(list(task.result()) == [None] for task in done)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def test_closing_ends_every_process_and_answers_who_waits() -> None:
    async with algebra() as equivalence:
        pid = equivalence.pid
        assert pid is not None
        await equivalence.same("x+1", ["1+x"])
        copies = family(pid)
        assert copies
        waiting = asyncio.create_task(equivalence.same(HOSTILE, ["7"]))
        await asyncio.sleep(0.05)
        await equivalence.aclose()
        assert list(await waiting) == [None]
        assert pid not in family(os.getpid())
        await asyncio.sleep(0.3)
        assert not any(_works(copy) for copy in copies)
        assert list(await equivalence.same("x+1", ["1+x"])) == [None]
        await equivalence.aclose()


def _works(pid: int) -> bool:
    try:
        return b"maths.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def test_a_process_that_was_killed_is_no_answer_and_is_waited_for() -> None:
    async with algebra() as equivalence:
        pid = equivalence.pid
        assert pid is not None
        waiting = asyncio.create_task(equivalence.same(HOSTILE, ["7"]))
        await asyncio.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
        assert list(await waiting) == [None]
        assert list(await equivalence.same("x+1", ["1+x"])) == [None]
    assert pid not in family(os.getpid())


async def test_who_waits_in_the_queue_of_a_process_that_was_killed_gets_no_answer_before_the_next_is_ready() -> None:
    async with algebra(30.0) as equivalence:
        assert equivalence.pid is not None
        waiting = [asyncio.create_task(equivalence.same("x+1", ["1+x"])) for _ in range(8)]
        os.killpg(equivalence.pid, signal.SIGKILL)
        assert [list(found) for found in await asyncio.gather(*waiting)] == [[None]] * 8
        assert not equivalence.ready.is_set()


async def test_closing_waits_for_a_process_that_does_not_end_by_itself() -> None:
    async with algebra() as equivalence:
        pid = equivalence.pid
        assert pid is not None
        os.killpg(pid, signal.SIGSTOP)
        assert list(await equivalence.same("x+1", ["1+x"])) == [None]
        await until(lambda: not equivalence.ready.is_set())
        assert pid in family(os.getpid())
    assert pid not in family(os.getpid())


async def test_a_process_that_cannot_be_started_is_said_and_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    equivalence = MathsEquivalence(seconds=0.2)
    equivalence.start()
    await until(lambda: "did not start" in caplog.text)
    assert list(await equivalence.same("x+1", ["1+x"])) == [None]
    await equivalence.aclose()


async def test_without_a_ready_process_there_is_no_answer_and_no_waiting() -> None:
    equivalence = MathsEquivalence(seconds=0.2)
    assert list(await equivalence.same("x+1", ["1+x", "x"])) == [None, None]
    await equivalence.aclose()


async def test_a_majority_vote_counts_equal_answers_together(maths: MathsEquivalence) -> None:
    spelled = ["3\\sqrt{2}", "\\sqrt{8}", "3\\sqrt{2}", "2\\sqrt{2}", "2sqrt(2)", "\\sqrt{7}"]
    said = [says(f"So it is \\boxed{{{answer}}}.") for answer in spelled]
    for equivalence, votes in (
        (None, {"3\\sqrt{2}": 2, "\\sqrt{8}": 1, "2\\sqrt{2}": 1, "2sqrt(2)": 1, "\\sqrt{7}": 1}),
        (maths, {"\\sqrt{8}": 3, "3\\sqrt{2}": 2, "\\sqrt{7}": 1}),
    ):
        sampler = MeteredSampler(ScriptedEngine(said), Ledger(10_000), default_max_tokens=100)
        tools = Tools(sampler=sampler, scorer=None, stopping=ByPosterior(threshold=1.0), equivalence=equivalence)
        answer = await majority_vote(
            ask("How much?"), StrategySpec.parse("majority_vote@6"), tools, lambda published: None
        )
        assert answer.votes == votes
