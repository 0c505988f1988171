"""Scores from the samples' own logprobs, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from server.backends.wire import summarise
from strategies.confidence import CERTAINTY_TOP, window
from strategies.scorers import SCORERS
from strategies.types import Candidate
from tests.fakes import ask

pytestmark = pytest.mark.anyio


def entry(confidence: float, top: int = CERTAINTY_TOP) -> dict[str, Any]:
    """A token whose top logprobs have this mean."""
    return {"token": "t", "logprob": -0.1, "top_logprobs": [{"token": "t", "logprob": -confidence}] * top}


def written(content: Sequence[dict[str, Any]]) -> Candidate:
    return Candidate(
        index=0, text="x", tokens=len(content), finish_reason="stop", logprob_content=content,
        logprobs=summarise(content),
    )  # fmt: skip


async def score(name: str, *confidences: float) -> float:
    (value,) = await SCORERS[name].score(ask(), [written([entry(each) for each in confidences])])
    assert value is not None
    return value


async def test_one_unsure_passage_decides_the_lowest_group() -> None:
    assert await score("lowest_group_confidence", *[5.0] * 20, *[1.0] * 8, *[5.0] * 20) == pytest.approx(1.0)
    assert await score("self_certainty", *[5.0] * 20, *[1.0] * 8, *[5.0] * 20) > 4.0


async def test_the_tail_is_the_end() -> None:
    assert await score("tail_confidence", *[1.0] * 40, *[5.0] * 8) == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["lowest_group_confidence", "tail_confidence"])
async def test_an_answer_shorter_than_a_group_is_one(name: str) -> None:
    assert await score(name, 2.0, 4.0) == pytest.approx(3.0)


async def test_self_certainty_is_the_average_trace_confidence() -> None:
    assert await score("self_certainty", 1.0, 2.0, 6.0) == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["lowest_group_confidence", "tail_confidence", "self_certainty"])
async def test_tokens_without_top_logprobs_do_not_count(name: str) -> None:
    """And only as many of the top are looked at as the scorer asked for, whatever the client asked for."""
    content = [entry(3.0), entry(9.0, top=0), {"token": "t", "logprob": -0.1}]
    more = entry(3.0)
    more["top_logprobs"] = [*more["top_logprobs"], {"token": "z", "logprob": -9999.0}]
    (value,) = await SCORERS[name].score(ask(), [written([*content, more])])
    assert value == pytest.approx(3.0)


@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (7, 7), (50, 8), (500, 50), (100_000, 2048)])
def test_a_group_is_a_tenth_of_the_answer_within_bounds(tokens: int, size: int) -> None:
    assert window(tokens) == size
