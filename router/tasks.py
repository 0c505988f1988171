"""How reasoning-gym's entries and own templates are put to a small model: briefly, in the wording that works for it.

One function a family. Each takes an entry of the family's task ({} for own templates) and randomness of its own,
and returns the question with its worked answer, or None for an entry that suits the family badly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from router import stories

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One drawn question. `worked` is how an example answers it."""

    ask: str
    worked: str
    reference: str
    verifier: str = "number"
    judged_by: Entry = field(default_factory=dict[str, Any])  # what reasoning-gym's own judge needs of its entry


def _numeric(ask: str, worked: str, reference: object) -> Item:
    return Item(ask=ask, worked=worked, reference=str(reference))


def _word(ask: str, reference: str) -> Item:
    return Item(ask=ask, worked=reference, reference=reference, verifier="word")


def _lettered(ask: str, right: str, wrong: list[str], rng: Random, *, because: str) -> Item | None:
    """A question with options A to D. None when there are too few distinct wrong ones.

    because: said before the letter. Asked for the letter alone, a small model just prefers some letters.
    """
    others = [option for option in dict.fromkeys(wrong) if option != right][:3]
    if len(others) < 3:
        return None
    options = [right, *others]
    rng.shuffle(options)
    letter = "ABCD"[options.index(right)]
    listed = "\n".join(f"{name}) {option}" for name, option in zip("ABCD", options, strict=True))
    return Item(
        ask=f"{ask}\n{listed}", worked=f"{because} The answer is {letter}.", reference=letter, verifier="choice"
    )


def _near(value: int, rng: Random) -> list[str]:
    """Plausible wrong numbers."""
    steps = rng.sample((-12, -10, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 10, 12, 20), 12)
    return [str(value + step) for step in steps if value + step > 0]


def small_sum(entry: Entry, _: Random) -> Item | None:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return None if " - " in expression else _numeric(f"{expression} = ?", f"{expression} = {answer}", answer)


def chain(entry: Entry, _: Random) -> Item:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return _numeric(f"Calculate {expression}.", f"{expression} = {answer}", answer)


def times_table(entry: Entry, _: Random) -> Item:
    left, right = entry["metadata"]["expression"].split(" * ")
    return _numeric(f"{left} x {right} = ?", f"{left} x {right} = {entry['answer']}", entry["answer"])


_NEGATIVE = re.compile(r"(?:^|[(*+-] )-[0-9]")


def brackets(entry: Entry, _: Random) -> Item | None:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    if _NEGATIVE.search(expression) or int(answer) < 0:
        return None
    return _numeric(f"Evaluate the expression {expression}", f"{expression} = {answer}", answer)


def equation(entry: Entry, _: Random) -> Item:
    equation, name = entry["metadata"]["equation"], entry["metadata"]["variable"]
    latex = equation.replace("*", "")
    ask = f"Solve $ {latex} $ for ${name}$. Put the answer in \\boxed{{}}."
    return _numeric(ask, f"$ {name} = \\boxed{{{entry['answer']}}} $", entry["answer"])


def gcd(entry: Entry, _: Random) -> Item:
    a, b = entry["metadata"]["numbers"]
    ask = f"What is the greatest common divisor of {a} and {b}?"
    return _numeric(ask, f"gcd({a}, {b}) = {entry['answer']}", entry["answer"])


def lcm(entry: Entry, rng: Random) -> Item | None:
    a, b = entry["metadata"]["numbers"]
    answer = int(entry["answer"])
    wrong = [str(value) for value in (a * b, a + b, answer * 2, abs(a - b) or answer + a)]
    return _lettered(
        f"Which number is the least common multiple of {a} and {b}?",
        str(answer),
        wrong + _near(answer, rng),
        rng,
        because=f"lcm({a}, {b}) = {answer}.",
    )


def sequence(entry: Entry, _: Random) -> Item | None:
    terms = [int(term) for term in entry["question"].removesuffix(", ?").split(", ")]
    gaps = {after - before for before, after in pairwise(terms)}
    if len(gaps) > 1 or terms[0] == terms[1] or min(terms) < 0:
        return None  # only steady counting, up or down, is within reach
    shown = ", ".join(map(str, terms))
    return _word(f"Write this list with its next number added: {shown}", f"{shown}, {entry['answer']}")


def counting(_: Entry, rng: Random) -> Item:
    first, length = rng.randint(0, rng.choice((9, 99, 999))), rng.randint(3, 5)
    run = [str(first + step) for step in range(length + 1)]
    return _word(f"Count one further: {', '.join(run[:-1])}", ", ".join(run))


def letters(entry: Entry, _: Random) -> Item:
    letter, span = entry["metadata"]["target_letter"], " ".join(entry["metadata"]["span"])
    return _numeric(f'How many times does the letter "{letter}" occur in "{span}"?', entry["answer"], entry["answer"])


def backward(entry: Entry, _: Random) -> Item:
    return _word(f"Spell the word {entry['metadata']['word']} backwards.", entry["answer"].lower())


def first_letter(entry: Entry, _: Random) -> Item:
    word = entry["metadata"]["word"].lower()
    return _word(f'What is the first letter of the word "{word}"?', word[0])


def last_letter(entry: Entry, _: Random) -> Item:
    word = entry["metadata"]["word"].lower()
    return _word(f'What is the last letter of the word "{word}"?', word[-1])


def alphabetical(entry: Entry, rng: Random) -> Item | None:
    words = [str(word).lower() for word in entry["metadata"]["original_words"]]
    if len(set(words)) < 4 or not all(word.isascii() and word.isalpha() for word in words):
        return None
    words = list(dict.fromkeys(words))[:4]
    first = min(words)
    return _lettered(
        "Which word comes first in the alphabet?",
        first,
        [w for w in words if w != first],
        rng,
        because=f"It is {first}.",
    )


def largest(entry: Entry, _: Random) -> Item | None:
    numbers = [float(number) for number in entry["metadata"]["original_numbers"]]
    shown = [str(round(number)) for number in numbers]
    if len(set(shown)) < len(shown):
        return None
    answer = max(shown, key=int)
    return _numeric(f"Which is the largest number: {', '.join(shown)}?", f"The largest is {answer}.", answer)


_FAMILIAR = (
    "dog", "cat", "horse", "lion", "tiger", "elephant", "cow", "chicken", "duck", "bird", "spider", "ant", "bee",
    "human", "sheep", "goat", "beetle", "crab",
)  # fmt: skip


def legs(entry: Entry, _: Random) -> Item | None:
    ((animal, count),) = entry["metadata"]["animals"].items()
    if animal not in _FAMILIAR or count < 2:
        return None
    legs = int(entry["answer"])
    return _numeric(
        f"How many legs do {count} {animal}s have?",
        f"{count} {animal}s have {count} * {legs // count} = {legs} legs.",
        legs,
    )


def weekday(entry: Entry, _: Random) -> Item:
    return _word(entry["question"], entry["answer"])


def leap_year(entry: Entry, rng: Random) -> Item:
    first = rng.choice(("Yes", "No"))
    second = "No" if first == "Yes" else "Yes"
    letter = "A" if entry["answer"] == first else "B"
    ask = f"Is {entry['metadata']['year']} a leap year?\nA) {first}\nB) {second}"
    return Item(ask=ask, worked=letter, reference=letter, verifier="choice")


def duration(entry: Entry, _: Random) -> Item:
    start, end = str(entry["metadata"]["start_time"])[11:16], str(entry["metadata"]["end_time"])[11:16]
    return Item(
        ask=f"A shift began at {start} and ended at {end}. How long was it, as HH:MM?",
        worked=entry["answer"],
        reference=entry["answer"],
        verifier="reasoning_gym:time_intervals",
        judged_by={"answer": entry["answer"], "metadata": {"task_type": entry["metadata"]["task_type"]}},
    )


def decimals(entry: Entry, _: Random) -> Item:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return _numeric(f"Add or subtract the decimals: {expression}", f"{expression} = {answer}", answer)


def fraction(entry: Entry, _: Random) -> Item | None:
    """Asks for the simplified numerator: a whole fraction would be judged by its value, simplified or not."""
    data = entry["metadata"]
    top, bottom = data["simplified_numerator"], data["simplified_denominator"]
    if bottom == 1 or top == data["numerator"]:
        return None
    given = f"\\frac{{{data['numerator']}}}{{{data['denominator']}}}"
    ask = f"Fill in the missing number: ${given} = \\frac{{?}}{{{bottom}}}$"
    return _numeric(ask, f"$\\boxed{{{top}}}$", top)


def bits(entry: Entry, _: Random) -> Item:
    ask = f"What does this Python expression evaluate to: bin({entry['metadata']['number']}).count('1')"
    return _numeric(ask, entry["answer"], entry["answer"])


def python_len(_: Entry, rng: Random) -> Item:
    word = "".join(rng.choice("abcdefghijklmnoprstuvw") for _ in range(rng.randint(1, 5)))
    plus = rng.randint(0, 6)
    total = len(word) + plus
    ask = f"What does this Python expression evaluate to? `len('{word}') + {plus}`"
    return _numeric(ask, f"{len(word)} + {plus} = {total}", total)


def first_word(entry: Entry, _: Random) -> Item | None:
    words = [str(word) for word in entry["metadata"]["words"]]
    if len(set(words)) < len(words) or not all(word.islower() and len(word) > 2 for word in words):
        return None
    return _word(f"What is the first word of this list: {', '.join(words)}?", words[0])


def plain_sum(entry: Entry, _: Random) -> Item | None:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return None if int(answer) < 0 else _numeric(f"What is {expression}? Give just the number.", str(answer), answer)


def needle(entry: Entry, _: Random) -> Item | None:
    text, _, question = entry["question"].partition("\n")
    question = question.strip().split("?")[0] + "?"
    return _word(f"{text.strip()} {question}", entry["answer"])


def kinship(entry: Entry, _: Random) -> Item:
    story = entry["question"].split("\n")[0]
    first, second = entry["metadata"]["person1"], entry["metadata"]["person2"]
    return _word(f"{story} What is {first} to {second}? Answer in one word.", entry["answer"])


def syllogism(entry: Entry, _: Random) -> Item:
    data = entry["metadata"]
    conclusion = data["conclusion"][0].lower() + data["conclusion"][1:]
    return _word(
        f"{data['premise1']}. {data['premise2']}. Does it follow that {conclusion}? Yes or No?", entry["answer"]
    )


def binary(entry: Entry, _: Random) -> Item:
    value = int(entry["metadata"]["decimal_value"])
    return _numeric(f"Write the decimal number {value} in binary.", f"{value:b}", f"{value:b}")


_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
    "Kenya": "Nairobi", "Cuba": "Havana", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Poland": "Warsaw", "Austria": "Vienna", "Germany": "Berlin", "Portugal": "Lisbon",
    "Ireland": "Dublin", "Hungary": "Budapest", "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Iran": "Tehran", "Iraq": "Baghdad", "Turkey": "Ankara",
    "Russia": "Moscow", "Ukraine": "Kyiv", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade",
    "Croatia": "Zagreb", "Denmark": "Copenhagen", "Belgium": "Brussels", "Morocco": "Rabat", "Ghana": "Accra",
    "Senegal": "Dakar", "Ethiopia": "Addis Ababa", "Nepal": "Kathmandu", "Indonesia": "Jakarta",
    "Philippines": "Manila", "Australia": "Canberra", "New Zealand": "Wellington", "Colombia": "Bogota",
    "Ecuador": "Quito", "Venezuela": "Caracas", "Uruguay": "Montevideo", "Jordan": "Amman", "Lebanon": "Beirut",
    "Tunisia": "Tunis", "Algeria": "Algiers", "Libya": "Tripoli", "Sudan": "Khartoum", "Uganda": "Kampala",
    "Rwanda": "Kigali", "Zambia": "Lusaka", "Mongolia": "Ulaanbaatar", "Latvia": "Riga", "Estonia": "Tallinn",
    "Lithuania": "Vilnius", "Slovakia": "Bratislava", "Slovenia": "Ljubljana", "Iceland": "Reykjavik",
}  # fmt: skip
_CAPITAL_FORMS = (
    "What is the capital of {}?",
    "Name the capital city of {}.",
    "{}: what is its capital?",
    "Which city is the capital of {}?",
    "Give me the capital of {}.",
)


def capital(_: Entry, rng: Random) -> Item:
    country = rng.choice(list(_CAPITALS))
    form = rng.choice(_CAPITAL_FORMS)
    return _word(form.format(country), _CAPITALS[country])


def _told(story: stories.Story, ending: str) -> Item:
    return _numeric(story.question, f"{story.reasoning} {ending}", story.answer)


def one_step(_: Entry, rng: Random) -> Item:
    story = stories.one_step(rng)
    return _told(story, f"The answer is {story.answer}.")


def two_step(_: Entry, rng: Random) -> Item:
    story = stories.two_step(rng)
    return _told(story, f"The answer is {story.answer}.")


def money(_: Entry, rng: Random) -> Item:
    story = stories.money_and_rates(rng)
    return _told(story, f"The answer is $\\boxed{{{story.answer}}}$.")
