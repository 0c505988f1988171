"""How strategies are written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.spec import StrategySpec
from strategies.types import Candidate, LogprobSummary

SCORERS = ["", ":mean_logprob", ":self_certainty", ":my_prm-2"]

WRITTEN = st.one_of(
    st.just("single"),
    st.integers(1, 1024).map(lambda n: f"majority_vote@{n}"),
    st.builds(
        lambda n, scorer, rule: f"best_of_n@{n}{scorer}{rule}",
        st.integers(1, 1024),
        st.sampled_from(SCORERS),
        st.sampled_from(["", ":naive", ":weighted", ":borda"]),
    ),
    st.builds(
        lambda width, expansion, scorer, shape: f"beam_search@{width}x{expansion}{scorer}{shape}",
        st.integers(1, 32),
        st.integers(1, 32),
        st.sampled_from(SCORERS),
        st.sampled_from(["", ":diverse", ":lookahead", ":diverse:lookahead", ":lookahead:diverse"]),
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        "single",
        "majority_vote@8",
        "best_of_n@8",
        "best_of_n@8:weighted",
        "best_of_n@8:self_certainty",
        "best_of_n@8:self_certainty:weighted",
        "best_of_n@8:self_certainty:borda",
        "best_of_n@8:my_prm-2:weighted",
        "beam_search@4x2",
        "beam_search@4x4:self_certainty",
        "beam_search@4x4:diverse",
        "beam_search@4x4:my_prm-2:diverse:lookahead",
    ],
)
def test_prints_as_it_was_written(text: str) -> None:
    assert str(StrategySpec.parse(text)) == text


@given(text=WRITTEN)
def test_what_is_printed_is_read_back_as_the_same(text: str) -> None:
    spec = StrategySpec.parse(text)
    assert StrategySpec.parse(str(spec)) == spec
    assert str(StrategySpec.parse(str(spec))) == str(spec)


@given(
    text=st.text(max_size=30)
    | st.from_regex(r"[a-z_]{1,14}@?[0-9]{0,5}x?[0-9]{0,5}:?[a-z0-9_:-]{0,20}", fullmatch=True)
)
def test_any_other_text_is_a_value_error(text: str) -> None:
    """No text makes it raise anything else, and whatever is read can be printed and read again."""
    try:
        spec = StrategySpec.parse(text)
    except ValueError:
        return
    assert StrategySpec.parse(str(spec)) == spec


def test_spellings_of_one_strategy_are_equal() -> None:
    assert StrategySpec.parse(" single@1 ") == StrategySpec.parse("single")
    assert StrategySpec.parse("best_of_n@4:mean_logprob") == StrategySpec.parse("best_of_n@4")
    assert StrategySpec.parse("best_of_n@4:weighted:self_certainty") == StrategySpec.parse(
        "best_of_n@4:self_certainty:weighted"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no strategy"),
        ("Majority Vote", "is no strategy"),
        ("single@2", "takes no size"),
        ("single:weighted", "takes no size"),
        ("majority_vote", "needs the number of candidates"),
        ("majority_vote@2x2", "needs the number of candidates"),
        ("majority_vote@8:self_certainty", "options are"),
        ("best_of_n@0", "at least 1"),
        ("best_of_n@2000", "at most 1024"),
        ("best_of_n@8:weighted:borda", "options are"),
        ("majority_vote@8:borda", "options are"),
        ("best_of_n@8:mean_logprob:self_certainty", "options are"),
        ("beam_search@4", "width x expansion"),
        ("beam_search@40x40", "at most 1024"),
        ("beam_search@4x4:weighted", "options are"),
        ("best_of_n@4:diverse", "options are"),
        ("majority_vote@4:lookahead", "options are"),
        ("guess@4", "unknown method 'guess'"),
    ],
)
def test_an_error_says_what_would_be_accepted(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StrategySpec.parse(text)


def test_draws_are_the_sequences_at_once() -> None:
    written = ["single", "majority_vote@8", "best_of_n@4", "beam_search@4x2"]
    assert [StrategySpec.parse(text).draws for text in written] == [1, 8, 4, 8]


@pytest.mark.parametrize(
    ("reason", "finished"), [("stop", True), ("tool_calls", True), ("length", False), ("abort", False), (None, False)]
)
def test_only_what_the_engine_ended_by_itself_is_finished(reason: str | None, finished: bool) -> None:
    assert Candidate(index=0, text="7", tokens=1, finish_reason=reason).finished is finished


def test_logprob_sums_add_up() -> None:
    one = LogprobSummary(tokens=1, total=-1.0, certainty=2.0, certain_tokens=1)
    two = LogprobSummary(tokens=3, total=-1.0, certainty=1.0, certain_tokens=2)
    assert (one + two) == LogprobSummary(tokens=4, total=-2.0, certainty=3.0, certain_tokens=3)
    assert (one + two).mean == -0.5
    assert LogprobSummary().mean == float("-inf")
