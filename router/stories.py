"""Written word problems: varied small stories whose worked answers reason in a sentence or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_PEOPLE = (
    ("Ana", "she"), ("Ben", "he"), ("Chloe", "she"), ("David", "he"), ("Ella", "she"), ("Farid", "he"),
    ("Grace", "she"), ("Hugo", "he"), ("Iris", "she"), ("Jack", "he"), ("Kim", "she"), ("Leo", "he"),
    ("Maria", "she"), ("Noah", "he"), ("Olga", "she"), ("Paul", "he"), ("Rosa", "she"), ("Sam", "he"),
)  # fmt: skip
_THINGS = (
    "apples", "books", "marbles", "stickers", "pencils", "shells", "cookies", "stamps", "coins", "balloons",
    "buttons", "cards", "eggs", "flowers", "oranges", "ribbons",
)  # fmt: skip
_BOXES = ("boxes", "bags", "baskets", "shelves", "trays", "jars")
_SIZES = (3, 5, 8, 12, 30)  # how large the numbers of one story get: its difficulty


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    question: str
    reasoning: str  # one or two sentences, without the final "The answer is N."
    answer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """What every template draws from: one size for all numbers of a story, so that stories differ in difficulty."""

    name: str
    who: str
    other: str
    thing: str
    box: str
    big: int
    small: int  # below big
    times: int


def _cast(rng: Random) -> _Cast:
    size = rng.choice(_SIZES)
    (name, who), (other, _) = rng.sample(_PEOPLE, 2)
    big = rng.randint(max(3, size // 2), size + 2)
    return _Cast(
        name=name, who=who, other=other, thing=rng.choice(_THINGS), box=rng.choice(_BOXES),
        big=big, small=rng.randint(2, big - 1), times=rng.randint(2, 4 if size < 12 else 9),
    )  # fmt: skip


_Template = Callable[[_Cast], Story]


def _more(c: _Cast) -> Story:
    total = c.big + c.small
    return Story(
        question=f"{c.name} has {c.big} {c.thing}. {c.other} gives {c.name} {c.small} more. "
        f"How many {c.thing} does {c.name} have now?",
        reasoning=f"{c.big} {c.thing} and {c.small} more {c.thing} are added. {c.big} + {c.small} = {total}.",
        answer=total,
    )


def _fewer(c: _Cast) -> Story:
    left = c.big - c.small
    return Story(
        question=f"There were {c.big} {c.thing} on the table. {c.name} took {c.small} of them. "
        f"How many {c.thing} are left on the table?",
        reasoning=f"{c.small} {c.thing} are taken away from {c.big}. {c.big} - {c.small} = {left}.",
        answer=left,
    )


def _packed(c: _Cast) -> Story:
    total = c.times * c.small
    return Story(
        question=f"{c.name} packs {c.small} {c.thing} into each of {c.times} {c.box}. "
        f"How many {c.thing} does {c.who} pack in all?",
        reasoning=f"{c.small} {c.thing} are packed {c.times} times. {c.times} * {c.small} = {total}.",
        answer=total,
    )


def _shared(c: _Cast) -> Story:
    total = c.times * c.small
    return Story(
        question=f"{c.name} shares {total} {c.thing} equally among {c.times} friends. "
        f"How many {c.thing} does each friend get?",
        reasoning=f"{total} {c.thing} are divided by {c.times}. {total} / {c.times} = {c.small}.",
        answer=c.small,
    )


def _together(c: _Cast) -> Story:
    total = c.big + c.small
    return Story(
        question=f"{c.name} found {c.small} {c.thing} and {c.other} found {c.big}. How many did they find together?",
        reasoning=f"{c.small} {c.thing} and {c.big} {c.thing} are added. {c.small} + {c.big} = {total}.",
        answer=total,
    )


def _difference(c: _Cast) -> Story:
    gap = c.big - c.small
    return Story(
        question=f"{c.name} is {c.big} years old and {c.other} is {c.small}. How many years older is {c.name}?",
        reasoning=f"{c.small} years are taken away from {c.big}. {c.big} - {c.small} = {gap}.",
        answer=gap,
    )


def _more_then_fewer(c: _Cast) -> Story:
    total = c.big + c.times
    return Story(
        question=f"{c.name} had {c.big} {c.thing}, bought {c.times} more, and then gave {c.small} to {c.other}. "
        f"How many {c.thing} does {c.name} have now?",
        reasoning=f"After buying, {c.name} has {c.big} + {c.times} = {total}. "
        f"After giving some away, {c.who} has {total} - {c.small} = {total - c.small}.",
        answer=total - c.small,
    )


def _packed_then_more(c: _Cast) -> Story:
    packed = c.times * c.small
    return Story(
        question=f"There are {c.times} {c.box} with {c.small} {c.thing} in each, "
        f"and {c.big} {c.thing} lie on the floor. "
        f"How many {c.thing} are there altogether?",
        reasoning=f"The {c.box} hold {c.times} * {c.small} = {packed}. "
        f"With the floor that is {packed} + {c.big} = {packed + c.big}.",
        answer=packed + c.big,
    )


def _packed_then_fewer(c: _Cast) -> Story:
    packed = c.times * c.big
    return Story(
        question=f"{c.name} fills {c.times} {c.box} with {c.big} {c.thing} each. "
        f"Then {c.other} loses {c.small} {c.thing}. "
        f"How many {c.thing} remain?",
        reasoning=f"At first there are {c.times} * {c.big} = {packed}. "
        f"Then {packed} - {c.small} = {packed - c.small} remain.",
        answer=packed - c.small,
    )


def _fewer_then_shared(c: _Cast) -> Story:
    kept = c.times * c.small
    total = kept + c.big
    return Story(
        question=f"{c.name} picked {total} {c.thing}, kept {c.big}, "
        f"and shared the rest equally among {c.times} friends. "
        f"How many did each friend get?",
        reasoning=f"The rest is {total} - {c.big} = {kept}. Each friend gets {kept} / {c.times} = {c.small}.",
        answer=c.small,
    )


def _twice(c: _Cast) -> Story:
    theirs = c.times * c.small
    return Story(
        question=f"{c.name} has {c.small} {c.thing}. {c.other} has {c.times} times as many. "
        f"How many do they have together?",
        reasoning=f"{c.other} has {c.times} * {c.small} = {theirs}. "
        f"Together they have {c.small} + {theirs} = {c.small + theirs}.",
        answer=c.small + theirs,
    )


def _change(c: _Cast) -> Story:
    cost = c.times * c.small
    paid = cost + c.big
    return Story(
        question=f"A ticket costs ${c.small}. {c.name} buys {c.times} tickets and pays with ${paid}. "
        f"How many dollars does {c.who} get back?",
        reasoning=f"The tickets cost {c.times} * {c.small} = {cost}. The change is {paid} - {cost} = {c.big}.",
        answer=c.big,
    )


def _wage(c: _Cast) -> Story:
    earned = c.times * c.big
    return Story(
        question=f"{c.name} earns ${c.big} an hour and works {c.times} hours, then spends ${c.small}. "
        f"How many dollars are left?",
        reasoning=f"The pay is {c.times} * {c.big} = {earned}. "
        f"What is left is {earned} - {c.small} = {earned - c.small}.",
        answer=earned - c.small,
    )


def _trip(c: _Cast) -> Story:
    distance = c.times * c.big
    return Story(
        question=f"A train travels at {c.big} miles per hour for {c.times} hours. How many miles does it travel?",
        reasoning=f"Distance is speed times time: {c.big} * {c.times} = {distance}.",
        answer=distance,
    )


def _rows(c: _Cast) -> Story:
    total = c.times * c.small
    return Story(
        question=f"A garden has {c.times} rows of {c.small} tulips. How many tulips grow in the garden?",
        reasoning=f"We multiply rows by tulips: {c.times} * {c.small} = {total}.",
        answer=total,
    )


_ONE_STEP: tuple[_Template, ...] = (_more, _fewer, _packed, _shared, _together, _difference)
_TWO_STEP: tuple[_Template, ...] = (_more_then_fewer, _packed_then_more, _packed_then_fewer, _fewer_then_shared, _twice)
_MONEY_AND_RATES: tuple[_Template, ...] = (_change, _wage, _trip, _rows)


def one_step(rng: Random) -> Story:
    return rng.choice(_ONE_STEP)(_cast(rng))


def two_step(rng: Random) -> Story:
    return rng.choice(_TWO_STEP)(_cast(rng))


def money_and_rates(rng: Random) -> Story:
    return rng.choice(_MONEY_AND_RATES)(_cast(rng))
