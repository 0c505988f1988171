"""The built-in calibration questions: families that a small model solves nearly always, sometimes, and never.

An allocator learns what a strategy is worth from questions on which strategies *differ*. So the families span
one sample being right almost always to never, the vote helping, doing nothing and hurting, and a right answer
hiding among wrong ones; and numbers, words and lengths vary inside a family, because those are the features of a
query. Most families are reasoning-gym tasks at easy settings, asked briefly, with worked examples as earlier turns.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from router import tasks
from router.questions import GYM_MISSING, Question

_EXAMPLES_SEED = 20_250  # worked examples never change with the caller's seed: one cached prefix for each family
_ENOUGH = 40  # draws per question asked for before a family is held to be exhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """How to draw and present one kind of question.

    task: reasoning-gym's name, None for own templates. configs: settings, drawn from in turn.
    present: None refuses an entry that suits the family badly.
    """

    name: str
    present: Callable[[tasks.Entry, Random], tasks.Item | None]
    task: str | None = None
    configs: tuple[Mapping[str, Any], ...] = ({},)
    examples: int = 3
    max_tokens: int = 20


_FAMILIES: tuple[_Family, ...] = (
    _Family(
        name="small_sum",
        present=tasks.small_sum,
        task="chain_sum",
        configs=(
            {"max_terms": 2, "max_digits": 1},
            {"max_terms": 2, "max_digits": 1},
            {"max_terms": 2, "max_digits": 2},
        ),
        max_tokens=16,
    ),
    _Family(
        name="chain_sum",
        present=tasks.chain,
        task="chain_sum",
        configs=({"max_terms": 2, "min_digits": 2, "max_digits": 2}, {"min_terms": 3, "max_terms": 3, "max_digits": 1}),
        max_tokens=24,
    ),
    _Family(
        name="times_table",
        present=tasks.times_table,
        task="products",
        configs=({"max_digits": 1}, {"max_digits": 1}, {"max_digits": 2}),
        max_tokens=16,
    ),
    _Family(
        name="brackets",
        present=tasks.brackets,
        task="basic_arithmetic",
        configs=(
            {"min_terms": 3, "max_terms": 3, "max_digits": 1, "operators": ("+", "-", "*"), "allow_negation": False},
        ),
        max_tokens=24,
    ),
    _Family(
        name="equation",
        present=tasks.equation,
        task="simple_equations",
        configs=({"max_terms": 2, "max_value": 5}, {"max_terms": 2, "max_value": 20}),
        max_tokens=20,
    ),
    _Family(
        name="gcd",
        present=tasks.gcd,
        task="gcd",
        configs=({"min_value": 2, "max_value": 30}, {"min_value": 2, "max_value": 12}),
        max_tokens=20,
    ),
    _Family(name="lcm", present=tasks.lcm, task="lcm", configs=({"min_value": 2, "max_value": 8},), max_tokens=32),
    _Family(
        name="sequence",
        present=tasks.sequence,
        task="number_sequence",
        configs=({"max_complexity": 1, "min_value": 1, "max_value": 40, "max_terms": 6},),
        max_tokens=32,
    ),
    _Family(name="counting", present=tasks.counting, max_tokens=32),
    _Family(
        name="letter_count",
        present=tasks.letters,
        task="letter_counting",
        configs=({"min_words": 1, "max_words": 3},),
        max_tokens=16,
    ),
    _Family(
        name="backward",
        present=tasks.backward,
        task="spell_backward",
        configs=({"min_word_len": 3, "max_word_len": 6},),
        max_tokens=16,
    ),
    _Family(
        name="first_letter",
        present=tasks.first_letter,
        task="spell_backward",
        configs=({"min_word_len": 3, "max_word_len": 10},),
        max_tokens=16,
    ),
    _Family(
        name="last_letter",
        present=tasks.last_letter,
        task="spell_backward",
        configs=({"min_word_len": 3, "max_word_len": 7},),
        max_tokens=16,
    ),
    _Family(
        name="alphabetical",
        present=tasks.alphabetical,
        task="word_sorting",
        configs=({"min_words": 4, "max_words": 6},),
        max_tokens=24,
    ),
    _Family(
        name="largest",
        present=tasks.largest,
        task="number_sorting",
        configs=(
            {"min_numbers": 3, "max_numbers": 3, "min_value": 1, "max_value": 99, "max_decimals": 0},
            {"min_numbers": 3, "max_numbers": 5, "min_value": 1, "max_value": 999, "max_decimals": 0},
        ),
        max_tokens=16,
    ),
    _Family(
        name="legs",
        present=tasks.legs,
        task="leg_counting",
        configs=(
            {"min_animals": 1, "max_animals": 1, "max_instances": 5},
            {"min_animals": 1, "max_animals": 1, "max_instances": 12},
        ),
        max_tokens=24,
    ),
    _Family(
        name="weekday",
        present=tasks.weekday,
        task="calendar_arithmetic",
        configs=({"tasks": ["weekday_offset"], "offset_upper_bound": 7},),
        max_tokens=16,
    ),
    _Family(
        name="leap_year",
        present=tasks.leap_year,
        task="calendar_arithmetic",
        configs=({"tasks": ["is_leap_year"]},),
        max_tokens=16,
    ),
    _Family(
        name="duration",
        present=tasks.duration,
        task="time_intervals",
        configs=({"task_types": ["time"], "max_time_difference_seconds": 14400},),
        max_tokens=16,
    ),
    _Family(
        name="decimals",
        present=tasks.decimals,
        task="decimal_chain_sum",
        configs=({"max_terms": 2, "max_digits": 1, "max_decimal_places": 1},),
        max_tokens=24,
    ),
    _Family(
        name="fraction",
        present=tasks.fraction,
        task="fraction_simplification",
        configs=({"max_value": 12, "min_factor": 2, "max_factor": 8},),
        max_tokens=16,
    ),
    _Family(name="bits", present=tasks.bits, task="count_bits", configs=({"max_n": 255},), max_tokens=16),
    _Family(name="python_len", present=tasks.python_len, max_tokens=16),
    _Family(
        name="needle",
        present=tasks.needle,
        task="needle_haystack",
        configs=({"min_num_statements": 2, "max_num_statements": 3},),
        max_tokens=16,
    ),
    _Family(
        name="kinship",
        present=tasks.kinship,
        task="family_relationships",
        configs=({"min_family_size": 3, "max_family_size": 5},),
        max_tokens=16,
    ),
    _Family(name="syllogism", present=tasks.syllogism, task="syllogism", max_tokens=16),
    _Family(
        name="binary",
        present=tasks.binary,
        task="base_conversion",
        configs=({"min_value": 2, "max_value": 255},),
        max_tokens=16,
    ),
    _Family(
        name="first_word",
        present=tasks.first_word,
        task="word_sequence_reversal",
        configs=({"min_words": 3, "max_words": 6},),
        max_tokens=16,
    ),
    _Family(
        name="plain_sum",
        present=tasks.plain_sum,
        task="chain_sum",
        configs=({"max_terms": 2, "max_digits": 1}, {"max_terms": 3, "max_digits": 2}),
        examples=0,
        max_tokens=24,
    ),
    _Family(name="capital", present=tasks.capital, max_tokens=16),
    _Family(name="story_one_step", present=tasks.one_step, max_tokens=96),
    _Family(name="story_two_step", present=tasks.two_step, max_tokens=96),
    _Family(name="story_money", present=tasks.money, max_tokens=96),
)


def _create_dataset() -> Callable[..., Any]:
    """reasoning-gym's factory. Imported here: only calibration depends on it."""
    try:
        return importlib.import_module("reasoning_gym").create_dataset
    except ImportError as error:
        raise ImportError(GYM_MISSING) from error


def _items(family: _Family, create: Callable[..., Any], *, seed: int, draws: int) -> Iterator[tasks.Item]:
    """Draw and present, in an order that depends on the seed and the family alone."""
    rng = Random(f"{seed}:{family.name}")
    datasets = [
        create(family.task, size=draws, seed=rng.getrandbits(31), **config) if family.task else None
        for config in family.configs
    ]
    for index in range(draws):
        dataset = datasets[index % len(datasets)]
        item = family.present(dataset[index] if dataset is not None else {}, rng)
        if item is not None:
            yield item


def _examples(family: _Family, create: Callable[..., Any]) -> dict[str, str]:
    """Worked examples by their question. No two have the same answer: a small model would just repeat it."""
    chosen: dict[str, tasks.Item] = {}
    for item in _items(family, create, seed=_EXAMPLES_SEED, draws=200):
        if len(chosen) >= family.examples:
            break
        chosen.setdefault(item.reference, item)
    return {item.ask: item.worked for item in chosen.values()}


def _question(family: _Family, item: tasks.Item, shown: Mapping[str, str]) -> Question:
    turns: list[dict[str, str]] = []
    for ask, worked in shown.items():
        turns += [{"role": "user", "content": ask}, {"role": "assistant", "content": worked}]
    turns.append({"role": "user", "content": item.ask})
    metadata: dict[str, Any] = {"worked": item.worked}
    if family.task:
        metadata["task"] = family.task
    if item.judged_by:
        metadata["entry"] = dict(item.judged_by)
    return Question(
        id=f"{family.name}-{hashlib.sha256(item.ask.encode()).hexdigest()[:12]}",
        family=family.name,
        messages=tuple(turns),
        reference=item.reference,
        verifier=item.verifier,
        max_tokens=family.max_tokens,
        metadata=metadata,
    )


def family_names() -> tuple[str, ...]:
    return tuple(family.name for family in _FAMILIES)


def builtin_questions(*, per_family: int, seed: int, families: Sequence[str] = ()) -> list[Question]:
    """Up to `per_family` different questions of the families named, or of all; same arguments, same list.

    A family runs dry only when it has fewer different questions than asked for. An id names the question's text,
    so the same question has the same id under every seed. Raises ImportError when reasoning-gym is missing,
    ValueError for a family that does not exist.
    """
    if unknown := [name for name in families if name not in family_names()]:
        raise ValueError(f"no family {unknown[0]!r}: known are {', '.join(family_names())}")
    create = _create_dataset()
    questions: list[Question] = []
    for family in _FAMILIES:
        if families and family.name not in families:
            continue
        shown = _examples(family, create)
        seen = set(shown)
        for item in _items(family, create, seed=seed, draws=_ENOUGH * per_family):
            if len(seen) - len(shown) >= per_family:
                break
            if item.ask not in seen:
                seen.add(item.ask)
                questions.append(_question(family, item, shown))
    return questions
