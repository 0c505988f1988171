"""Pools from logs that are there already, without asking an engine. docs/calibrate.md says which fields are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import orjson

from router.chats import fingerprint, json_lines
from router.logs import batch, inspect_ai, lm_eval
from router.logs.drawn import Drawn, Found, Imported, Reading, Skipped
from router.outcomes import judged, sample_of
from router.pools import Pool
from router.questions import expected

__all__ = ["Imported", "Reading", "read_logs"]


def read_logs(paths: Sequence[Path], reading: Reading) -> Imported:
    """Read logs of one model: lm-evaluation-harness, inspect_ai, OpenAI batch outputs.

    Raises ValueError with the file that is none of them, or when they are of several models.
    """
    skipped: Counter[str] = Counter()
    drawn: list[Drawn] = []
    for path in paths:
        for found in _read(path, reading):
            if isinstance(found, Skipped):
                skipped[found.why] += 1
            elif reading.model is not None and found.model != reading.model:
                skipped[f"of the model {found.model}"] += 1
            else:
                drawn.append(found)
    why = [f"{count} left out: {reason}" for reason, count in skipped.most_common()]
    if not drawn:
        raise ValueError("; ".join(["no samples in these logs", *why]))
    if len(models := sorted({each.model for each in drawn})) > 1:
        raise ValueError(f"the logs are of several models, of which --model has to name one: {', '.join(models)}")
    if reading.score is not None and all(each.correct is None for each in drawn):
        raise ValueError(f"no score {reading.score!r} that says right or wrong in these logs")
    pools = _pools(drawn)
    return Imported(pools=tuple(pools), notes=tuple(why + _notes(drawn, pools)))


def _read(path: Path, reading: Reading) -> Iterator[Found]:
    """By what is in the file, not by its name. A log in one JSON document has no line that is one."""
    if path.suffix == ".eval":
        return inspect_ai.read_archive(path, reading)
    with closing(json_lines(path)) as lines:
        try:
            _, first = next(lines)
        except (ValueError, StopIteration):
            first = None
    if first is not None and "doc" in first and ("resps" in first or "filtered_resps" in first):
        return lm_eval.read(path, reading)
    if first is not None and "custom_id" in first and "response" in first:
        return batch.read(path, reading)
    try:
        whole: object = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and "eval" in whole:
        return inspect_ai.read(path, whole, reading)  # pyright: ignore[reportUnknownArgumentType] - any JSON
    raise ValueError(f"{path}: neither samples of lm-evaluation-harness, nor a log of inspect_ai, nor a batch output")


def _pools(drawn: Iterable[Drawn]) -> list[Pool]:
    """One a question. Two names of one request are one question, and few-shot examples may differ under one name."""
    named: dict[str, str] = {}
    gathered: dict[str, list[Drawn]] = {}
    for each in drawn:
        key = named.setdefault(each.question.id, fingerprint(each.question))
        gathered.setdefault(key, []).append(each)
    return [_pool(samples) for samples in gathered.values()]


def _pool(drawn: Sequence[Drawn]) -> Pool:
    first = drawn[0]
    scored = all(each.correct is not None for each in drawn)
    question = replace(first.question, verifier="log" if scored else "reference")
    if not scored:
        try:
            expected(question)
        except ValueError:
            question = replace(question, verifier="agreement")
    samples = tuple(sample_of(question, each.candidate, correct=each.correct if scored else None) for each in drawn)
    return judged(
        Pool(
            question=question,
            model=first.model,
            temperature=first.temperature,
            recorded=first.recorded,
            samples=samples,
        )
    )


def _notes(drawn: Sequence[Drawn], pools: Sequence[Pool]) -> list[str]:
    notes: list[str] = []
    if guessed := sum(each.guessed for each in drawn):
        notes.append(
            f"{guessed} of {len(drawn)} samples come without a count of tokens: it is guessed from their length"
        )
    if lone := sum(len(pool.samples) < 2 for pool in pools):
        notes.append(f"{lone} of {len(pools)} questions have one sample only, which tells nothing of votes")
    labels = Counter(pool.question.verifier for pool in pools)
    said = {"log": "the log's scores", "reference": "the references", "agreement": "what most samples say"}
    return [*notes, "right by " + ", ".join(f"{said[name]}: {count}" for name, count in labels.most_common())]
