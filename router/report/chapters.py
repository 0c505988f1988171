"""The chapters of the page between its headline and its small print: pictures, tables, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from router.areas import Area, reached
from router.comparison import Row
from router.evaluation import ORACLE, AtPrice, Evaluation
from router.report import page, plots
from router.report.findings import (
    ADAPTIVE,
    COVERAGE_TOLERANCE,
    FIXED_VOTE,
    LEARNED,
    SAVING_TARGET,
    against_lookup,
    compare,
    gaps,
    saving,
    uncovered,
    ways,
)
from router.report.plots import gains_of
from router.report.wording import NOTHING, PRICE, bounds, gain_at, points, price, saved, share, signed, utility, whole

_GAIN = "utility above the best fixed strategy, points"
_FAMILIES = ("families known", "families held out")


def gains(result: Evaluation) -> list[str]:
    series = [
        gains_of(name, [at.row(name) for at in result.prices], intervals=name == ADAPTIVE) for name in ways(result)
    ]
    rows = [
        [price(at), row.name, *_means(row), utility(row.utility), signed(row.gain), bounds(row)]
        for at in result.prices
        for row in at.rows
    ]
    head = [PRICE, "way", "accuracy", "tokens", "seconds", "utility", "gain, points", "95% interval"]
    return [
        page.heading("What it gains, by price"),
        page.paragraph(
            "Utility is accuracy less what the tokens and the seconds cost. The dearer they are, the less sampling "
            "pays. The zero line is the one fixed strategy that turned out best at that price."
        ),
        page.beside(
            [
                page.figure(
                    plots.differences([price(at) for at in result.prices], series, axis=_GAIN, rows=PRICE),
                    "Right of the line is better than the best fixed strategy; bars are 95% intervals. A point is 0.01 "
                    "of utility: one percentage point of accuracy at equal cost. Before sampling alone: the strategy "
                    "is chosen from the text and run to its end. While sampling alone: one strategy for all, stopped "
                    "by the learned rule. Adaptive does both.",
                    label="Gain of adaptive by price, with intervals. "
                    + "; ".join(gain_at(at) for at in result.prices),
                ),
                page.table(
                    [PRICE, "gain", "95% interval"],
                    [[price(at), signed(at.row(ADAPTIVE).gain), bounds(at.row(ADAPTIVE))] for at in result.prices],
                    caption="Gain of adaptive over the best fixed strategy, in points",
                ),
            ]
        ),
        page.folded("All ways at all prices", page.table(head, rows, caption="Means over the questions")),
    ]


def _means(row: Row) -> list[str]:
    return [share(row.accuracy), f"{row.tokens:.1f}", f"{row.seconds:.2f}"]


def tradeoffs(result: Evaluation) -> list[str]:
    by_tokens = {row.name: (row.tokens, row.accuracy) for row in result.fixed}
    by_seconds = {row.name: (row.seconds, row.accuracy) for row in result.fixed}
    patient = [at for at in result.prices if not at.latency_price] or result.prices
    hurried = [at for at in result.prices if at.latency_price] or result.prices
    oracle = [at.row(ORACLE).accuracy for at in result.prices]
    return [
        page.heading("Accuracy against what it costs"),
        page.paragraph(
            "Hollow marks are the fixed strategies; the grey area is what mixing them by lot reaches. A way of "
            "deciding pays where it is above that area. Adaptive has one point a price: the cheaper the tokens, the "
            f"further right. The oracle, at {share(min(oracle))} to {share(max(oracle))}, is above the pictures."
        ),
        page.beside(
            [
                page.figure(
                    plots.tradeoff(by_tokens, _tracks(result, patient, _tokens), axis="tokens a question, mean"),
                    "At the prices where waiting costs nothing. Labels are n, or width x expansion, then the initials "
                    "of scorer and rule: 8 w is the weighted best of 8.",
                    label="Accuracy by tokens. " + _said(patient, _tokens, "tokens"),
                    title="Tokens",
                ),
                page.figure(
                    plots.tradeoff(by_seconds, _tracks(result, hurried, _seconds), axis="seconds a question, mean"),
                    "At the prices where waiting costs something.",
                    label="Accuracy by seconds. " + _said(hurried, _seconds, "seconds"),
                    title="Seconds",
                ),
            ]
        ),
        page.table(
            [PRICE, "adaptive", "its tokens", "fixed ones mixed, same tokens", "difference, points", "gap closed"],
            [_beside_hull(at, list(by_tokens.values())) for at in result.prices],
            caption="Accuracy of adaptive and of the grey area's edge. Gap closed: how far adaptive goes from the best "
            "fixed strategy (0%) to the oracle (100%), in utility",
        ),
        page.table(
            ["way", "over", "range of cost", "mean accuracy", "fixed ones mixed", "difference, points", "95% interval"],
            [_area(one) for one in result.areas],
            caption="Area under the frontier against that of the grey area, over the logarithm of the cost: the mean "
            "accuracy over the whole range. The other cost is free",
        ),
        page.folded(
            "The fixed strategies",
            page.table(
                ["strategy", "label", "accuracy", "tokens", "seconds"],
                [[row.name, plots.short_name(row.name), *_means(row)] for row in result.fixed],
                caption="Run to their end, means over the questions",
            ),
        ),
    ]


def _area(one: Area) -> list[str]:
    means = [share(one.area), share(one.fixed), signed(one.gain), bounds(one)]
    return [one.name, one.cost, f"{one.lowest:.3g} to {one.highest:.3g}", *means]


def _tokens(row: Row) -> float:
    return row.tokens


def _seconds(row: Row) -> float:
    return row.seconds


def _tracks(result: Evaluation, prices: Sequence[AtPrice], cost: Callable[[Row], float]) -> list[plots.Track]:
    return [
        plots.Track(name=name, points=[(cost(at.row(name)), at.row(name).accuracy) for at in prices])
        for name in ways(result)
    ]


def _said(prices: Sequence[AtPrice], cost: Callable[[Row], float], unit: str) -> str:
    rows = [at.row(ADAPTIVE) for at in prices]
    return "Adaptive: " + "; ".join(f"{share(row.accuracy)} at {cost(row):.3g} {unit}" for row in rows)


def _beside_hull(at: AtPrice, fixed: plots.Points) -> list[str]:
    row, part = at.row(ADAPTIVE), at.closed
    mixed = float(reached(fixed, [row.tokens])[0])
    compared = [share(mixed), signed(row.accuracy - mixed)] if math.isfinite(mixed) else [NOTHING, NOTHING]
    gap = NOTHING if part is None else share(part)
    return [price(at), share(row.accuracy), f"{row.tokens:.1f}", *compared, gap]


def stopping(result: Evaluation) -> list[str]:
    tracks = [plots.Track(name=curve.name, points=curve.points) for curve in result.curves]
    rows = [
        [one.name, points(one.gap), f"{one.cost:.1f}" if math.isfinite(one.cost) else NOTHING, *saved(one)]
        for one in result.savings
    ]
    head = ["way to stop", "points given up", "candidates", "saved", "95% interval", f"target {whole(SAVING_TARGET)}"]
    learned = [(gap, saving(result, LEARNED, gap)) for gap in gaps(result)]
    return [
        page.heading("When to stop a vote"),
        page.paragraph(
            "A vote may stop as soon as more candidates would change little. The question is how few are enough. "
            "Fixed votes take as many for every question; the others look at the answers so far."
        ),
        page.figure(
            plots.stopping(tracks, strong=LEARNED, base=FIXED_VOTE),
            "Marks are settings, the line is the best that mixing them reaches. Further left and higher is better. "
            "Candidates are counted one by one, and waiting costs nothing here.",
            label="Accuracy by candidates of the ways to stop a vote. Saved by the learned one: "
            + "; ".join(f"{saved(one)[0]} at {points(gap)} points under the full vote" for gap, one in learned if one),
        ),
        page.table(
            head, rows, caption="Candidates saved against the best fixed vote, a little under the full vote's accuracy"
        ),
    ]


def mix(result: Evaluation) -> list[str]:
    menu = [row.name for row in result.fixed]
    shares = [at.mix for at in result.prices]
    labels = [price(at) for at in result.prices]
    rows = [
        [spec, *(share(part.get(spec, 0.0)) for part in shares)]
        for spec in menu
        if any(part.get(spec, 0.0) > 0 for part in shares)
    ]
    most = [f"{label}: {_most(part)}" for label, part in zip(labels, shares, strict=True)]
    return [
        page.heading("Which strategies it chooses, by price"),
        page.figure(
            plots.mixes(labels, shares, menu, rows=PRICE),
            "Chosen from the text, before sampling; stopping early comes on top. Prices rise from top to bottom; "
            "within a bar come one sample, votes, best of n and beams. Labels as above; small shares have none.",
            label="Shares of the strategies by price. Most often, " + "; ".join(most),
        ),
        page.folded(
            "All shares", page.table(["strategy", *labels], rows, caption=f"Share of the questions, by {PRICE}")
        ),
    ]


def _most(part: Mapping[str, float]) -> str:
    spec = max(part, key=lambda name: part[name])
    return f"{spec} ({share(part[spec])})"


def trust(result: Evaluation) -> list[str]:
    off, tolerance = uncovered(result), points(COVERAGE_TOLERANCE)
    if off:
        held = f"Outside of ±{tolerance} points: " + ", ".join(f"{name} ({share(off[name])})" for name in off) + "."
    else:
        held = f"All {len(result.coverage)} strategies are within ±{tolerance} points of that."
    return [
        page.heading("Whether its predictions can be believed"),
        page.paragraph(
            "On the dashed diagonal, 70% means 70%. Each point is a tenth of the predictions, from the lowest to the "
            "highest. Predicted accuracy is known before sampling; confidence is what a response says afterwards, "
            "here of the questions that the stopping model says it knows."
        ),
        page.beside(
            [
                page.figure(
                    plots.calibration(one),
                    f"ECE {one.error:.3f}, the mean distance from the diagonal; Brier {one.brier:.3f}, the mean "
                    "squared error.",
                    label=f"Reliability of {one.name}. "
                    + "; ".join(f"{share(b.predicted)} predicted, {share(b.actual)} true" for b in one.bins),
                    title=one.name.capitalize(),
                )
                for one in result.reliability
            ],
            narrow=True,
        ),
        page.paragraph(
            "Budgets rely on upper bounds on a strategy's tokens, which should hold in "
            f"{whole(result.level)} of the cases. {held}"
        ),
        page.paragraph(
            f"Median error of predicted tokens: {share(result.tokens_error)}; of the seconds of an engine call at its "
            f"true length: {share(result.speed_error)}."
        ),
        page.folded(
            "Every strategy's bound",
            page.table(
                ["strategy", "holds in", f"within ±{tolerance} points"],
                [[name, share(part), "no" if name in off else "yes"] for name, part in result.coverage.items()],
                caption=f"Share of outcomes under the bound, which promises {whole(result.level)}",
            ),
        ),
    ]


def unseen_families(known: Evaluation, unseen: Evaluation | None) -> list[str]:
    top = page.heading("On kinds of questions it has not seen")
    if unseen is None:
        return [top, page.paragraph("Not measured: there is no evaluation with whole families held out.")]
    there = {price(at): at for at in unseen.prices}
    shared = [at for at in known.prices if price(at) in there]
    others = [there[price(at)] for at in shared]
    series = [
        gains_of(name, [at.row(ADAPTIVE) for at in prices], intervals=True)
        for name, prices in zip(_FAMILIES, (shared, others), strict=True)
    ]
    figures = zip(_key_figures(known), _key_figures(unseen), strict=True)
    return [
        top,
        page.paragraph(
            "A whole family of questions is held out at once: no model has seen one of its kind. This is what to "
            "expect of questions unlike the recorded ones. The stopping model said that it knows "
            f"{share(unseen.familiar)} of them, and {share(known.familiar)} of those of known families; where it does "
            "not, a rule without a model stops. Its confidence is judged on those that it says it knows."
        ),
        page.beside(
            [
                page.figure(
                    plots.differences([price(at) for at in shared], series, axis=_GAIN, rows=PRICE),
                    "Adaptive in both cases, each against its best fixed strategy in hindsight. Intervals resample "
                    "questions where families are known, and whole families where they are held out.",
                    label="Gain of adaptive with whole families held out. " + "; ".join(gain_at(at) for at in others),
                ),
                page.table(
                    ["", *_FAMILIES],
                    [[name, mine, theirs] for (name, mine), (_, theirs) in figures],
                    caption="Key figures side by side",
                ),
            ]
        ),
    ]


def _key_figures(result: Evaluation) -> list[tuple[str, str]]:
    found, tolerance = compare(result), points(COVERAGE_TOLERANCE)
    above, below = against_lookup(result)
    stops = [(gap, saving(result, LEARNED, gap)) for gap in gaps(result)]
    return [
        ("prices where adaptive is above", f"{len(found.above)} of {found.prices}"),
        ("… with an interval above zero", str(len(found.clearly_above))),
        ("prices where it is below", f"{len(found.below)} of {found.prices}"),
        ("… with an interval below zero", str(len(found.clearly_below))),
        ("above, below the lookup table", f"{above}, {below}"),
        *((f"candidates saved, {points(gap)} points under", saved(one)[0]) for gap, one in stops if one),
        *((f"… interval, {points(gap)} points under", saved(one)[1]) for gap, one in stops if one),
        *((f"{one.name}: ECE, Brier", f"{one.error:.3f}, {one.brier:.3f}") for one in result.reliability),
        (f"upper bounds off by > {tolerance} points", f"{len(uncovered(result))} of {len(result.coverage)}"),
        ("median error of predicted tokens", share(result.tokens_error)),
        ("questions it says it knows", share(result.familiar)),
        ("questions, families", f"{result.questions}, {result.families}"),
    ]
