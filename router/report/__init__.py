"""The page of an evaluation: one HTML file for a reader who knows neither the code nor the papers.

Every sentence is made from the figures, so that it says what they say, for better or worse. The same evaluation gives
the same bytes. Importing this needs matplotlib; without it, the ImportError says what to install.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.evaluation import AtPrice, Evaluation
from router.report import chapters, limits, page, plots
from router.report.findings import (
    LEARNED,
    SAVING_TARGET,
    Comparison,
    against_lookup,
    compare,
    gaps,
    saving,
)
from router.report.wording import PRICE, gain_at, interval, judged, points, price, saved, share, whole


def report(known: Evaluation, unseen: Evaluation | None, *, command: str, source: str) -> str:
    """The whole page. unseen: the same with whole families of questions held out."""
    parts = [
        *_headline(known, unseen, command, source),
        *chapters.gains(known),
        *chapters.tradeoffs(known),
        *limits.budgets(known),
        *chapters.stopping(known),
        *chapters.mix(known),
        *chapters.trust(known),
        *chapters.unseen_families(known, unseen),
        *_reading(known),
    ]
    return page.page("Adaptive allocation, evaluated", parts, colours=plots.COLOURS)


def verdict(found: Comparison) -> str:
    """One sentence, on nothing but intervals that exclude zero."""
    up, down, of = len(found.clearly_above), len(found.clearly_below), found.prices
    if up and down:
        return f"Mixed: clearly better than the best fixed strategy at {up} of {of} prices, clearly worse at {down}."
    if up:
        return f"Clearly better than the best fixed strategy at {up} of {of} prices, clearly worse at none."
    if down:
        return f"Clearly worse than the best fixed strategy at {down} of {of} prices, clearly better at none."
    return f"No clear difference from the best fixed strategy at any of {of} prices."


def _headline(known: Evaluation, unseen: Evaluation | None, command: str, source: str) -> list[str]:
    found = compare(known)
    tiles = [
        ("above the best fixed strategy", *_counted(found, found.above, found.clearly_above)),
        ("below the best fixed strategy", *_counted(found, found.below, found.clearly_below)),
    ]
    for gap in gaps(known):
        one = saving(known, LEARNED, gap)
        if one is not None:
            figure, between, met = saved(one)
            what = f"candidates saved by learned stopping, {points(gap)} points under the full vote"
            tiles.append((what, figure, f"95% interval {between}; target {whole(SAVING_TARGET)}: {met}"))
    lines = [*_compared(found), _lookup(known), *_savings(known)]
    lines.append("With whole families of questions held out: " + (_held_out(unseen) if unseen else "not measured."))
    return [
        page.heading("Adaptive allocation of test-time compute, on held-out questions", 1),
        page.paragraph(verdict(found), "verdict"),
        page.tiles(tiles),
        page.bullets(lines),
        page.terms(
            [
                ("data", f"{known.questions} questions of {known.families} families, {known.samples} samples each"),
                ("from", source),
                ("made by", command),
            ]
        ),
    ]


def _counted(found: Comparison, prices: Sequence[AtPrice], clear: Sequence[AtPrice]) -> tuple[str, str]:
    return f"{len(prices)} of {found.prices} prices", f"{len(clear)} of them clearly: the interval excludes zero"


def _compared(found: Comparison) -> list[str]:
    lines = [
        f"Adaptive allocation is above the best fixed strategy in hindsight at {len(found.above)} of {found.prices} "
        f"prices; at {len(found.clearly_above)} of them the 95% interval of the difference excludes zero."
    ]
    if found.below:
        worse = "; ".join(gain_at(at) for at in found.below)
        lines.append(
            f"It is worse at {len(found.below)}, at {len(found.clearly_below)} of them with an interval that excludes "
            f"zero. {PRICE.capitalize()}, and points of utility: {worse}."
        )
    else:
        lines.append("It is worse at none.")
    if found.equal:
        lines.append(f"It is equal at {len(found.equal)}: {'; '.join(price(at) for at in found.equal)}.")
    return lines


def _lookup(result: Evaluation) -> str:
    above, below = against_lookup(result)
    return (
        "Nobody has hindsight when serving. Against the lookup table, the fixed strategy that was best on the other "
        f"questions, adaptive is above at {above} and below at {below} of {len(result.prices)} prices (without "
        "intervals)."
    )


def _savings(result: Evaluation) -> list[str]:
    lines: list[str] = []
    for gap in gaps(result):
        one = saving(result, LEARNED, gap)
        if one is None:
            continue
        goal = f"the full vote's accuracy less {points(gap)} points"
        if not math.isfinite(one.saved):
            lines.append(f"Learned stopping does not reach {goal}.")
            continue
        than = f"{share(abs(one.saved))} {'fewer' if one.saved >= 0 else 'more'} than the best fixed vote needs"
        lines.append(
            f"Learned stopping reaches {goal} with {one.cost:.1f} candidates, {than} (95% interval of the saving: "
            f"{interval(one)}). The target of {whole(SAVING_TARGET)} is {judged(one)}."
        )
    return lines


def _held_out(result: Evaluation) -> str:
    found = compare(result)
    stops = [(gap, saving(result, LEARNED, gap)) for gap in gaps(result)]
    saves = [
        f"{saved(one)[0]} ({saved(one)[1]}) at {points(gap)} points under the full vote" for gap, one in stops if one
    ]
    return (
        f"above at {len(found.above)} of {found.prices} prices ({len(found.clearly_above)} clearly), below at "
        f"{len(found.below)} ({len(found.clearly_below)} clearly). Candidates saved: {'; '.join(saves)}."
    )


def _reading(result: Evaluation) -> list[str]:
    return [
        page.heading("How to read this"),
        page.bullets(
            [
                "Every question is predicted by models that were trained and calibrated on other questions.",
                "Utility = accuracy \u2212 token price \u00d7 tokens / 1,000 \u2212 price of a second \u00d7 seconds. "
                "At prices of 0 it is accuracy alone.",
                "Best fixed in hindsight: one strategy for all questions, picked for each price on the very questions "
                "it is judged on. That helps it; lookup is the same without hindsight.",
                "Random: a strategy drawn by lot, at the mean tokens of adaptive. Adaptive consistency by price: a "
                "vote that stops by counting alone, the threshold following the price.",
                "Intervals are 95%, by resampling questions. Clearly means that zero is outside. A difference that "
                "rounds to 0.00 points counts as equal.",
            ]
        ),
        page.heading("What this does not show"),
        page.bullets(
            [
                "Other models, other hardware, other kinds of questions: the figures are of the data named at the top.",
                f"Held out is the question, not its kind: families are known, unless said otherwise. Everything rests "
                f"on {result.families} families.",
                f"{len(result.prices)} prices are judged by the same questions, and no interval is corrected for there "
                "being several.",
                "Seconds are of one request at a time, from a model of speed at the recorded lengths, except for beam "
                "search, whose runs were timed. Under load they differ.",
                "Under hard budgets a beam search that took more than the budget counts as wrong: what it would have "
                "made of less was not recorded.",
                "A wave of candidates that has begun is paid for whole, as when serving; only in the chapter on "
                "stopping a vote are they counted one by one.",
                "The oracle takes the best of each question's outcomes, their noise included: nobody reaches it, and "
                "the share of the gap that is closed looks smaller for it.",
                "The grey area's edge and the lines of stopping are the best on the questions they are judged on.",
            ]
        ),
    ]


__all__ = ["report", "verdict"]
