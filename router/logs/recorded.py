"""Pools from the outcomes that a gateway has kept. docs/outcomes.md says how they are judged, and what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, cast

import orjson

from router.chats import fingerprint, question_of
from router.logs.drawn import Imported, Reading, mapping, number, objects
from router.outcomes import agreed, judged, sample_of
from router.pools import Call, Pool, Run
from router.questions import Question, expected, form_of, judge
from strategies.answers import Extracted, answer_of
from strategies.consensus import is_open
from strategies.types import Candidate, Json, LogprobSummary

_RIGHT = 0.5  # a mean score above it calls an answer right


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One outcome as the store has it. candidates, asked, texts: JSON."""

    id: str
    recorded: float  # Unix seconds
    model: str
    strategy: str
    temperature: float | None  # None: the engine's own
    tokens: int
    seconds: float
    candidates: str
    asked: str | None
    texts: str | None
    score: float | None  # feedback on the answer that was returned
    reference: str | None  # the right answer, as feedback told it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One outcome with what can be learned from it."""

    outcome: Recorded
    question: Question
    finished: tuple[Candidate, ...]  # not those that the gateway stopped
    stopped: int
    returned: Candidate | None

    @property
    def searched(self) -> bool:
        return self.outcome.strategy.startswith("beam_search")


def pools_of(recorded: Iterable[Recorded], reading: Reading, *, calls: Sequence[Call] = ()) -> Imported:
    """Raises ValueError when there is nothing to learn from, or outcomes are of several models."""
    unusable: Counter[str] = Counter()
    asked: dict[str, list[_Asked]] = {}
    models: set[str] = set()
    stopped = drawn = 0
    for outcome in recorded:
        found = _asked(outcome, reading)
        if isinstance(found, str):
            unusable[found] += 1
            continue
        models.add(outcome.model)
        asked.setdefault(fingerprint(found.question), []).append(found)
        stopped, drawn = stopped + found.stopped, drawn + found.stopped + len(found.finished)
    if len(models) > 1:
        raise ValueError(f"the outcomes are of several models, of which --model has to name one: {_listed(models)}")
    pools: list[Pool] = []
    for outcomes in asked.values():
        alike = _of_one_temperature(outcomes)
        if other := len(outcomes) - len(alike):
            unusable["drawn at another temperature than most of their question's"] += other
        pool = _pool(alike)
        if isinstance(pool, str):
            unusable[pool] += len(alike)
        else:
            pools.append(pool)
    why = [f"{count} outcomes left out: {reason}" for reason, count in unusable.most_common()]
    if not pools:
        raise ValueError("; ".join(["no outcome to learn from", *why]))
    if calls:
        pools[0] = replace(pools[0], calls=tuple(calls))
    return Imported(pools=tuple(pools), notes=tuple(why + _notes(pools, stopped=stopped, drawn=drawn)))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _asked(outcome: Recorded, reading: Reading) -> _Asked | str:
    """Or why nothing can be learned from it."""
    if reading.model is not None and outcome.model != reading.model:
        return f"of the model {outcome.model}"
    if outcome.asked is None or outcome.texts is None:
        return "without texts, as store.keep was outcomes, or they were too large"
    if outcome.temperature == 0:
        return "drawn at temperature 0, which says nothing of other draws"
    body = mapping(_json(outcome.asked))
    if body.get("answer_pattern") is not None:
        return "read by an answer_pattern of the client's"
    try:
        question = question_of(body, max_tokens=reading.max_tokens)
    except ValueError as error:
        return f"not a question ({error})"
    known, said = objects(_json(outcome.candidates)), objects(_json(outcome.texts))
    if len(known) != len(said):
        return "not of a shape that is known"
    candidates = [_candidate(i, *pair) for i, pair in enumerate(zip(known, said, strict=True))]
    finished = tuple(c for c in candidates if c.finish_reason is not None)
    if not finished:
        return "no candidate came to its end"
    returned = next((c for c, facts in zip(candidates, known, strict=True) if facts.get("place") == 0), None)
    return _Asked(
        outcome=outcome,
        question=question,
        finished=finished,
        stopped=len(candidates) - len(finished),
        returned=returned,
    )


def _json(text: str) -> object:
    try:
        return cast("object", orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def _candidate(index: int, known: Json, said: Json) -> Candidate:
    tokens = int(number(known.get("tokens"), 0))
    mean, certainty = known.get("mean_logprob"), known.get("certainty")
    logprobs = LogprobSummary(
        tokens=tokens if mean is not None else 0,
        total=number(mean, 0.0) * tokens,
        certainty=number(certainty, 0.0) * tokens,
        certain_tokens=tokens if certainty is not None else 0,
    )
    reason = known.get("finish_reason")
    return Candidate(
        index=index,
        text=str(said.get("text") or ""),
        tool_calls=tuple(objects(said.get("tool_calls"))),
        tokens=tokens,
        finish_reason=str(reason) if reason is not None else None,
        logprobs=logprobs if mean is not None or certainty is not None else None,
    )


def _of_one_temperature(outcomes: Sequence[_Asked]) -> list[_Asked]:
    """A pool has one: that of most candidates."""
    drawn: Counter[float | None] = Counter()
    for each in outcomes:
        drawn[each.outcome.temperature] += len(each.finished)
    ((most, _),) = drawn.most_common(1)
    return [each for each in outcomes if each.outcome.temperature == most]


def _pool(outcomes: Sequence[_Asked]) -> Pool | str:
    """All that was drawn for one question. Or why it can't be judged."""
    candidates = [c for each in outcomes if not each.searched for c in each.finished]
    if not candidates:
        return "beam search alone, whose candidates are no samples"
    question = _judged_by(outcomes)
    form = form_of(question)
    said = _Verdicts.of(outcomes, form)
    scores: Sequence[float | None] = [None] * len(candidates)
    if question.verifier == "feedback":
        scores = [said.of_answer(answer_of(c, form=form)) for c in candidates]
        if not said.scores:
            return "feedback on an answer that was cut or blank, and so is no answer"
        if None in scores:
            return "drawn with other answers than those judged, of which nobody knows whether they are right"
    samples = [sample_of(question, c, correct=score) for c, score in zip(candidates, scores, strict=True)]
    last = outcomes[-1].outcome
    pool = judged(
        Pool(
            question=question,
            model=last.model,
            temperature=1.0 if last.temperature is None else last.temperature,
            recorded=datetime.fromtimestamp(last.recorded, UTC).date().isoformat(),
            samples=tuple(samples),
        )
    )
    return replace(pool, runs=tuple(_runs(pool, outcomes, said, form)))


def _judged_by(outcomes: Sequence[_Asked]) -> Question:
    """The question, with who judges it: a reference before all that is said of single answers, agreement last."""
    question = outcomes[0].question
    for each in reversed(outcomes):
        if each.outcome.reference is not None:
            referred = replace(question, reference=each.outcome.reference, verifier="reference")
            try:
                expected(referred)
            except ValueError:
                continue
            return referred
    if any(each.outcome.score is not None for each in outcomes):
        return replace(question, verifier="feedback")
    return question


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdicts:
    """What feedback on returned answers says of all that were drawn.

    An answer has the mean score of its feedback, and so have all that equal it. Where one is called right, different
    ones are wrong, unless it is open text or code, of which several can be right. Where all are called wrong, nothing
    is known of different ones.
    """

    scores: Mapping[str, float]  # by answer
    excludes: bool  # others are wrong

    @classmethod
    def of(cls, outcomes: Sequence[_Asked], form: str | None) -> _Verdicts:
        given: dict[str, list[float]] = {}
        several = False
        for each in outcomes:
            returned, score = each.returned, each.outcome.score
            found = answer_of(returned, form=form) if returned is not None and score is not None else None
            if found is not None and returned is not None and score is not None:
                given.setdefault(found.value, []).append(score)
                several = several or found.form == "code" or (found.form == "text" and is_open(returned.text))
        scores = {answer: fmean(each) for answer, each in given.items()}
        return cls(scores=scores, excludes=not several and any(score > _RIGHT for score in scores.values()))

    def of_answer(self, answer: Extracted | None) -> float | None:
        """None: not known."""
        if answer is None:  # it could not have won a vote
            return 0.0
        return self.scores.get(answer.value, 0.0 if self.excludes else None)


def _runs(pool: Pool, outcomes: Sequence[_Asked], said: _Verdicts, form: str | None) -> Iterable[Run]:
    """Beam searches, where it is known whether their answer is right."""
    for each in outcomes:
        if not each.searched or each.returned is None:
            continue
        found = answer_of(each.returned, form=form)
        if pool.label == "agreement":
            correct: float | None = agreed(pool, found.value if found is not None else None)
        elif pool.label == "feedback":
            correct = said.of_answer(found)
        else:
            correct = judge(pool.question, found.value) if found is not None else 0.0
        if correct is not None:
            outcome = each.outcome
            yield Run(spec=outcome.strategy, correct=correct, tokens=outcome.tokens, seconds=outcome.seconds)


def _notes(pools: Sequence[Pool], *, stopped: int, drawn: int) -> list[str]:
    notes: list[str] = []
    if stopped:
        notes.append(
            f"{stopped} of {drawn} candidates were stopped before their end and are left out: those that ended first "
            "are the short ones, so lengths learned from these alone are too short"
        )
    sizes = [len(pool.samples) for pool in pools]
    if len(set(sizes)) > 1:
        notes.append(
            f"questions have {min(sizes)} to {max(sizes)} samples, fewer where answers agreed at once or one was "
            "thought enough: averages of large votes are over the undecided questions only"
        )
    if lone := sizes.count(1):
        notes.append(f"{lone} of {len(pools)} questions have one sample only, which tells nothing of votes")
    labels: Mapping[str, Any] = Counter(pool.label for pool in pools)
    means = {"reference": "the references", "feedback": "feedback", "agreement": "what most samples say"}
    return [*notes, "right by " + ", ".join(f"{means[name]}: {count}" for name, count in labels.items())]
