"""Who is asked next, what a dead worker costs, and when it is enough: the work list without the processes."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest

from router.pools import Call
from router.questions import Question
from server.calibration.asking import Recorder
from server.calibration.workers import Lost, Reply, Workers
from strategies.ledger import Ledger
from strategies.types import Candidate, EngineError
from tests.fake_engine import until

pytestmark = pytest.mark.anyio

MOST = 10  # tokens of a sample


def question(name: str = "a") -> Question:
    return Question(
        id=name, family="f", messages=({"role": "user", "content": name},), reference="1", verifier="reference",
        max_tokens=MOST,
    )  # fmt: skip


def reply(n: int, *, charged: int | None = None, error: EngineError | None = None) -> Reply:
    call = Call(prompt_tokens=7, running=0, added=n, first_token_seconds=0.1, seconds=0.2, longest=3)
    said = () if error else tuple(Candidate(index=i, text="1", tokens=3, finish_reason="stop") for i in range(n))
    return Reply(candidates=said, calls=(call,), charged=3 * n if charged is None else charged, error=error)


class Scripted:
    """Does what it is told, in turn, and then answers."""

    def __init__(self, *acts: Callable[[int], Reply], starts: Sequence[Exception | None] = ()) -> None:
        self.asked: list[str] = []
        self.started = 0
        self.go = asyncio.Event()
        self.go.set()
        self._acts, self._starts = iter(acts), iter(starts)

    async def start(self) -> EngineError | None:
        self.started += 1
        match next(self._starts, None):
            case EngineError() as error:
                return error
            case None:
                return None
            case other:
                raise other

    async def ask(self, question: Question, n: int) -> Reply:
        self.asked.append(question.id)
        await self.go.wait()
        return next(self._acts, reply)(n)


def dies(n: int) -> Reply:
    raise Lost("it died")


def workers(*remotes: Scripted, recorder: Recorder | None = None) -> Workers:
    return Workers(remotes, recorder or Recorder(), nullcontext())


async def test_an_answer_is_paid_as_the_worker_says() -> None:
    recorder, ledger = Recorder(), Ledger(100)
    candidates = await workers(Scripted(), recorder=recorder).ask(question(), 4, ledger)
    assert candidates is not None
    assert [each.text for each in candidates] == ["1"] * 4
    assert ledger.remaining == 100 - 4 * 3
    assert [call.added for call in recorder.take()] == [4]


async def test_calls_go_where_the_least_is_in_work_and_tell_of_each_other() -> None:
    """A worker's client sees its own sequences only; the speed model has to know of all."""
    recorder = Recorder()
    remotes = [Scripted(), Scripted()]
    for remote in remotes:
        remote.go.clear()
    pool, ledger = workers(*remotes, recorder=recorder), Ledger(1000)
    async with asyncio.TaskGroup() as group:
        for name, n in (("a", 4), ("b", 1), ("c", 1), ("d", 1)):
            group.create_task(pool.ask(question(name), n, ledger))
            await asyncio.sleep(0)
        assert [remote.asked for remote in remotes] == [["a"], ["b", "c", "d"]]
        for remote in remotes:
            remote.go.set()
    assert sorted(call.running for call in recorder.take()) == [0, 4, 5, 6]


async def test_a_call_that_a_worker_died_with_is_paid_in_full_and_may_be_made_again() -> None:
    remote, ledger = Scripted(dies), Ledger(100)
    pool = workers(remote)
    assert await pool.ask(question(), 2, ledger) is None
    assert ledger.remaining == 100 - 2 * MOST
    assert await pool.ask(question(), 2, ledger)
    assert ledger.remaining == 100 - 2 * MOST - 2 * 3
    assert remote.started == 2  # it was waited for until it was there again


async def test_a_question_that_workers_die_with_ends_the_recording() -> None:
    pool, ledger = workers(Scripted(dies, dies, reply, dies)), Ledger(1000)
    assert [await pool.ask(question(name), 1, ledger) for name in "aa"] == [None, None]
    assert await pool.ask(question("b"), 1, ledger)
    with pytest.raises(Lost, match="3 workers died with question 'a'; the last: it died"):
        await pool.ask(question("a"), 1, ledger)


async def test_a_worker_that_does_not_come_back_is_gone_without() -> None:
    broken, other = Scripted(dies, starts=[None, Lost("no room")]), Scripted()
    pool, ledger = workers(broken, other), Ledger(100)
    assert await pool.start() == 2
    assert [await pool.ask(question(), 1, ledger) for _ in range(2)] == [None, None]
    assert ledger.remaining == 100 - MOST  # the second was never asked
    assert await pool.ask(question(), 1, ledger)
    assert other.asked == ["a"]


async def test_without_any_worker_the_reason_is_told() -> None:
    pool = workers(Scripted(starts=[Lost("no room")]), Scripted(starts=[Lost("no room")]))
    with pytest.raises(Lost, match="no room"):
        await pool.start()
    assert await workers(Scripted(), Scripted(starts=[Lost("no room")])).start() == 1


async def test_an_engine_that_a_worker_can_not_reach_is_told() -> None:
    pool = workers(Scripted(), Scripted(starts=[EngineError("the engine does not answer", status=503)]))
    with pytest.raises(EngineError, match="does not answer"):
        await pool.start()


async def test_what_the_engine_refuses_is_refused_here() -> None:
    """And paid as the worker's ledger says, as if it had been asked from here."""
    ledger = Ledger(100)
    pool = workers(Scripted(lambda n: reply(n, charged=5, error=EngineError("too long", status=400))))
    with pytest.raises(EngineError, match="too long") as refusal:
        await pool.ask(question(), 1, ledger)
    assert refusal.value.status == 400
    assert ledger.remaining == 95


async def test_one_that_is_cancelled_while_it_waits_for_its_turn_costs_nothing() -> None:
    remote, ledger = Scripted(), Ledger(100)
    turn = asyncio.Lock()
    await turn.acquire()
    pool = Workers([remote], Recorder(), turn)
    task = asyncio.create_task(pool.ask(question(), 2, ledger))
    await asyncio.sleep(0)
    assert ledger.remaining == 100 - 2 * MOST
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.remaining == 100
    assert not remote.asked


async def test_one_that_is_cancelled_while_it_is_asked_is_paid_in_full() -> None:
    remote, ledger = Scripted(), Ledger(100)
    remote.go.clear()
    task = asyncio.create_task(workers(remote).ask(question(), 2, ledger))
    await until(lambda: bool(remote.asked))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.remaining == 100 - 2 * MOST


def test_a_refusal_comes_through_a_pipe_as_it_was() -> None:
    error = EngineError("too long", status=400, body={"message": "too long"}, retry_after="3")
    came = pickle.loads(pickle.dumps(reply(1, error=error))).error  # noqa: S301 - our own
    assert (str(came), came.status, came.body, came.retry_after) == ("too long", 400, {"message": "too long"}, "3")
