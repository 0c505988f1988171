"""A short load sweep for the speed model.

Prompts of several lengths, several sequences in a call, several calls at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product

from router.pools import Call
from router.questions import Question
from server.calibration.asking import Recorder, as_query
from server.calibration.plan import Plan
from strategies.types import Engine, Query

_TOKENS = 24  # of one sequence
_FILLER = "The quick brown fox jumps over the lazy dog. "
ROUNDS, SENTENCES, SEQUENCES, AT_ONCE = 2, (2, 12, 40, 100), (1, 2, 4, 8), (1, 2, 4)


def sweep_tokens(max_n: int) -> int:
    """The most that a sweep costs on an engine that takes so many sequences in one call."""
    return ROUNDS * len(SENTENCES) * sum(n for n in SEQUENCES if n <= max_n) * sum(AT_ONCE) * _TOKENS


async def sweep(
    engine: Engine,
    recorder: Recorder,
    plan: Plan,
    *,
    rounds: int = ROUNDS,
    sentences: Sequence[int] = SENTENCES,
    sequences: Sequence[int] = SEQUENCES,
    at_once: Sequence[int] = AT_ONCE,
) -> tuple[Call, ...]:
    """Raises EngineError."""
    recorder.take()
    for turn, length, added, calls in product(range(rounds), sentences, sequences, at_once):
        if added <= engine.max_n:
            questions = [_load(f"{turn}-{length}-{added}-{calls}-{i}", _FILLER * length) for i in range(calls)]
            await asyncio.gather(*(_drain(engine, as_query(q, plan), added) for q in questions))
    return recorder.take()


def _load(name: str, filler: str) -> Question:
    """A prompt never seen before, so that no prefix cache shortens the prefill."""
    return Question(
        id=f"sweep-{name}",
        family="sweep",
        messages=({"role": "user", "content": f"{name} {filler}Go on."},),
        reference="0",
        verifier="number",
        max_tokens=_TOKENS,
    )


async def _drain(engine: Engine, query: Query, added: int) -> None:
    async for _ in engine.sample(query, n=added, max_tokens=query.max_tokens or _TOKENS):
        pass
