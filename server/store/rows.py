"""From a request's outcome to its row in the store. Pure.

In two steps: `noted` takes what will be needed while the request is there, cheaply, as it runs on the event loop;
`row_of` reads and hashes the answers and writes the JSON, on the store's own thread.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from router.chats import SENT
from router.features import Features
from strategies.answers import answer_of, expected_form
from strategies.answers.question import read_of
from strategies.types import Candidate, Json, Outcome, Query

MOST_TEXT = 512 * 1024  # bytes of a request's or of its candidates' texts; larger ones are not kept
_MOST_CANDIDATES = 1024
_NAME = 200  # characters of names that come from outside
_ROW = 2_048  # bytes that the numbers of a row are reckoned as


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What is held of one outcome until it is written. weight: about its bytes."""

    id: str
    recorded: float  # Unix seconds
    owner: str | None  # name of the key that asked
    query: Query  # without its messages and tools
    outcome: Outcome
    candidates: Sequence[Candidate]
    drawn: int  # a beam search draws more than are in `candidates`
    finished: int
    features: Features | None
    form: str | None  # of the answer, if a field of the request asks for one
    question: str  # else what tells of it: reading that takes time
    temperature: float | None
    asked: bytes | None  # JSON; None: texts are not kept, or these are too large
    keeps_texts: bool
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table `outcomes`; see docs/outcomes.md."""

    id: str
    recorded: float
    bytes: int
    owner: str | None
    model: str
    profile: str
    strategy: str
    decided_by: str
    model_version: str | None
    familiar: int | None
    token_price: float
    latency_price: float
    max_total_tokens: int
    deadline_seconds: float
    temperature: float | None
    predicted_accuracy: float | None
    predicted_tokens: float | None
    predicted_tokens_upper: float | None
    predicted_seconds: float | None
    predicted_seconds_upper: float | None
    prompt_tokens: int
    tokens: int
    returned_tokens: int
    cancelled_tokens: int
    scoring_tokens: int
    seconds: float
    first_token_seconds: float | None
    answered: int
    cut_short: str | None
    agreement: float | None
    confidence: float | None
    drawn: int
    finished: int
    candidates: str
    features_version: int | None
    features: str | None
    error: str | None
    asked: str | None
    texts: str | None


def noted(
    query: Query,
    features: Features | None,
    outcome: Outcome,
    *,
    owner: str | None,
    recorded: float,
    keeps_texts: bool,
    sampling_temperature: float,
) -> Noted:
    """sampling_temperature: that of several candidates where the client set none."""
    spec = outcome.allocation.spec
    # a beam search's candidates are steps of a tree, no samples of the question
    drawn = outcome.candidates
    if spec.method == "beam_search":
        drawn = outcome.answer.winners if outcome.answer is not None else ()
    # logprobs of every token, and what the model thought, are of no use later
    candidates = [replace(c, logprob_content=(), reasoning="") for c in drawn[:_MOST_CANDIDATES]]
    temperature = query.sampling.get("temperature")
    if temperature is None and (spec.draws > 1 or query.answers > 1):
        temperature = sampling_temperature
    asked = _asked(query) if keeps_texts else None
    form = expected_form(replace(query, messages=()))
    question = read_of(query.messages) if form is None else ""
    return Noted(
        id=outcome.query_id,
        recorded=recorded,
        owner=owner,
        query=replace(query, messages=(), tools=(), sampling={}),
        outcome=replace(outcome, candidates=(), answer=_bare(outcome)),
        candidates=candidates,
        drawn=len(outcome.candidates),
        finished=sum(candidate.finished for candidate in outcome.candidates),
        features=features,
        form=form,
        question=question,
        temperature=float(temperature) if isinstance(temperature, int | float) else None,
        asked=asked,
        keeps_texts=keeps_texts,
        weight=_ROW + len(asked or b"") + len(question) + sum(_weight(candidate) for candidate in candidates),
    )


def _bare(outcome: Outcome) -> Any:
    """The answer without its texts: of the winners their places are enough."""
    answer = outcome.answer
    if answer is None:
        return None
    winners = [replace(w, text="", reasoning="", refusal="", tool_calls=(), logprob_content=()) for w in answer.winners]
    return replace(answer, winners=winners, votes={}, note="")


def _weight(candidate: Candidate) -> int:
    return 200 + len(candidate.text) + 200 * len(candidate.tool_calls)


def _asked(query: Query) -> bytes | None:
    """The request as `router.chats` reads one, as far as it makes the question."""
    body = {
        "messages": query.messages,
        **({"tools": query.tools} if query.tools else {}),
        **{name: value for name in SENT if (value := query.sampling.get(name)) is not None},
        **({"max_tokens": query.max_tokens} if query.max_tokens is not None else {}),
        **({"answer_pattern": query.answer_pattern} if query.answer_pattern is not None else {}),
    }
    try:
        asked = orjson.dumps(body)
    except (TypeError, ValueError):  # what is no JSON after all: lone surrogates
        return None
    return asked if len(asked) <= MOST_TEXT else None


def row_of(kept: Noted, salt: bytes) -> Row:
    outcome, query = kept.outcome, kept.query
    allocation, answer, chosen = outcome.allocation, outcome.answer, outcome.allocation.chosen
    question = {"role": "user", "content": kept.question}
    form = kept.form or expected_form(replace(query, messages=[question]))
    winners = {candidate.index: place for place, candidate in enumerate(answer.winners)} if answer is not None else {}
    candidates = _json([_candidate(c, winners.get(c.index), form=form, salt=salt) for c in kept.candidates]) or "[]"
    asked = _text(kept.asked)
    texts = _json([_said(c) for c in kept.candidates]) if kept.keeps_texts and asked is not None else None
    if texts is None or len(texts) > MOST_TEXT:
        asked = texts = None
    features = kept.features
    vector = _json([round(value, 6) for value in features.vector()]) if features is not None else None
    return Row(
        id=kept.id,
        recorded=kept.recorded,
        bytes=_ROW + len(candidates) + len(asked or "") + len(texts or ""),
        owner=kept.owner,
        model=_name(query.model),
        profile=_name(query.profile),
        strategy=str(allocation.spec),
        decided_by=allocation.decided_by,
        model_version=allocation.model_version,
        familiar=None if allocation.familiar is None else int(allocation.familiar),
        token_price=query.prices.token_price,
        latency_price=query.prices.latency_price,
        max_total_tokens=query.budget.max_total_tokens,
        deadline_seconds=query.budget.deadline - query.arrived,
        temperature=kept.temperature,
        predicted_accuracy=chosen.accuracy if chosen else None,
        predicted_tokens=chosen.tokens if chosen else None,
        predicted_tokens_upper=chosen.tokens_upper if chosen else None,
        predicted_seconds=chosen.seconds if chosen else None,
        predicted_seconds_upper=chosen.seconds_upper if chosen else None,
        prompt_tokens=outcome.prompt_tokens,
        tokens=outcome.completion_tokens,
        returned_tokens=outcome.returned_tokens,
        cancelled_tokens=outcome.cancelled_tokens,
        scoring_tokens=outcome.scoring_tokens,
        seconds=outcome.seconds,
        first_token_seconds=outcome.first_token_seconds,
        answered=int(answer is not None and bool(answer.winners)),
        cut_short=answer.cut_short if answer else None,
        agreement=answer.agreement if answer else None,
        confidence=answer.confidence if answer else None,
        drawn=kept.drawn,
        finished=kept.finished,
        candidates=candidates,
        features_version=features.version if features is not None else None,
        features=vector,
        error=outcome.error,
        asked=asked,
        texts=texts,
    )


def values(row: Row) -> Mapping[str, Any]:
    """By column. What is not finite is not known: SQL has no word for it that both databases read alike."""
    found = asdict(row)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def hashed(answer: str, salt: bytes) -> str:
    """Equal answers of one store have equal hashes, of two stores not."""
    return hmac.new(salt, answer.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _candidate(candidate: Candidate, place: int | None, *, form: str | None, salt: bytes) -> dict[str, Any]:
    found = answer_of(candidate, form=form)
    logprobs = candidate.logprobs
    return {
        "answer": hashed(found.value, salt) if found is not None else None,
        "tokens": candidate.tokens,
        "finish_reason": candidate.finish_reason[:40] if candidate.finish_reason is not None else None,
        "mean_logprob": round(logprobs.mean, 5) if logprobs and logprobs.tokens else None,
        "certainty": round(logprobs.certainty / logprobs.certain_tokens, 5)
        if logprobs and logprobs.certain_tokens
        else None,
        "score": candidate.score if candidate.score is None or math.isfinite(candidate.score) else None,
        "place": place,  # among those that were returned, 0 is the first
    }


def _said(candidate: Candidate) -> Json:
    return {"text": candidate.text, **({"tool_calls": candidate.tool_calls} if candidate.tool_calls else {})}


def _json(value: object) -> str | None:
    try:
        return _text(orjson.dumps(value))
    except (TypeError, ValueError):
        return None


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


def _name(text: str) -> str:
    """As both databases take it: PostgreSQL has no NUL, and nobody lone surrogates."""
    return plain(text)[:_NAME]


def plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\x00", "�")
