"""The page of an evaluation: that it says what the figures say, and that it stands alone."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.areas import Area, hull, reached
from router.budgets import CUT, FITS, PRICES, AtBudget
from router.comparison import Row
from router.evaluation import AtPrice, Curve, Evaluation
from router.frontier import Saving
from router.reliability import reliability
from router.report import report, verdict
from router.report.findings import compare, uncovered

NAN = float("nan")
COMMAND, SOURCE = "apportion evaluate --html page.html", "mine.jsonl.gz"
VOID = {"meta", "br", "path", "use"}


def row(name: str, accuracy: float, tokens: float, gain: float = 0.0, low: float = 0.0, high: float = 0.0) -> Row:
    return Row(
        name=name, accuracy=accuracy, tokens=tokens, seconds=tokens / 50, utility=accuracy - tokens / 1e4, gain=gain,
        low=low, high=high,
    )  # fmt: skip


def at(token_price: float, latency_price: float, gain: float, low: float, high: float) -> AtPrice:
    """The best fixed strategy is at a utility of 0.4, the oracle at 0.5, adaptive the gain above 0.4."""
    rows = (
        replace(row("adaptive", 0.43, 25, gain, low, high), utility=0.4 + gain),
        replace(row("lookup", 0.41, 20, -0.01, -0.02, 0.01), utility=0.39),
        row("random at equal cost", 0.405, 24, -0.013, -0.03, -0.001),
        replace(row("best fixed in hindsight: majority_vote@4", 0.42, 40), utility=0.4),
        replace(row("oracle", 0.6, 30, 0.1, 0.08, 0.12), utility=0.5),
    )
    mix = {"single": 0.25, "majority_vote@4": 0.75}
    return AtPrice(token_price=token_price, latency_price=latency_price, rows=rows, mix=mix)


def saving(name: str, gap: float, saved: float, low: float, high: float) -> Saving:
    return Saving(name=name, gap=gap, cost=8 * (1 - saved), saved=saved, low=low, high=high)


def under(limits: tuple[int | None, float | None], prices: tuple[float, float], gain: float) -> AtBudget:
    rows = (
        row("adaptive", 0.42, 20, gain, gain - 0.01, gain + 0.01),
        row("before sampling alone", 0.41, 20, gain - 0.01, -0.01, 0.01),
        row("while sampling alone", 0.4, 20, gain - 0.02, -0.02, 0.01),
        row(f"{FITS}: majority_vote@2", 0.4, 20),
        row(f"{CUT}: majority_vote@4", 0.41, 22, 0.0123, -0.01, 0.03),
    )
    return AtBudget(
        max_total_tokens=limits[0],
        deadline=limits[1],
        token_price=prices[0],
        latency_price=prices[1],
        questions=321,
        rows=rows,
        mix={"single": 1.0},
        feasible=0.98,
    )


PREDICTED = np.linspace(0.05, 0.95, 40)
RESULT = Evaluation(
    questions=321,
    samples=8,
    families=7,
    unseen_families=False,
    familiar=0.987,
    fixed=(row("single", 0.4, 10), row("majority_vote@4", 0.42, 40), row("beam_search@2x2", 0.41, 60)),
    prices=(
        at(0, 0, 0.0213, 0.0101, 0.0317),
        at(0.3, 0, 0.0, 0.0, 0.0),
        at(1, 0.1, 0.0042, -0.0011, 0.0089),
        at(3, 0.3, -0.0157, -0.0291, -0.0033),
    ),
    budgets=tuple(
        under(limits, prices, gain)
        for limits, gain in (((24, None), 0.0234), ((48, None), -0.0345), ((None, 1.5), 0.0))
        for prices in PRICES
    ),
    areas=(
        Area(
            name="adaptive",
            cost="tokens",
            lowest=10,
            highest=60,
            area=0.424,
            fixed=0.411,
            gain=0.013,
            low=0.004,
            high=0.022,
        ),
    ),
    curves=(
        Curve(name="fixed vote", points=((1, 0.4), (4, 0.42), (8, 0.43))),
        Curve(name="learned", points=((1, 0.4), (3, 0.43), (2, 0.42))),
    ),
    savings=(
        saving("adaptive consistency", 0.005, 0.222, -0.111, 0.333),
        saving("learned", 0.005, 0.568, 0.461, 0.677),
        saving("adaptive consistency", 0.02, 0.123, -0.05, 0.2),
        saving("learned", 0.02, 0.417, 0.132, 0.522),
    ),
    reliability=(
        reliability("predicted accuracy", PREDICTED, PREDICTED**2),
        reliability("confidence", PREDICTED, PREDICTED),
    ),
    level=0.9,
    coverage={"single": 0.901, "majority_vote@4": 0.85},
    tokens_error=0.0707,
    speed_error=0.2035,
)
UNSEEN = replace(
    RESULT, unseen_families=True, familiar=0.123, prices=tuple(at(t, t, -0.02, -0.03, -0.01) for t in (0, 1))
)


def made(known: Evaluation = RESULT, unseen: Evaluation | None = UNSEEN) -> str:
    return report(known, unseen, command=COMMAND, source=SOURCE)


@cache
def usual() -> str:
    return made()


class Reader(HTMLParser):
    """Text outside of style, every attribute, and whether each element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.attributes, self._open = "", list[tuple[str, str, str]](), list[str]()
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def of(self, name: str) -> list[str]:
        return [value for _, given, value in self.attributes if given == name]


def test_nothing_is_fetched_and_nothing_runs() -> None:
    html = usual()
    read = Reader(html)
    assert "<script" not in html
    assert "@import" not in html
    assert "http" not in html
    assert not read.of("src")
    assert all(target.startswith("#") for target in [*read.of("href"), *read.of("xlink:href")])
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]


def test_what_pictures_refer_to_is_there_once() -> None:
    html = usual()
    ids = Reader(html).of("id")
    assert len(ids) == len(set(ids))
    targets = {*re.findall(r'href="#([^"]*)"', html), *re.findall(r"url\(#([^)]*)\)", html)}
    assert targets
    assert targets <= set(ids)


def test_every_picture_says_in_words_what_it_shows() -> None:
    read = Reader(usual())
    pictures = [tag for tag, name, _ in read.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) == usual().count("<figure>") == usual().count("<figcaption>") == 10
    assert all(value.strip() for value in read.of("aria-label"))
    assert "1 / 0.1: +0.42 (−0.11 to +0.89)" in " ".join(read.of("aria-label"))  # noqa: RUF001


def test_the_headline_has_every_figure_for_better_and_for_worse() -> None:
    headline = Reader(usual()).text.partition("What it gains")[0]
    for said in (
        "Mixed: clearly better than the best fixed strategy at 1 of 4 prices, clearly worse at 1.",
        "above the best fixed strategy in hindsight at 2 of 4 prices; at 1 of them",
        "It is worse at 1, at 1 of them",
        "3 / 0.3: −1.57 (−2.91 to −0.33)",  # noqa: RUF001
        "It is equal at 1: 0.3 / 0.",
        "adaptive is above at 3 and below at 1 of 4 prices",
        "less 0.5 points with 3.5 candidates, 56.8% fewer",
        "46.1% to 67.7%). The target of 45% is met by the whole interval.",
        "less 2 points with 4.7 candidates, 41.7% fewer",
        "13.2% to 52.2%). The target of 45% is missed.",
        "With whole families of questions held out: above at 0 of 2 prices (0 clearly), below at 2 (2 clearly).",
        "Candidates saved: 56.8% (46.1% to 67.7%) at 0.5 points under the full vote; 41.7% (13.2% to 52.2%) at 2",
        "321 questions of 7 families, 8 samples each",
        SOURCE,
        COMMAND,
    ):
        assert said in headline


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ([(0.01, 0.02), (-0.01, 0.01)], "Clearly better than the best fixed strategy at 1 of 2 prices"),
        ([(-0.02, -0.01), (-0.01, 0.01)], "Clearly worse than the best fixed strategy at 1 of 2 prices"),
        ([(-0.02, -0.01), (0.01, 0.02)], "Mixed"),
        ([(-0.01, 0.01), (0.0, 0.0)], "No clear difference"),
        ([(0.0, 0.01), (-0.01, 0.0)], "No clear difference"),
    ],
)
def test_the_verdict_rests_on_intervals_that_exclude_zero(bounds: list[tuple[float, float]], said: str) -> None:
    prices = tuple(at(i, 0, (low + high) / 2, low, high) for i, (low, high) in enumerate(bounds))
    assert verdict(compare(replace(RESULT, prices=prices))).startswith(said)


def test_every_price_is_above_equal_or_below() -> None:
    found = compare(RESULT)
    assert [len(part) for part in (found.above, found.equal, found.below)] == [2, 1, 1]
    assert found.prices == len(RESULT.prices)


def test_the_same_evaluation_gives_the_same_bytes_whatever_matplotlib_is_set_to() -> None:
    first = usual()
    with matplotlib.rc_context({"font.size": 30, "xtick.major.size": 20, "svg.hashsalt": "other"}):
        assert made() == first
        assert matplotlib.rcParams["font.size"] == 30


def test_names_are_text_and_never_markup() -> None:
    evil = "best_of_n@8:<script>alert('x')</script>&$x^2$\"onload=\"y"
    fixed = (*RESULT.fixed, row(evil, 0.415, 50))
    prices = tuple(
        replace(
            one, mix={evil: 1.0}, rows=(*one.rows[:3], replace(one.rows[3], name=f"best fixed: {evil}"), one.rows[4])
        )
        for one in RESULT.prices
    )
    known = replace(RESULT, fixed=fixed, prices=prices, coverage={evil: 0.5})
    html = report(known, UNSEEN, command=evil, source=evil)
    read = Reader(html)
    assert "<script" not in html
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert read.text.count(evil) > 3
    method = replace(RESULT, fixed=(*RESULT.fixed, row("<b>$m$</b>@3", 0.415, 50)))
    assert "<b>" not in made(method)
    assert "<b>$m$</b> (fixed)" in Reader(made(method)).text


def test_without_unseen_families_the_page_says_so() -> None:
    text = Reader(made(unseen=None)).text
    assert "held out: not measured." in text
    assert "Not measured: there is no evaluation with whole families held out." in text


def test_known_and_unseen_families_stand_side_by_side() -> None:
    text = Reader(usual()).text.partition("On kinds of questions")[2]
    assert "it knows 12.3% of them, and 98.7% of those of known families" in text
    assert "prices where it is below1 of 42 of 2" in text


def test_a_saving_that_is_not_reached_is_no_number() -> None:
    never = tuple(replace(one, cost=NAN, saved=NAN, low=NAN, high=NAN) for one in RESULT.savings)
    text = Reader(made(replace(RESULT, savings=never))).text
    assert "Learned stopping does not reach the full vote's accuracy less 2 points." in text
    assert "nan" not in text


def test_bounds_that_hold_too_seldom_or_too_often_are_named() -> None:
    assert uncovered(replace(RESULT, coverage={"a": 0.881, "b": 0.879, "c": 0.919, "d": 0.921})) == {
        "b": 0.879,
        "d": 0.921,
    }
    assert "Outside of ±2 points: majority_vote@4 (85.0%)." in Reader(usual()).text
    kept = replace(RESULT, coverage={"single": 0.9})
    assert "All 1 strategies are within ±2 points" in Reader(made(kept)).text


def test_the_gap_to_the_oracle_is_shared_in_utility() -> None:
    assert [one.closed for one in RESULT.prices] == pytest.approx([0.213, 0.0, 0.042, -0.157])
    tight = RESULT.prices[0]
    rows = tuple(replace(one, utility=0.4) for one in tight.rows)
    assert replace(tight, rows=rows).closed is None
    assert "−15.7%" in Reader(usual()).text  # noqa: RUF001


def test_every_budget_is_told_for_better_and_for_worse() -> None:
    read = Reader(usual())
    chapter = read.text.partition("Under hard budgets")[2].partition("How a vote is stopped")[0]
    assert "24 tokens98.0%42.0%40.0% (majority_vote@2)+2.34+1.34 to +3.3441.0% (majority_vote@4)+1.23" in chapter
    assert "48 tokens98.0%42.0%40.0% (majority_vote@2)−3.45−4.45 to −2.45" in chapter  # noqa: RUF001
    assert "1.50 s" in chapter
    assert "24 tokens: +2.34 (+1.34 to +3.34); 48 tokens: −3.45" in " ".join(read.of("aria-label"))  # noqa: RUF001


def test_the_area_under_a_frontier_stands_beside_that_of_the_fixed_strategies() -> None:
    assert "adaptivetokens10 to 6042.4%41.1%+1.30+0.40 to +2.20" in Reader(usual()).text


def test_mixing_two_strategies_reaches_what_lies_between_them() -> None:
    points = [(10, 0.2), (20, 0.4), (15, 0.1), (40, 0.5), (30, 0.41), (50, 0.3)]
    assert hull(points) == [(10, 0.2), (20, 0.4), (40, 0.5)]
    assert reached(points, [5, 10, 15, 30, 100]) == pytest.approx([NAN, 0.2, 0.3, 0.45, 0.5], nan_ok=True)


@given(st.lists(st.tuples(st.integers(1, 50).map(float), st.integers(0, 100).map(lambda n: n / 100)), min_size=1))
def test_no_point_is_above_the_hull(points: list[tuple[float, float]]) -> None:
    best = hull(points)
    assert set(best) <= set(points)
    assert (reached(points, [x for x, _ in points]) >= np.array([y for _, y in points]) - 1e-12).all()
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(best)]
    assert slopes == sorted(slopes, reverse=True)


def test_without_matplotlib_the_page_says_what_to_install_and_the_rest_works() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import server.cli, router.evaluation; import router.report"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'apportion[report]'")
    assert "import router.report" in done.stderr or "router/report" in done.stderr
