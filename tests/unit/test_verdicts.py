"""What is read out of a judge's verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.scorers.verdicts import better, mark, pairwise, pointwise
from strategies.types import Candidate


@pytest.mark.parametrize(
    ("verdict", "share"),
    [
        ("Score: 7", 0.7),
        ("The sum is 12, which is right.\n\nScore: 10", 1.0),
        ("Score: 3\nOn second thought the answer holds.\nScore: 9", 0.9),
        ("**Score:** 8/10", 0.8),
        ("Score: <6>", 0.6),
        ("score = 8.5", 0.85),
        ("Rating: [[6]]", 0.6),
        ("I give it [[4]].", 0.4),
        ('{"reason": "fine", "score": 5}', 0.5),
        ("Score: 4 out of 5", 0.8),
        ("My grade is 90%", 0.9),
        ("It deserves 7/10 because 3 + 4 = 7.", 0.7),
        ("8", 0.8),
        ("**8**.", 0.8),
        ("Score: 0", 0.0),
        ("Score: 70", None),  # off the scale: no guess
        ("Score: -3", None),
        ("The answer 7 is right.", None),
        ("Score: ten", None),
        ("", None),
    ],
)
def test_a_mark_is_a_share_of_the_scale(verdict: str, share: float | None) -> None:
    assert mark(verdict) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("verdict", "letter"),
    [
        ("Better: A", "A"),
        ("A is wrong in step 2.\n\nBetter: B", "B"),
        ("**Better:** answer_B", "B"),
        ("Better: <B>", "B"),
        ('{"better": "A"}', "A"),
        ("The winner is Answer A.", "A"),
        ("[[B]]", "B"),
        ("Answer B is better because it checks.", "B"),
        ("b", "B"),
        ("**A**", "A"),
        ("Answer A.", "A"),
        ("Both are right.", None),
        ("Better: neither", None),
        ("Better: a tie, as both are right", None),
        ("", None),
    ],
)
def test_a_choice_is_a_or_b(verdict: str, letter: str | None) -> None:
    assert better(verdict) == letter


@given(st.text(max_size=200))
def test_any_text_can_be_read(verdict: str) -> None:
    share = mark(verdict)
    assert share is None or 0 <= share <= 1
    assert better(verdict) in ("A", "B", None)


def test_the_judge_sees_the_conversation_and_the_answer_with_its_tool_calls() -> None:
    """Braces are nothing special, and an image is named, not shown."""
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    messages = [
        {"role": "system", "content": "Be {brief}."},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
    ]
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    candidate = Candidate(index=0, text="It is {x}.", tokens=1, finish_reason="stop", tool_calls=(call,))
    (asked,) = pointwise(messages, candidate)
    for part in ("system: Be {brief}.", "user: What is it?", "(image_url)", "It is {x}.", "look"):
        assert part in asked["content"]
    (compared,) = pairwise(messages, candidate, Candidate(index=1, text="No.", tokens=1, finish_reason="stop"))
    assert compared["content"].index("It is {x}.") < compared["content"].index("No.")
