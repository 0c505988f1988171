"""Laws of extraction and grouping, whatever the model wrote."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.answers import answer_of, extract
from strategies.types import Candidate, LogprobSummary
from strategies.voting import Ballot

FORMS = st.sampled_from([None, "choice", "json", "text"])
PIECES = st.sampled_from(
    [
        *[
            "\\boxed{",
            "}",
            "{",
            "\\frac{",
            "}{",
            "$",
            "\\(",
            "\\)",
            "\\text{",
            "\\$",
            "\\%",
            "\\{",
            "####",
            "```",
            "**",
        ],
        *[
            "The answer is ",
            "Answer:",
            "final answer",
            " is ",
            "not ",
            "= ",
            "x",
            "A",
            "(B)",
            "option ",
            "\n",
            " ",
            ". ",
        ],
        *[
            "1",
            "1,234",
            "0.5",
            "-",
            "\u2212",
            "+",
            "/",
            "%",
            "e9",
            "e999999999",
            ".",
            ",",
            "million",
            " apples",
            "²",
            "°",
        ],
        *["<think>", "</think>", '{"a": 1}', "[", "]", '"', "\ud800", "\u0130", "٣", "http://"],
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=25).map("".join))
NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(min_value=0, max_value=10**12).map("{:,}".format),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.from_regex(r"[+-]?\$?[0-9]{1,50}(\.[0-9]{1,50})?(e[+-]?[0-9]{1,12})?(/[0-9]{1,50})?%?", fullmatch=True).map(
        str.strip
    ),
)


@given(text=TEXTS, form=FORMS)
@settings(max_examples=600)
def test_extract_never_raises_and_never_returns_a_blank(text: str, form: str | None) -> None:
    found = extract(text, form=form)
    assert found is None or found.value.strip()


@given(written=NUMBERS)
@settings(max_examples=400)
def test_the_canonical_spelling_of_a_number_is_its_own(written: str) -> None:
    found = extract(written)
    assert found is not None
    if found.form == "number":
        again = extract(found.value)
        assert again is not None
        assert (again.value, again.form) == (found.value, "number")


@given(top=st.integers(-(10**6), 10**6), bottom=st.integers(1, 10**4))
def test_a_fraction_keeps_its_value(top: int, bottom: int) -> None:
    found = extract(f"{top}/{bottom}")
    assert found is not None
    assert Fraction(found.value) == Fraction(top, bottom)


@given(number=st.decimals(min_value=-(10**9), max_value=10**9, places=4))
def test_where_a_number_is_written_makes_no_difference(number: object) -> None:
    texts = [f"{number}", f"Answer: {number}.", f"\\boxed{{{number}}}", f"So the final answer is **{number}** apples."]
    assert len({found.value for text in texts if (found := extract(text))}) == 1


PLAIN = st.one_of(
    st.integers(0, 10**6).map(str),
    st.sampled_from(["x", "n", "(n-1)", "\\alpha", "x^{2}", "\\frac{1}{2}", "[A, B]"]),
)
OPERATED = st.from_regex(r"(!{1,2}|'{1,3})", fullmatch=True)
DELIMITED = st.sampled_from(["Answer: ${}$", "Answer: \\({}\\).", "So the answer is **\\[{}\\]**!"])


@given(plain=PLAIN, operated=OPERATED, space=st.sampled_from(["", " ", "\\,"]), end=st.sampled_from(["", ".", " "]))
def test_a_factorial_or_a_derivative_is_never_what_it_was_made_of(
    plain: str, operated: str, space: str, end: str
) -> None:
    """Nor another one."""
    bare, box, twice = (
        extract(f"\\boxed{{{written}}}") for written in (plain, f"{plain}{space}{operated}{end}", f"{plain}{operated}'")
    )
    assert bare is not None
    assert box is not None
    assert twice is not None
    assert len({bare.value, box.value, twice.value}) == 3
    assert box.value.endswith(operated)


@given(plain=PLAIN, operated=OPERATED, text=DELIMITED)
def test_where_a_factorial_is_marked_makes_no_difference(plain: str, operated: str, text: str) -> None:
    box, labelled = extract(f"\\boxed{{{plain}{operated}}}"), extract(text.format(plain + operated))
    assert box is not None
    assert labelled is not None
    assert labelled.value == box.value


@given(number=st.integers(-(10**6), 10**6), cheers=st.from_regex(r"!{1,3}", fullmatch=True))
def test_enthusiasm_is_no_factorial(number: int, cheers: str) -> None:
    for text in (f"The answer is {number}{cheers}", f"Answer: **{number}**{cheers}", f"{number}{cheers}"):
        found = extract(text)
        assert found is not None
        assert found.value == str(number)


CANDIDATES = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["1", "1.0", "Answer: 1", "2", "0.5", "1/2", "", "yes", "Yes."]), TEXTS),
        st.sampled_from(["stop", "stop", "length", None]),
        st.none() | st.floats(-5, 0),
    ),
    max_size=12,
).map(
    lambda rows: [
        Candidate(
            index=index,
            text=text,
            tokens=1,
            finish_reason=finish,
            logprobs=None if mean is None else LogprobSummary(tokens=1, total=mean),
        )
        for index, (text, finish, mean) in enumerate(rows)
    ]
)


@given(candidates=CANDIDATES, form=FORMS, data=st.data())
def test_groups_partition_the_votes_in_any_order(
    candidates: list[Candidate], form: str | None, data: st.DataObject
) -> None:
    groups = Ballot.of(candidates, form=form).groups
    voters = [c.index for c in candidates if answer_of(c, form=form) is not None]
    assert sorted(c.index for g in groups for c in g.members) == voters
    assert len({g.value for g in groups}) == len(groups)
    sizes = [len(g.members) for g in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert Ballot.of(data.draw(st.permutations(candidates)), form=form).groups == groups
