"""The built-in calibration questions: families that a small model solves nearly always, sometimes, and never.

An allocator learns what a strategy is worth from questions on which strategies *differ*. So the families span
one sample being right almost always to never, the vote helping, doing nothing and hurting, and a right answer
hiding among wrong ones; and numbers, words and lengths vary inside a family, because those are the features of a
query. Most families are reasoning-gym tasks at easy settings, asked briefly, with worked examples as earlier turns.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from router import stories
from router.questions import GYM_MISSING, Question

_Entry = Mapping[str, Any]
_EXAMPLES_SEED = 20_250  # worked examples never change with the caller's seed: one cached prefix for each family
_ENOUGH = 40  # draws per question asked for before a family is held to be exhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One drawn question. `worked` is how an example answers it."""

    ask: str
    worked: str
    reference: str
    verifier: str = "number"
    judged_by: _Entry = field(default_factory=dict[str, Any])  # what reasoning-gym's own judge needs of its entry


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """How to draw and present one kind of question.

    task: reasoning-gym's name, None for own templates. configs: settings, drawn from in turn.
    present: None refuses an entry that suits the family badly.
    """

    name: str
    present: Callable[[_Entry, Random], _Item | None]
    task: str | None = None
    configs: tuple[Mapping[str, Any], ...] = ({},)
    examples: int = 3
    max_tokens: int = 20


def _numeric(ask: str, worked: str, reference: object) -> _Item:
    return _Item(ask=ask, worked=worked, reference=str(reference))


def _word(ask: str, reference: str) -> _Item:
    return _Item(ask=ask, worked=reference, reference=reference, verifier="word")


def _lettered(ask: str, right: str, wrong: list[str], rng: Random) -> _Item | None:
    """A question with options A to D. None when there are too few distinct wrong ones."""
    others = [option for option in dict.fromkeys(wrong) if option != right][:3]
    if len(others) < 3:
        return None
    options = [right, *others]
    rng.shuffle(options)
    letter = "ABCD"[options.index(right)]
    listed = "\n".join(f"{name}) {option}" for name, option in zip("ABCD", options, strict=True))
    return _Item(ask=f"{ask}\n{listed}", worked=f"The answer is {letter}.", reference=letter, verifier="choice")


def _near(value: int, rng: Random) -> list[str]:
    """Plausible wrong numbers."""
    steps = rng.sample((-12, -10, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 10, 12, 20), 12)
    return [str(value + step) for step in steps if value + step > 0]


def _small_sum(entry: _Entry, _: Random) -> _Item | None:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return None if int(answer) < 0 else _numeric(f"{expression} = ?", f"{expression} = {answer}", answer)


def _chain(entry: _Entry, _: Random) -> _Item:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return _numeric(f"Calculate {expression}.", f"{expression} = {answer}", answer)


def _times_table(entry: _Entry, _: Random) -> _Item:
    left, right = entry["metadata"]["expression"].split(" * ")
    return _numeric(f"What is {left} times {right}?", f"{left} times {right} is {entry['answer']}", entry["answer"])


def _brackets(entry: _Entry, _: Random) -> _Item:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return _numeric(f"Evaluate the expression {expression}", f"{expression} = {answer}", answer)


def _equation(entry: _Entry, _: Random) -> _Item:
    equation, name = entry["metadata"]["equation"], entry["metadata"]["variable"]
    latex = equation.replace("*", "")
    ask = f"Solve $ {latex} $ for ${name}$. Put the answer in \\boxed{{}}."
    return _numeric(ask, f"$ {name} = \\boxed{{{entry['answer']}}} $", entry["answer"])


def _gcd(entry: _Entry, _: Random) -> _Item:
    a, b = entry["metadata"]["numbers"]
    ask = f"What is the greatest common divisor of {a} and {b}?"
    return _numeric(ask, f"gcd({a}, {b}) = {entry['answer']}", entry["answer"])


def _lcm(entry: _Entry, rng: Random) -> _Item | None:
    a, b = entry["metadata"]["numbers"]
    answer = int(entry["answer"])
    wrong = [str(value) for value in (a * b, a + b, answer * 2, abs(a - b) or answer + a)]
    return _lettered(
        f"Which number is the least common multiple of {a} and {b}?", str(answer), wrong + _near(answer, rng), rng
    )


def _sequence(entry: _Entry, _: Random) -> _Item | None:
    terms = entry["question"].removesuffix(", ?")
    if "0, 0" in terms or len(terms) > 30:
        return None  # died out, or grows too fast to be easy
    return _numeric(f"Which number comes next: {terms}, ...", f"{terms}, {entry['answer']}", entry["answer"])


def _letters(entry: _Entry, _: Random) -> _Item:
    letter, span = entry["metadata"]["target_letter"], " ".join(entry["metadata"]["span"])
    return _numeric(f'How many times does the letter "{letter}" occur in "{span}"?', entry["answer"], entry["answer"])


def _backward(entry: _Entry, _: Random) -> _Item:
    return _word(f"Spell the word {entry['metadata']['word']} backwards.", entry["answer"].lower())


def _first_letter(entry: _Entry, _: Random) -> _Item:
    word = entry["metadata"]["word"].lower()
    return _word(f'What is the first letter of the word "{word}"?', word[0])


def _last_letter(entry: _Entry, _: Random) -> _Item:
    word = entry["metadata"]["word"].lower()
    return _word(f'What is the last letter of the word "{word}"?', word[-1])


def _alphabetical(entry: _Entry, rng: Random) -> _Item | None:
    words = [str(word).lower() for word in entry["metadata"]["original_words"]]
    if len(set(words)) < 4 or not all(word.isascii() and word.isalpha() for word in words):
        return None
    words = list(dict.fromkeys(words))[:4]
    first = min(words)
    return _lettered("Which word comes first in the alphabet?", first, [w for w in words if w != first], rng)


def _largest(entry: _Entry, _: Random) -> _Item | None:
    numbers = [float(number) for number in entry["metadata"]["original_numbers"]]
    shown = [str(round(number)) for number in numbers]
    if len(set(shown)) < len(shown):
        return None
    answer = max(shown, key=int)
    return _numeric(f"Which is the largest number: {', '.join(shown)}?", f"The largest is {answer}.", answer)


def _legs(entry: _Entry, _: Random) -> _Item:
    animals = entry["metadata"]["animals"]
    listed = " and ".join(f"{count} {name if count == 1 else name + 's'}" for name, count in animals.items())
    return _numeric(f"How many legs do {listed} have in total?", f"{entry['answer']} legs", entry["answer"])


def _weekday(entry: _Entry, _: Random) -> _Item:
    return _word(entry["question"].split(" Write")[0].split(" Give")[0].split(" Answer")[0], entry["answer"])


def _leap_year(entry: _Entry, _: Random) -> _Item:
    return _word(f"Is {entry['metadata']['year']} a leap year? Answer Yes or No.", entry["answer"])


def _duration(entry: _Entry, _: Random) -> _Item:
    start, end = str(entry["metadata"]["start_time"])[11:16], str(entry["metadata"]["end_time"])[11:16]
    return _Item(
        ask=f"A shift began at {start} and ended at {end}. How long was it, as HH:MM?",
        worked=entry["answer"],
        reference=entry["answer"],
        verifier="reasoning_gym:time_intervals",
        judged_by={"answer": entry["answer"], "metadata": {"task_type": entry["metadata"]["task_type"]}},
    )


def _decimals(entry: _Entry, _: Random) -> _Item:
    expression, answer = entry["metadata"]["expression"], entry["answer"]
    return _numeric(f"Add or subtract the decimals: {expression}", f"{expression} = {answer}", answer)


def _fraction(entry: _Entry, _: Random) -> _Item | None:
    data = entry["metadata"]
    top, bottom = data["simplified_numerator"], data["simplified_denominator"]
    if bottom == 1:
        return None
    return _Item(
        ask=f"Simplify the fraction $\\frac{{{data['numerator']}}}{{{data['denominator']}}}$ to lowest terms.",
        worked=f"{top}/{bottom}",
        reference=f"{top}/{bottom}",
        verifier="word",
    )


def _bits(entry: _Entry, _: Random) -> _Item:
    ask = f"What does this Python expression evaluate to: bin({entry['metadata']['number']}).count('1')"
    return _numeric(ask, entry["answer"], entry["answer"])


def _python_len(_: _Entry, rng: Random) -> _Item:
    word = "".join(rng.choice("abcdefghijklmnoprstuvw") for _ in range(rng.randint(1, 7)))
    plus = rng.randint(0, 9)
    tail = f" + {plus}" if plus else ""
    ask = f"What does this Python expression evaluate to? `len('{word}'){tail}`"
    return _numeric(ask, f"`{len(word) + plus}`", len(word) + plus)


def _needle(entry: _Entry, _: Random) -> _Item | None:
    text, _, question = entry["question"].partition("\n")
    question = question.strip().split("?")[0] + "?"
    return _word(f"{text.strip()}\n{question} Reply with the name only.", entry["answer"])


def _kinship(entry: _Entry, rng: Random) -> _Item | None:
    story = entry["question"].split("\n")[0]
    first, second = entry["metadata"]["person1"], entry["metadata"]["person2"]
    kin = ["mother", "father", "son", "daughter", "sister", "brother", "wife", "husband", "grandmother", "grandfather"]
    rng.shuffle(kin)
    return _lettered(f"{story} What is {first} to {second}?", entry["answer"], kin, rng)


def _kinship_open(entry: _Entry, _: Random) -> _Item:
    story = entry["question"].split("\n")[0]
    first, second = entry["metadata"]["person1"], entry["metadata"]["person2"]
    return _word(f"{story} What is {first} to {second}? Answer in one word.", entry["answer"])


def _syllogism(entry: _Entry, _: Random) -> _Item:
    data = entry["metadata"]
    ask = f"{data['premise1']}. {data['premise2']}. Does it follow that {data['conclusion'][0].lower()}{data['conclusion'][1:]}? Yes or No?"
    return _word(ask, entry["answer"])


def _cipher(entry: _Entry, _: Random) -> _Item:
    data = entry["metadata"]
    return _word(f"Undo the Caesar cipher with shift {data['rotation']}: {data['cipher_text']}", data["clear_text"].lower())


def _angle(entry: _Entry, _: Random) -> _Item:
    known = entry["metadata"]["known_angles"]
    shown = "$ and $".join(f"{angle:g}^\\circ" for angle in known)
    ask = f"Two angles of a triangle measure ${shown}$. Find the third angle in degrees."
    left = f"180 - {known[0]:g} - {known[1]:g}"
    return _numeric(ask, f"{left} = {entry['answer']}", entry["answer"])


def _binary(entry: _Entry, _: Random) -> _Item:
    value = int(entry["metadata"]["decimal_value"])
    return _numeric(f"Write the decimal number {value} in binary.", f"{value:b}", f"{value:b}")


def _sorted_numbers(entry: _Entry, _: Random) -> _Item:
    numbers = [round(float(number)) for number in entry["metadata"]["original_numbers"]]
    answer = ", ".join(map(str, sorted(numbers)))
    return _word(f"Sort from small to large: {', '.join(map(str, numbers))}", answer)


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


def _capital(_: _Entry, rng: Random) -> _Item | None:
    country = rng.choice(list(_CAPITALS))
    cities = [city for city in _CAPITALS.values() if city != _CAPITALS[country]]
    rng.shuffle(cities)
    return _lettered(f"Which city is the capital of {country}?", _CAPITALS[country], cities, rng)


def _capital_open(_: _Entry, rng: Random) -> _Item:
    country = rng.choice(list(_CAPITALS))
    form = rng.choice(("What is the capital of {}?", "Name the capital city of {}.", "{}: what is its capital?"))
    return _word(form.format(country) + " Answer with the city only.", _CAPITALS[country])


def _told(story: stories.Story, ending: str) -> _Item:
    return _numeric(story.question, f"{story.reasoning} {ending}", story.answer)


def _one_step(_: _Entry, rng: Random) -> _Item:
    story = stories.one_step(rng)
    return _told(story, f"The answer is {story.answer}.")


def _two_step(_: _Entry, rng: Random) -> _Item:
    story = stories.two_step(rng)
    return _told(story, f"The answer is {story.answer}.")


def _money(_: _Entry, rng: Random) -> _Item:
    story = stories.money_and_rates(rng)
    return _told(story, f"The answer is $\\boxed{{{story.answer}}}$.")


_FAMILIES: tuple[_Family, ...] = (
    _Family(name="small_sum", present=_small_sum, task="chain_sum", configs=({"max_terms": 2, "max_digits": 1}, {"max_terms": 2, "max_digits": 2}), max_tokens=16),
    _Family(name="chain_sum", present=_chain, task="chain_sum", configs=({"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 2}, {"min_terms": 2, "max_terms": 3, "max_digits": 3}), max_tokens=24),
    _Family(name="times_table", present=_times_table, task="products", configs=({"max_digits": 1}, {"max_digits": 2}), max_tokens=16),
    _Family(name="brackets", present=_brackets, task="basic_arithmetic", configs=({"min_terms": 3, "max_terms": 3, "max_digits": 1, "operators": ("+", "-", "*"), "allow_negation": False},), max_tokens=24),
    _Family(name="equation", present=_equation, task="simple_equations", configs=({"max_terms": 2, "max_value": 9, "operators_weights": [0.5, 0.5, 0.0]}, {"max_terms": 2, "max_value": 20}), max_tokens=20),
    _Family(name="gcd", present=_gcd, task="gcd", configs=({"min_value": 2, "max_value": 30}, {"min_value": 2, "max_value": 12}), max_tokens=20),
    _Family(name="lcm", present=_lcm, task="lcm", configs=({"min_value": 2, "max_value": 12},), max_tokens=16),
    _Family(name="sequence", present=_sequence, task="number_sequence", configs=({"max_complexity": 1, "min_value": 1, "max_value": 40, "max_terms": 5},), max_tokens=32),
    _Family(name="letter_count", present=_letters, task="letter_counting", configs=({"min_words": 1, "max_words": 3},), max_tokens=16),
    _Family(name="backward", present=_backward, task="spell_backward", configs=({"min_word_len": 3, "max_word_len": 6},), max_tokens=16),
    _Family(name="first_letter", present=_first_letter, task="spell_backward", configs=({"min_word_len": 3, "max_word_len": 10},), max_tokens=16),
    _Family(name="last_letter", present=_last_letter, task="spell_backward", configs=({"min_word_len": 3, "max_word_len": 7},), max_tokens=16),
    _Family(name="alphabetical", present=_alphabetical, task="word_sorting", configs=({"min_words": 4, "max_words": 6},), max_tokens=16),
    _Family(name="largest", present=_largest, task="number_sorting", configs=({"min_numbers": 3, "max_numbers": 3, "min_value": 1, "max_value": 99, "max_decimals": 0}, {"min_numbers": 3, "max_numbers": 5, "min_value": 1, "max_value": 999, "max_decimals": 0}), max_tokens=16),
    _Family(name="legs", present=_legs, task="leg_counting", configs=({"min_animals": 1, "max_animals": 2, "max_instances": 4},), max_tokens=16),
    _Family(name="weekday", present=_weekday, task="calendar_arithmetic", configs=({"tasks": ["weekday_offset"], "offset_upper_bound": 7},), max_tokens=16),
    _Family(name="leap_year", present=_leap_year, task="calendar_arithmetic", configs=({"tasks": ["is_leap_year"]},), max_tokens=16),
    _Family(name="duration", present=_duration, task="time_intervals", configs=({"task_types": ["time"], "max_time_difference_seconds": 14400},), max_tokens=16),
    _Family(name="decimals", present=_decimals, task="decimal_chain_sum", configs=({"max_terms": 2, "max_digits": 1, "max_decimal_places": 1},), max_tokens=24, examples=1),
    _Family(name="fraction", present=_fraction, task="fraction_simplification", configs=({"max_value": 9, "min_factor": 2, "max_factor": 9},), max_tokens=16),
    _Family(name="bits", present=_bits, task="count_bits", configs=({"max_n": 63},), max_tokens=16),
    _Family(name="python_len", present=_python_len, max_tokens=16),
    _Family(name="needle", present=_needle, task="needle_haystack", configs=({"min_num_statements": 2, "max_num_statements": 8},), examples=1, max_tokens=16),
    _Family(name="kinship", present=_kinship, task="family_relationships", configs=({"min_family_size": 3, "max_family_size": 4},), max_tokens=16),
    _Family(name="kinship_open", present=_kinship_open, task="family_relationships", configs=({"min_family_size": 3, "max_family_size": 5},), max_tokens=16),
    _Family(name="syllogism", present=_syllogism, task="syllogism", examples=0, max_tokens=24),
    _Family(name="cipher", present=_cipher, task="caesar_cipher", configs=({"min_words": 1, "max_words": 2, "max_rotation": 3},), max_tokens=24),
    _Family(name="angle", present=_angle, task="simple_geometry", configs=({"min_sides": 3, "max_sides": 3},), max_tokens=24),
    _Family(name="binary", present=_binary, task="base_conversion", configs=({"min_value": 2, "max_value": 255},), max_tokens=16),
    _Family(name="sorted_numbers", present=_sorted_numbers, task="number_sorting", configs=({"min_numbers": 3, "max_numbers": 4, "min_value": 1, "max_value": 99, "max_decimals": 0},), max_tokens=24),
    _Family(name="capital", present=_capital, max_tokens=16),
    _Family(name="capital_open", present=_capital_open, examples=0, max_tokens=16),
    _Family(name="story_one_step", present=_one_step, max_tokens=96),
    _Family(name="story_two_step", present=_two_step, max_tokens=96),
    _Family(name="story_money", present=_money, max_tokens=96),
)  # fmt: skip


def _create_dataset() -> Callable[..., Any]:
    """reasoning-gym's factory, imported only by those who ask for questions: it is a dependency of calibration alone."""
    try:
        return importlib.import_module("reasoning_gym").create_dataset
    except ImportError as error:
        raise ImportError(GYM_MISSING) from error


def _items(family: _Family, create: Callable[..., Any], *, seed: int, draws: int) -> Iterator[_Item]:
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
    worked: dict[str, str] = {}
    for item in _items(family, create, seed=_EXAMPLES_SEED, draws=40):
        if len(worked) >= family.examples:
            break
        if item.worked not in worked.values():
            worked[item.ask] = item.worked
    return worked


def _question(family: _Family, item: _Item, shown: Mapping[str, str]) -> Question:
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


def builtin_questions(*, per_family: int, seed: int) -> list[Question]:
    """Up to `per_family` different questions of every family; the same arguments give the same list.

    A family runs dry only when it has fewer different questions than asked for. An id names the question's text,
    so the same question has the same id under every seed. Raises ImportError when reasoning-gym is missing.
    """
    create = _create_dataset()
    questions: list[Question] = []
    for family in _FAMILIES:
        shown = _examples(family, create)
        seen = set(shown)
        for item in _items(family, create, seed=seed, draws=_ENOUGH * per_family):
            if len(seen) - len(shown) >= per_family:
                break
            if item.ask not in seen:
                seen.add(item.ask)
                questions.append(_question(family, item, shown))
    return questions
