"""Open text, where answers do not group: the candidate most like the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.consensus import Likeness, grams, similarity
from strategies.types import Candidate, LogprobSummary
from strategies.voting import Ballot

TEXT = st.text(max_size=80)
LIKE = [
    "The sky is blue because air scatters short waves of light more than long ones.",
    "Air scatters short waves of light more than long ones, so the sky is blue.",
    "The sky looks blue: air scatters short waves of light more than it does long ones.",
]
ODD = "Fish swim in rivers and lakes, birds fly over them all day."


def cast(*texts: str, finish_reason: str = "stop") -> Ballot:
    return Ballot.of(
        [Candidate(index=i, text=text, tokens=len(text), finish_reason=finish_reason) for i, text in enumerate(texts)],
        form=None,
    )


@given(one=TEXT, other=TEXT)
def test_similarity_is_symmetric_between_0_and_1_and_1_with_itself(one: str, other: str) -> None:
    a, b = grams(one), grams(other)
    assert similarity(a, b) == similarity(b, a)
    assert 0 <= similarity(a, b) <= 1
    assert similarity(a, a) == 1


@given(texts=st.lists(TEXT, min_size=1, max_size=8))
def test_the_sums_kept_up_are_the_means_over_all_pairs(texts: list[str]) -> None:
    likeness = Likeness()
    for text in texts:
        likeness.add(text)
    sets = [grams(text) for text in texts]
    for i, mean in enumerate(likeness.means()):
        others = [similarity(sets[i], other) for j, other in enumerate(sets) if j != i]
        assert mean == pytest.approx(sum(others) / max(1, len(others)))


def test_texts_without_spaces_are_compared_by_their_characters() -> None:
    assert similarity(grams("天空は空気が光を散乱するので青い"), grams("空気が光を散乱するから天空は青い")) > 0.5


@pytest.mark.parametrize("place", range(4))
def test_the_text_most_like_the_others_wins_wherever_it_stands(place: int) -> None:
    texts = [*LIKE]
    texts.insert(place, ODD)
    answer = cast(*texts).vote(answers=4)
    assert answer.winners[0].text in LIKE
    assert answer.winners[-1].text == ODD
    assert answer.note.startswith("no two answers are equal")
    assert answer.agreement == 0.25


def test_texts_with_nothing_in_common_are_said_to_have_no_consensus() -> None:
    answer = cast(
        "Autumn leaves drift slowly down while nobody looks up.",
        ODD,
        "Seventeen engines hum under grey concrete bridges at night.",
    ).vote()
    assert answer.winners
    assert "no consensus" in answer.note


def test_two_equal_answers_are_a_majority_all_the_same() -> None:
    answer = cast(ODD, ODD, *LIKE).vote()
    assert (answer.winners[0].text, answer.votes[next(iter(answer.votes))]) == (ODD, 2)
    assert not answer.note


def test_names_are_equal_or_not_and_never_compared_by_likeness() -> None:
    """Of three different ones the most probable wins, as ever."""
    sure = LogprobSummary(tokens=1, total=-0.1)
    cities = [replace(c, logprobs=sure if c.text == "Oslo" else None) for c in cast("Rome", "Oslo", "Bern").candidates]
    answer = Ballot.of(cities, form=None).vote()
    assert (answer.winners[0].text, answer.note) == ("Oslo", "")


def test_two_equal_texts_are_a_majority_beside_an_answer_that_is_no_text_too() -> None:
    """Five texts, two of them equal, and one number: as many different answers as texts, and a leader all the same."""
    answer = cast(ODD, *LIKE, ODD, "\\boxed{5}").vote()
    assert (answer.winners[0].text, answer.note) == (ODD, "")


def test_answers_that_are_no_text_are_never_compared_by_likeness() -> None:
    assert not cast("\\boxed{1}", "\\boxed{2}", "\\boxed{3}").vote().note


def test_cut_and_blank_candidates_come_last() -> None:
    cut = Candidate(index=9, text=LIKE[0], tokens=1, finish_reason="length")
    ballot = cast(*LIKE)
    ballot.cast(cut)
    answer = ballot.vote(answers=4)
    assert answer.winners[-1] == cut


def test_a_long_text_costs_no_more_than_its_beginning() -> None:
    """400 words are read of each, so that no answer's length can hold up the others."""
    assert len(grams("word " * 1_000_000)) <= 800
    assert grams("a b c " * 200) == grams("a b c " * 200_000)
