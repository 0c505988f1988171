"""Logs of inspect_ai: `.json`, or `.eval`, which is a zip of the same. An epoch is a sample of its question."""

from __future__ import annotations

import contextlib
import importlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import orjson

from router.chats import group_of
from router.logs.drawn import (
    Drawn,
    Found,
    Reading,
    Skipped,
    candidate_of,
    limit,
    listed,
    mapping,
    number,
    objects,
    right,
    text_of,
)
from router.questions import Question
from strategies.types import Json

_CUT = ("max_tokens", "model_length")


def read(path: Path, log: Json, reading: Reading) -> Iterator[Found]:
    """Every epoch of every sample. Raises ValueError for a log without samples, or one whose shape is another."""
    samples = objects(log.get("samples"))
    if not samples:
        raise ValueError(f"{path}: a log of inspect_ai without samples")
    return _read(path, log, samples, reading)


def read_archive(path: Path, reading: Reading) -> Iterator[Found]:
    """The same from `.eval`, whose compression may be Zstandard. Raises ValueError."""
    with contextlib.suppress(ImportError):
        importlib.import_module("zipfile_zstd")  # teaches zipfile, which can by itself from Python 3.14 on
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith("samples/"))
            header = cast("Json", orjson.loads(archive.read("header.json")))
            samples = [cast("Json", orjson.loads(archive.read(name))) for name in names]
    except (zipfile.BadZipFile, KeyError, NotImplementedError, orjson.JSONDecodeError) as error:
        raise ValueError(
            f"{path} can't be read: install apportion[calibrate], or convert it with `inspect log convert --to json`"
        ) from error
    return read(path, {**header, "samples": samples}, reading)


def _read(path: Path, log: Json, samples: Iterable[Json], reading: Reading) -> Iterator[Found]:
    spec = mapping(log.get("eval"))
    # what the task sets, under what the command line of the evaluation sets
    settings = {**mapping(mapping(log.get("plan")).get("config")), **mapping(spec.get("model_generate_config"))}
    for sample in samples:
        try:
            yield _drawn(sample, spec, settings, reading)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            name = f"{sample.get('id')!r}, epoch {sample.get('epoch')!r}"
            raise ValueError(f"{path}, sample {name}: not of a shape that is known") from error


def _drawn(sample: Json, spec: Json, settings: Json, reading: Reading) -> Found:
    output = mapping(sample.get("output"))
    choices = objects(output.get("choices"))
    if sample.get("error") or not choices:
        return Skipped(why="the sample failed")
    asked = _asked(sample)
    if asked is None:
        return Skipped(why="a conversation of several answers, or with tools")
    choice, usage = choices[0], mapping(output.get("usage"))  # scores are of the first choice
    reason = str(choice.get("stop_reason") or "stop")
    spent = usage.get("output_tokens")
    candidate, guessed = candidate_of(
        text_of(mapping(choice["message"]).get("content")),
        tokens=spent if isinstance(spent, int) and len(choices) == 1 else None,
        finish_reason="length" if reason in _CUT else reason,
        content=mapping(choice.get("logprobs")).get("content"),
    )
    task = str(spec.get("task") or "inspect")
    question = Question(
        id=f"{task}-{sample['id']}",
        family=task,
        messages=tuple(asked),
        reference=_first(sample.get("target")),
        verifier="reference",
        max_tokens=limit(settings.get("max_tokens"), default=reading.max_tokens),
    )
    return Drawn(
        question=replace(question, group=group_of(question)),
        candidate=candidate,
        correct=_score(mapping(sample.get("scores")), reading.score),
        model=str(spec.get("model") or "unknown"),
        temperature=number(settings.get("temperature"), 1.0),
        recorded=str(spec.get("created") or "")[:10],
        guessed=guessed,
    )


def _asked(sample: Json) -> list[Json] | None:
    """The messages before the one answer, as the model got them: solvers rewrite the input. None: there are several."""
    given = sample.get("input")
    shown = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
    said = objects(sample.get("messages")) or shown
    answers = sum(message["role"] == "assistant" for message in said) - sum(m["role"] == "assistant" for m in shown)
    if answers > 1 or any(message["role"] == "tool" for message in said):
        return None
    if said[-1]["role"] == "assistant":
        said = said[:-1]
    return [{"role": message["role"], "content": text_of(message.get("content"))} for message in said]


def _first(target: object) -> str:
    several = listed(target)
    first = several[0] if several else target
    return first if isinstance(first, str) else ""


def _score(scores: Json, wanted: str | None) -> float | None:
    name = wanted if wanted is not None else next(iter(scores), None)
    return right(mapping(scores.get(name)).get("value")) if name is not None else None
