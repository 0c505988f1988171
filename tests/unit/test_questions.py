from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import groupby

import pytest

from router.families import builtin_questions
from router.questions import Question, verify
from strategies.answers import expected_form, extract
from strategies.types import Budget, Prices, Query

pytest.importorskip("reasoning_gym", reason="calibration's questions come from reasoning-gym")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return builtin_questions(per_family=20, seed=5)


def by_family(questions: list[Question]) -> dict[str, list[Question]]:
    return {name: list(members) for name, members in groupby(questions, key=lambda q: q.family)}


def question(reference: str, verifier: str) -> Question:
    asked = ({"role": "user", "content": "?"},)
    return Question(id="q", family="f", messages=asked, reference=reference, verifier=verifier, max_tokens=8)


def as_query(asked: Question) -> Query:
    return Query(
        id=asked.id,
        model="m",
        messages=asked.messages,
        sampling={},
        budget=Budget(max_total_tokens=100, deadline=0.0),
        prices=Prices(token_price=0.0, latency_price=0.0),
    )


def test_same_arguments_give_the_same_questions(questions: list[Question]) -> None:
    """Two pools recorded with one seed hold the same questions, also in another process."""
    assert builtin_questions(per_family=20, seed=5) == questions


def test_fewer_questions_are_the_first_of_more(questions: list[Question]) -> None:
    """A small trial asks what the long recording will ask too."""
    few = builtin_questions(per_family=4, seed=5)

    assert few == [asked for members in by_family(questions).values() for asked in members[:4]]


def test_another_seed_gives_other_questions(questions: list[Question]) -> None:
    """Most of the questions, that is: some small families overlap, under the same ids."""
    other = {asked.id for asked in builtin_questions(per_family=20, seed=6)}

    assert len(other & {asked.id for asked in questions}) < len(questions) / 2


def test_every_family_gives_as_many_as_asked(questions: list[Question]) -> None:
    """Families must be rich enough not to run dry at everyday sizes."""
    counts = Counter(asked.family for asked in questions)

    assert len(counts) >= 14
    assert set(counts.values()) == {20}
    assert sum(1 for members in by_family(questions).values() if "task" in members[0].metadata) >= 12


def test_no_question_is_asked_twice(questions: list[Question]) -> None:
    """Neither by id nor by text, nor as one of its own worked examples."""
    asked = [q.messages[-1]["content"] for q in questions]

    assert len(set(asked)) == len(asked) == len({q.id for q in questions})
    for q in questions:
        assert all(message["content"] != q.messages[-1]["content"] for message in q.messages[:-1])


def test_references_and_worked_answers_are_right(questions: list[Question]) -> None:
    """What the examples teach the model to write is judged right, as the bare reference is."""
    for q in questions:
        assert verify(q, q.reference) == 1.0, q
        assert verify(q, q.metadata["worked"]) == 1.0, q


def test_wrong_answers_are_refused(questions: list[Question]) -> None:
    """Another question's answer, nothing, and prose about the question are all wrong."""
    for members in by_family(questions).values():
        for q in members:
            expected = extract(q.reference, form=None)
            wrong = next(o.metadata["worked"] for o in members if extract(o.reference, form=None) != expected)
            assert verify(q, wrong) == 0.0, (q, wrong)
            assert verify(q, "") == 0.0
            assert verify(q, "I am not sure what you mean") == 0.0


def test_the_gateway_reads_answers_in_the_form_the_verifier_does(questions: list[Question]) -> None:
    """Votes are counted over the very values that verdicts are passed on."""
    for q in questions:
        assert expected_form(as_query(q)) == ("choice" if q.verifier == "choice" else None), q


def test_questions_survive_json(questions: list[Question]) -> None:
    """A pool on disk holds everything that judging needs."""
    for q in questions:
        assert Question.from_json(json.loads(json.dumps(q.to_json()))) == q


def test_questions_are_short(questions: list[Question]) -> None:
    """Prompts and answers stay small: a calibration is hundreds of questions on somebody's laptop."""
    for q in questions:
        assert sum(len(message["content"]) for message in q.messages) < 900
        assert q.max_tokens <= 96


@pytest.mark.parametrize(
    ("reference", "verifier", "text", "verdict"),
    [
        ("42", "number", "6 * 7 = 42", 1.0),
        ("42", "number", "The answer is $\\boxed{42.0}$.", 1.0),
        ("42", "number", "6 * 7 = 43", 0.0),
        ("3.5", "number", "3.50", 1.0),
        ("Friday", "word", "friday.", 1.0),
        ("Friday", "word", "Saturday", 0.0),
        ("B", "choice", "It is Rome. The answer is B.", 1.0),
        ("B", "choice", "(b) Rome", 1.0),
        ("B", "choice", "C", 0.0),
    ],
)
def test_verdicts(reference: str, verifier: str, text: str, verdict: float) -> None:
    """Equal answers in different spellings are equal; different ones are not."""
    assert verify(question(reference, verifier), text) == verdict


def test_an_unknown_verifier_is_refused() -> None:
    """At once, not when the first completion is judged."""
    with pytest.raises(ValueError, match="unknown verifier 'oracle': known are number, choice, word"):
        question("1", "oracle")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"reference": None}, "lacks the field 'reference'"), ({"messages": [1]}, "field of the wrong type")],
)
def test_broken_json_is_named(change: dict[str, object], complaint: str) -> None:
    """Users write question files by hand: the message says which field to mend."""
    data = {key: value for key, value in {**question("1", "number").to_json(), **change}.items() if value is not None}

    with pytest.raises(ValueError, match=complaint):
        Question.from_json(data)


def test_without_reasoning_gym_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dependency belongs to an extra: say which."""
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)

    with pytest.raises(ImportError, match=r"install apportion\[calibrate\]"):
        builtin_questions(per_family=1, seed=1)
