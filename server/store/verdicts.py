"""Feedback on a response that was given: whose it may be, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from server.store import schema
from server.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What somebody says of a response. score: 0 (wrong) to 1 (right); None: only the right answer is told."""

    id: str
    given: float  # Unix seconds
    score: float | None
    reference: str | None = None
    owner: str | None = None  # name of the key that says it
    on_all: bool = False  # it may judge the responses of other keys too


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What became of it."""

    strategy: str
    expected: float | None  # how sure the gateway was: the confidence, else the predicted accuracy
    replaced: bool  # an earlier verdict on the same response
    first: bool  # none before it had a score
    reference_kept: bool


class UnknownResponse(Exception):
    """No such response, or one of another key: which of the two is not told."""


class NothingToJudge(Exception):
    """The response was an error."""


class NothingSaid(Exception):
    """Only a reference, and that is not kept, as the response's texts are not."""


def give(database: Database, verdict: Verdict) -> Given:
    """Write it, in place of any earlier one. Raises UnknownResponse, NothingToJudge, NothingSaid, StoreError."""
    found = database.run(schema.JUDGED, {"id": verdict.id})
    if not found:
        raise UnknownResponse
    owner, strategy, answered, confidence, predicted, has_texts = found[0]
    if owner != verdict.owner and not verdict.on_all:
        raise UnknownResponse
    if not answered:
        raise NothingToJudge
    reference = verdict.reference if has_texts else None
    if verdict.score is None and reference is None:
        raise NothingSaid
    earlier = database.run(schema.EARLIER, {"id": verdict.id})
    row = {"id": verdict.id, "given": verdict.given, "score": verdict.score, "reference": reference}
    database.run(schema.FEEDBACK, row)
    return Given(
        strategy=strategy,
        expected=confidence if confidence is not None else predicted,
        replaced=bool(earlier),
        first=all(score is None for (score,) in earlier),
        reference_kept=reference is not None,
    )
