"""Code, the client's own pattern, equations and lists: how they are read, and what they cost."""

from __future__ import annotations

import time

import pytest

from server.api.request import parse, to_query
from server.config import Config
from server.errors import ApiError
from strategies.answers import Extracted, comparable, expected_form, extract
from strategies.answers.pattern import LONGEST, SEARCHED, compiled, find
from tests.fakes import ask


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```py\nx = 1  \n\n```\nThat is all.", "x = 1"),
        ("First:\n```\nold\n```\nBetter:\n```js\nnew\n```", "new"),
        ("```python\r\nif x:\r\n    y()\r\n```", "if x:\n    y()"),
        ("~~~\nx\n~~~", "x"),
        ("````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("```\nx = 1", "x = 1"),
        ("```\nx = 1\n```\n```\n\n```", "x = 1"),
        ("<think>```\nno\n```</think>\n```\nyes\n```", "yes"),
    ],
)
def test_code_is_the_last_block_without_its_language(text: str, value: str) -> None:
    assert extract(text, form="code") == Extracted(value=value, form="code")


def test_indentation_and_case_are_part_of_code() -> None:
    values = [extract(f"```\n{body}\n```", form="code") for body in ("a\n b", "a\nb", "A\nb")]
    assert len({found.value for found in values if found}) == 3


def test_without_a_block_a_question_for_code_is_read_as_any_other() -> None:
    assert extract("The answer is 7.", form="code") == Extracted(value="7", form="labelled")
    assert extract("", form="code") is None


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("Write a Python function that adds two numbers.", "code"),
        ("Please implement the method below", "code"),
        ("Complete the following code:", "code"),
        ("Why does this code fail?", None),
        ("Write a poem.", None),
        ("Write a function.\nA) yes\nB) no", "choice"),
    ],
)
def test_a_question_that_asks_for_code(question: str, form: str | None) -> None:
    assert expected_form(ask(question)) == form


@pytest.mark.parametrize(
    ("pattern", "text", "value"),
    [
        (r"Result: (\d+)", "Result: 3\nResult: 4", "4"),
        (r"\d+", "3 or 12", "12"),
        (r"(?i)total\s*=\s*(\S+)", "TOTAL = 1,234.50", "1234.5"),
        (r"<a>(.*?)</a>", "<a>Paris</a> <a> </a>", "paris"),
        (r"(?s)BEGIN(.*)END", "BEGIN\nred\nblue\nEND", "red blue"),
        (r"(a)|b", "a b", "a"),
        (r"é+", "caféé", "éé"),
        (r"x*", "abc", None),
        (r"Result: (\d+)", "no such thing", None),
        (r"Result: (\d+)", "<think>Result: 5</think>none", None),
        (r"Result: (\d+)", "Result: 5" + " " * SEARCHED, "5"),  # white space around is no text
        (r"Result: (\d+)", "Result: 5\n" + "x" * SEARCHED, None),
        (r"\w+", "\ud800 ok", "ok"),
    ],
)
def test_the_last_match_of_the_clients_pattern_is_the_answer(pattern: str, text: str, value: str | None) -> None:
    assert extract(text, form=f"pattern:{pattern}") == (value and Extracted(value=value, form="pattern"))


def test_the_clients_pattern_comes_before_every_other_form() -> None:
    query = ask("Which? A) 1 B) 2", answer_pattern="x", sampling={"response_format": {"type": "json_object"}})
    assert expected_form(query) == "pattern:x"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(", "missing"),
        (r"(a)\1", "invalid"),
        (r"(?=a)", "invalid"),
        ("a" * (LONGEST + 1), f"the most is {LONGEST}"),
        ("", "empty"),
        ("a{1000}", "too large"),
        ("((a{1000}){1000}){1000}", "repetition"),
        ("\ud800", "Unicode"),
    ],
)
def test_a_bad_pattern_is_refused_with_what_is_wrong_with_it(pattern: str, problem: str) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "apportion": {"answer_pattern": pattern}}
    with pytest.raises(ApiError) as caught:
        to_query(parse(body), {}, Config(), id="q", models=["m"], arrived=0.0)
    assert caught.value.status == 400
    assert problem in str(caught.value)
    assert "answer_pattern" in str(caught.value)


def test_a_good_pattern_reaches_the_query_and_not_the_engine() -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "apportion": {"answer_pattern": r"= (\d+)"}}
    query, _ = to_query(parse(body), {}, Config(), id="q", models=["m"], arrived=0.0)
    assert query.answer_pattern == r"= (\d+)"
    assert not query.sampling


HOSTILE = [
    r"(a+)+$", r"(a|aa)+$|b", r"a.*b|a", r"(.*)(.*)(.*)(.*)x", r"[ab]*a[ab]{100}c|a", r"(.*a[ab]{60}){3}|a",
    r"(?:(?:a|b|c|d|.)*){20}y|a", r"(.*)(a[ab]{90})(.*)", r"a?" * 90 + "a",
]  # fmt: skip


@pytest.mark.parametrize("pattern", HOSTILE)
def test_hostile_patterns_are_bounded(pattern: str) -> None:
    """`re` would take longer than the universe for some of them; 21 ms were measured at worst."""
    compiled(pattern)
    for text in ("a" * 100_000, "ab" * 50_000, "aab" * 33_000):
        began = time.perf_counter()
        find(pattern, text)
        assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("x = 5", "5"),
        ("f(2) = 5", "5"),
        ("x_{1} = 5", "5"),
        ("2 \\cdot 3 = 6", "6"),
        ("2^{10} = 1024", "1024"),
        ("\\frac{dy}{dx} = 3", "3"),
        ("Total cost = 12", "12"),
        ("(x, y) = (3, 5)", "(3,5)"),
        ("y - 2x = 1", "y-2x=1"),
        ("x + y = 1", "x+y=1"),
        ("2x = 6", "2x=6"),
        ("x^2 = 9", "x^2=9"),
    ],
)
def test_an_equation_is_no_value_of_its_right_side(written: str, value: str) -> None:
    assert extract(f"\\boxed{{{written}}}") == Extracted(value=value, form="boxed")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("\\{1, 2\\}", "\\{2, 1\\}", True),
        ("\\{1, 2\\}", "{2, 1}", True),
        ("\\{1, 1, 2\\}", "\\{1, 2\\}", True),
        ("\\{0.5, x\\}", "\\{x, \\frac{1}{2}\\}", True),
        ("(1, 2)", "(1.0, 2)", True),
        ("\\left(1, 2\\right)", "(1,2)", True),
        ("(1, 2)", "(2, 1)", False),
        ("(1, 2)", "[1, 2]", False),
        ("[0, 1)", "[0, 1]", False),
        ("1, 2", "2, 1", False),
        ("\\frac12", "0.5", True),
        ("50\\%", "0.5", False),
        ("\\pi r", "\\pi  r", True),
        ("\\frac{1}{2} x", "\\frac12x", True),
        ("1/2x", "\\frac{1}{2}x", False),
        ("x = 3", "3", True),
    ],
)
def test_cheap_normalisation_of_marked_answers(one: str, other: str, same: bool) -> None:
    left, right = extract(f"\\boxed{{{one}}}"), extract(f"\\boxed{{{other}}}")
    assert left is not None
    assert right is not None
    assert (left.value == right.value) is same


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5!", "5!"),
        ("5 !", "5!"),
        ("5!.", "5!"),
        ("$5!$", "5!"),
        ("x = 5!", "5!"),
        ("n!", "n!"),
        ("(n - 1)!", "(n-1)!"),
        ("(5)!", "(5)!"),
        ("\\frac{1}{2}!", "\\frac{1}{2}!"),  # half of 1, or 1 by 2!
        ("(5!, 3)", "(5!,3)"),
        ("f'", "f'"),
        ("f''", "f''"),
        ("\\alpha'", "\\alpha'"),
        ("(AB)'", "(ab)'"),
        ("5'", "5'"),
        ("'f'", "f"),  # quoted
        ("'5!'", "5!"),
        ("Yes!", "yes"),
        ("\\text{Paris}!", "paris"),
        ("12 apples!", "12"),
    ],
)
def test_factorials_and_primes_in_a_box_are_part_of_the_value(written: str, value: str) -> None:
    assert extract(f"So \\boxed{{{written}}}!") == Extracted(value=value, form="boxed")


@pytest.mark.parametrize(
    ("text", "value", "form"),
    [
        ("The answer is 5!", "5", "labelled"),
        ("The answer is **5**!", "5", "labelled"),
        ("The answer is 5! That was easy.", "5", "labelled"),
        ("The answer is 'x'", "x", "labelled"),
        ("The answer is $5!", "5", "labelled"),  # money
        ("So x = 5!", "5", "labelled"),
        ("5!", "5", "number"),
        ("We get 12 apples! Enjoy", "12", "number"),
        ("The answer is $5!$", "5!", "labelled"),
        ("The answer is $5!$!", "5!", "labelled"),
        ("The answer is **\\(n!\\)**.", "n!", "labelled"),
        ("Answer:\n\\[f'\\]", "f'", "labelled"),
        ("Answer: $n! + 1$, because it is.", "n!+1", "labelled"),
        ("Answer: \\(\\frac{n!}{k! (n-k)!}\\). Done.", "\\frac{n!}{k!(n-k)!}", "labelled"),
        ("$5!$", "5!", "text"),
        ("So $x = 5!$", "so x = 5!", "text"),
    ],
)
def test_outside_of_a_box_they_are_between_delimiters_only(text: str, value: str, form: str) -> None:
    assert extract(text) == Extracted(value=value, form=form)


def test_a_clients_pattern_is_prose_as_well() -> None:
    form = "pattern:Result: (.+)"
    assert extract("Result: 5!", form=form) == Extracted(value="5", form="pattern")
    assert extract("Result: $5!$", form=form) == Extracted(value="5!", form="pattern")


@pytest.mark.parametrize(
    ("one", "other", "worth_it"),
    [("5!", "120", True), ("(n-1)!", "n!/n", True), ("f'", "f", False), ("1/2!", "\\frac{1}{2}!", False)],
)
def test_what_algebra_is_asked_of_factorials_and_primes(one: str, other: str, worth_it: bool) -> None:
    """It would read a derivative as the function, and half a factorial as half."""
    assert comparable(one, other) is comparable(other, one) is worth_it
