"""What counts as the same answer."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from strategies.answers import Extracted, answer_of, expected_form, extract
from strategies.types import Budget, Candidate, LogprobSummary, Prices, Query
from strategies.voting import Ballot

STEPS = "First we note that there were 3 of them in 1912 and 17 in 1950, and so it went on for 40 years. " * 3


def query(content: Any, **sampling: Any) -> Query:
    return Query(
        id="q",
        model="m",
        messages=[{"role": "user", "content": content}],
        sampling=sampling,
        budget=Budget(max_total_tokens=100, deadline=1.0),
        prices=Prices(token_price=0, latency_price=0),
    )


def drawn(
    index: int, text: str = "", *, finish: str | None = "stop", mean: float | None = None, **more: Any
) -> Candidate:
    logprobs = None if mean is None else LogprobSummary(tokens=1, total=mean)
    return Candidate(index=index, text=text, tokens=1, finish_reason=finish, logprobs=logprobs, **more)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("42", "42"),
        ("42.", "42"),
        ("**42**", "42"),
        ("1,234", "1234"),
        ("1,234,567.80", "1234567.8"),
        ("42.0", "42"),
        ("007", "7"),
        ("+7", "7"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("\u22125", "-5"),
        ("-5", "-5"),
        ("$5", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("\\$5", "5"),
        ("5 €", "5"),
        ("$1,234.50", "1234.5"),
        ("12.99", "12.99"),
        (".5", "1/2"),
        ("0.5", "1/2"),
        ("1/2", "1/2"),
        ("2/4", "1/2"),
        ("-2/4", "-1/2"),
        ("0.75", "3/4"),
        ("3/16", "0.1875"),
        ("1/3", "1/3"),
        ("4/2", "2"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("50%", "50%"),
        ("50 %", "50%"),
        ("50.0 percent", "50%"),
        ("50\\%", "50%"),
        ("1e3", "1000"),
        ("1.5E-1", "0.15"),
        ("\\frac{3}{4}", "3/4"),
        ("$\\dfrac{3}{4}$", "3/4"),
        ("\\(-\\frac{3}{4}\\)", "-3/4"),
        ("\\[\\frac34\\]", "3/4"),
        ("1{,}234", "1234"),
        ("12 apples", "12"),
        ("12 cm^2", "12"),
        ("12kg", "12"),
        ("90°", "90"),
        ("90^\\circ", "90"),
        ("9" * 50, "9" * 50),
        ("0" * 50 + "7", "7"),
        ("-" + "9" * 50 + ".50", "-" + "9" * 50 + ".5"),
        ("1e999999999", "1e999999999"),
        ("1e-999999999", "1e-999999999"),
        ("0e999999999", "0"),
    ],
)
def test_a_number_has_one_spelling_wherever_it_is_written(written: str, value: str) -> None:
    assert extract(written) == Extracted(value=value, form="number")
    assert extract(f"The answer is {written}.") == Extracted(value=value, form="labelled")
    assert extract(f"{STEPS}\nAnswer: {written}") == Extracted(value=value, form="labelled")
    assert extract(f"So \\boxed{{{written}}} it is") == Extracted(value=value, form="boxed")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 12.", "12"),
        ("The answer is 12. That makes 3 each.", "12"),
        ("**Answer:** 12", "12"),
        ("**Answer**: 12", "12"),
        ("Answer: **12**", "12"),
        ("The answer is **12** apples.", "12"),
        ("the final answer is: 12", "12"),
        ("**Final Answer**\n\n12", "12"),
        ("## Final Answer\n12 apples", "12"),
        ("The answer to the question is 12", "12"),
        ("Answer (in dollars): $12", "12"),
        ("So 6 and 6.\n#### 12", "12"),
        ("Answer: x = 12", "12"),
        ("Answer: 2 * 6 = 12", "12"),
        ("Answer: 12 (twelve)", "12"),
        ("The answer is 12, because 3 * 4 is that.", "12"),
        ("The answer is 3. No wait, the answer is 12.", "12"),
        ("so we get\n3 * 4 = 12", "12"),
        ("3 * 4 = 12\nJanet makes $12 every day.", "12"),
        (f"{STEPS}\nx = 12", "12"),
        ("The answer is:\n\n$$\\frac{3}{4}$$", "3/4"),
        ("The answer is Wednesday.", "wednesday"),
        ("The answer is **Paris**, as everybody knows", "paris"),
        ("The answer is J. K. Rowling. She wrote it.", "j. k. rowling"),
        ("Answer: St. Petersburg.", "st. petersburg"),
        ('Answer: "Yes"', "yes"),
        ("Answer: 12 million", "12 million"),
        ("Answer: 12 or 13", "12 or 13"),
        ("Answer: 3 pm", "3 pm"),
        ("Answer: 12:30", "12:30"),
        ("Answer: 3x + 2", "3x+2"),
        ("Answer: 3x", "3x"),
        ("Answer: 3/0", "3/0"),
        ("Answer: 2024-01-15", "2024-01-15"),
        ("Answer: 5, 7", "5,7"),
        ("Answer: 2 hours 20 minutes", "2 hours 20 minutes"),
    ],
)
def test_a_label_marks_the_answer(text: str, value: str) -> None:
    assert extract(text) == Extracted(value=value, form="labelled")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("The answer is 3. \\boxed{2}", "2"),
        ("\\boxed{2} and then \\boxed{3", "2"),
        ("\\boxed{2} and then \\boxed{ }", "2"),
        ("\\boxed{\\boxed{2}}", "2"),
        ("$\\boxed{\\text{Wednesday}}$", "wednesday"),
        ("\\boxed{12\\text{ cm}^2}", "12"),
        ("\\boxed{(3, 4)}", "(3,4)"),
        ("\\boxed{\\left( 3, 4 \\right)}", "(3,4)"),
        ("\\boxed{x = 5}", "5"),
        ("\\boxed{\\frac{x}{2}}", "\\frac{x}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1,2\\}"),
        ("\\fbox{7}", "7"),
        ("```\n\\boxed{7}\n```", "7"),
    ],
)
def test_the_last_closed_box_wins(text: str, value: str) -> None:
    assert extract(text) == Extracted(value=value, form="boxed")


@pytest.mark.parametrize(
    ("text", "value", "form"),
    [
        ("Wednesday.", "wednesday", "text"),
        ("  **Wednesday**\n", "wednesday", "text"),
        ("The  Eiffel\nTower", "the eiffel tower", "text"),
        ("- Paris", "paris", "text"),
        ("Janet makes $18 per day.", "18", "number"),
        ("It costs 1,200 dollars", "1200", "number"),
        ("6 + 6 = 12.\nThen 3 are lost, which leaves 9 of them.", "9", "number"),
        ("```\n42\n```", "42", "number"),
        (f"{STEPS}\n\n**42**", "42", "number"),
        ("It was 12:30.", "it was 12:30", "text"),
        ("Water is H2O.", "water is h2o", "text"),
        ("The roots are 2, 3", "the roots are 2, 3", "text"),
        ("Either 2 or 3", "either 2 or 3", "text"),
        ("Between 10-12", "between 10-12", "text"),
        ("July 4, 1776", "july 4, 1776", "text"),
        ("It has 2 million people", "it has 2 million people", "text"),
        ("1. Buy milk\n2. Sell milk", "1. buy milk 2. sell milk", "text"),
        ("see https://x.org/?v=5", "see https://x.org/?v=5", "text"),
        ("x >= 5", "5", "number"),
        ("```python\nx = 1\ny = 5\n```", "python x = 1 y = 5", "text"),
        ("I don't know the answer\nGoodbye", "i don't know the answer goodbye", "text"),
    ],
)
def test_unmarked_text_is_read_with_care(text: str, value: str, form: str) -> None:
    assert extract(text) == Extracted(value=value, form=form)


def test_long_prose_is_not_its_last_number() -> None:
    """Two essays that happen to end with the same year do not agree."""
    one, other = extract(f"{STEPS}It ended in 1945."), extract(f"Once upon a time. {STEPS}It ended in 1945.")
    assert one is not None
    assert other is not None
    assert one.form == other.form == "text"
    assert one.value != other.value


@pytest.mark.parametrize("text", ["", "  \n", "***", "\\boxed{}", "...", "<think>so 5", "<think>so 5</think>\n"])
def test_blank_abstains(text: str) -> None:
    assert extract(text) is None


def test_reasoning_is_not_the_answer() -> None:
    assert extract("<think>The answer is 5.</think>The answer is 7.") == Extracted(value="7", form="labelled")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("**B) Paris**", "B"),
        ("B. I think so", "B"),
        ("Let's see.\n\nB", "B"),
        ("A) no\nB) yes\nC) no\n\nB", "B"),
        ("The answer is (B) because of it", "B"),
        ("The answer is B because of it", "B"),
        ("**Answer: B. Paris**", "B"),
        ("The correct answer is **B**.", "B"),
        ("The answer is option B", "B"),
        ("\\boxed{\\text{(B)}}", "B"),
        ("The answer is A because of it", "A"),
        ("A is wrong, so I choose option B", "B"),
        ("I like (B).", "B"),
        ("B is correct", "B"),
    ],
)
def test_a_choice_is_its_letter(text: str, value: str) -> None:
    assert extract(text, form="choice") == Extracted(value=value, form="choice")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 7.", "7"),
        ("Answer: A car", "a car"),
        ("Answer: T-shirt", "t-shirt"),
        ("Answer: B and C", "b and c"),
    ],
)
def test_a_marked_answer_without_a_letter_still_counts(text: str, value: str) -> None:
    assert extract(text, form="choice") == Extracted(value=value, form="labelled")


@pytest.mark.parametrize("text", ["not sure", "a car", "I think so", "A) no\nB) maybe", "(A) or (B)"])
def test_no_clear_choice_abstains(text: str) -> None:
    assert extract(text, form="choice") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"b": 1.0, "a": [true, null]}', '{"a":[true,null],"b":1}'),
        ('```json\n{"a": 1}\n```', '{"a":1}'),
        (" [1, 2.5] ", "[1,2.5]"),
        ('{"code": "```"}', '{"code":"```"}'),
        ('{"a": 1', None),
        ("Sure! {}", None),
        ("NaN", None),
        ("[" * 100_000, None),
        ("9" * 5_000, None),
        ("", None),
    ],
)
def test_json_is_compared_as_a_value(text: str, value: str | None) -> None:
    assert extract(text, form="json") == (value and Extracted(value=value, form="json"))


@pytest.mark.parametrize(
    ("content", "sampling", "form"),
    [
        ("What is 2 + 2?", {}, None),
        ("As JSON", {"response_format": {"type": "json_object"}}, "json"),
        ("A) x B) y", {"response_format": {"type": "json_schema", "json_schema": {}}}, "json"),
        ("Plain", {"response_format": {"type": "text"}}, None),
        ("Plain", {"response_format": "odd"}, None),
        ("Which? A) 4 B) 7", {}, "choice"),
        ("Which?\n(A) 4\n(B) 7", {}, "choice"),
        ("Which?\nA. 4\nB. 7", {}, "choice"),
        ("Which?\n**A.** 4\n**B.** 7", {}, "choice"),
        ([{"type": "text", "text": "Which?"}, {"type": "text", "text": "A) 4\nB) 7"}], {}, "choice"),
        ([{"type": "image_url", "image_url": {}}, 3], {}, None),
        (None, {}, None),
        ("How far is it from (A) to (B) if P(A) = 1 and P(B) = 2?", {}, None),
        ("Prove f(A) = f(B)", {}, None),
        ("The points (A) and (B) lie on a line", {}, None),
        ("Vitamin A. Then B. Then C.", {}, None),
        ("a) compute b) explain", {}, None),
    ],
)
def test_the_question_says_which_form_it_wants(content: Any, sampling: dict[str, Any], form: str | None) -> None:
    assert expected_form(query(content, **sampling)) == form


def test_only_the_last_user_message_counts() -> None:
    first = query("Which? A) 4 B) 7")
    later = [*first.messages, {"role": "assistant", "content": "A"}, {"role": "user", "content": "Why?"}]
    assert expected_form(query("Which? A) 4 B) 7")) == "choice"
    assert expected_form(Query(**{**{f: getattr(first, f) for f in first.__slots__}, "messages": later})) is None


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_calls_are_compared_by_name_and_arguments() -> None:
    one = drawn(0, "calling", finish="tool_calls", tool_calls=[call("f", '{"a": 1, "b": 2}')])
    same = drawn(1, "", finish="tool_calls", tool_calls=[{**call("f", '{"b":2,"a":1.0}'), "id": "y"}])
    parsed = drawn(2, "", finish="tool_calls", tool_calls=[call("f", {"b": 2, "a": 1})])
    other = drawn(3, "", finish="tool_calls", tool_calls=[call("g", '{"a": 1, "b": 2}')])
    assert [len(g.members) for g in Ballot.of([one, same, parsed, other], form="json").groups] == [3, 1]
    found = answer_of(one, form="json")
    assert found is not None
    assert found.form == "tool_calls"
    assert json.loads(found.value)


def test_parallel_tool_calls_are_equal_in_any_order_but_not_in_any_number() -> None:
    one, other = call("f", "{}"), call("g", '{"a": 1}')
    candidates = [
        drawn(0, tool_calls=[one, other]),
        drawn(1, tool_calls=[other, one]),
        drawn(2, tool_calls=[one, one, other]),
        drawn(3, tool_calls=[one]),
        drawn(4, tool_calls=[call("f", "")]),
    ]
    assert [[c.index for c in g.members] for g in Ballot.of(candidates, form=None).groups] == [[0, 1], [3, 4], [2]]


def test_broken_arguments_count_as_written() -> None:
    """Where nobody has better ones: see test_demands.py."""
    candidates = [
        drawn(0, tool_calls=[call("f", "{")]),
        drawn(1, tool_calls=[call("f", "{")]),
        drawn(2, tool_calls=[call("f", '"{"')]),
        drawn(3, tool_calls=[{}]),
    ]
    assert [[c.index for c in g.members] for g in Ballot.of(candidates, form=None).groups] == [[0, 1], [2], [3]]


@pytest.mark.parametrize("finish", [None, "length", "abort"])
def test_a_cut_candidate_abstains(finish: str | None) -> None:
    assert answer_of(drawn(0, "42", finish=finish), form=None) is None
    assert answer_of(drawn(0, finish=finish, tool_calls=[call("f", "{}")]), form=None) is None


def test_groups_are_ordered_by_size_then_logprob_then_draw() -> None:
    candidates = [
        drawn(0, "1"),
        drawn(1, "2", mean=-0.5),
        drawn(2, "3", mean=-0.1),
        drawn(3, "0.5"),
        drawn(4, "The answer is \\frac{1}{2}."),
        drawn(5, "4"),
        drawn(6, ""),
        drawn(7, "3", finish="length"),
    ]
    groups = Ballot.of(reversed(candidates), form=None).groups
    assert [(g.value, [c.index for c in g.members]) for g in groups] == [
        ("1/2", [3, 4]),
        ("3", [2]),
        ("2", [1]),
        ("1", [0]),
        ("4", [5]),
    ]


HOSTILE = [
    "9" * 100_000,
    "9," * 50_000,
    "1,111" + ",111" * 25_000 + "1",
    "1." * 50_000,
    "1/" * 50_000,
    "1 1/" * 25_000,
    "1e" + "9" * 100_000,
    "\\boxed{" * 14_000,
    "\\boxed{" * 10_000 + "}" * 10_000,
    "\\boxed{1}" * 10_000 + "{" * 10_000,
    "{" * 50_000 + "}" * 50_000,
    "(" * 100_000,
    "\\text{" * 16_000,
    "\\frac{1}{" * 10_000,
    "$" * 100_000,
    "answer to " * 10_000,
    "answer is " * 10_000,
    "answer is " + "\\( " * 33_000,
    "answer is " + "$ a" * 33_000,
    "answer is $" + "! " * 50_000,
    "\\boxed{5" + "' ! " * 25_000 + "}",
    "the answer to the answer for " * 3_500,
    "answer: \n" * 10_000,
    "answer:" + " " * 100_000,
    "####" * 25_000,
    "#### . " * 14_000,
    "= " * 50_000,
    "x = 1\n" * 16_000,
    "1\n" * 50_000,
    " \n" * 50_000 + "x",
    "answer" + "*" * 100_000,
    "Answer: " + "Mr. " * 25_000,
    "Answer: 12 " + "a" * 100_000,
    "```" * 33_000,
    "(A) " * 25_000,
    "A\n" * 50_000,
    "- " * 50_000,
    "\ud800" * 1_000,
    "²" * 1_000,
    "</think>" * 10_000,
]


@pytest.mark.parametrize("form", [None, "choice", "json", "text"])
def test_hostile_texts_cost_linear_time(form: str | None) -> None:
    """The slowest takes a tenth of a second; a quadratic pass over 100 KB would take a minute."""
    for text in HOSTILE:
        began = time.perf_counter()
        extract(text, form=form)
        expected_form(query(text))
        assert time.perf_counter() - began < 1.0, text[:20]


def test_thirty_two_answers_are_grouped_within_five_milliseconds() -> None:
    text = "We add 3 to 4 and see that it is fine, *of course*, since 2 * 2 = 4.\n" * 15
    candidates = [drawn(i, f"{text}\nThe answer is {i % 5}.") for i in range(32)]
    fastest = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        assert len(Ballot.of(candidates, form=None).groups) == 5
        fastest = min(fastest, time.perf_counter() - began)
    assert fastest < 0.005
