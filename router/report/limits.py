"""The chapter on hard budgets: what fits in a number of tokens, or in a time."""

from __future__ import annotations

from router.budgets import CUT, FITS, PRICES, AtBudget
from router.comparison import Row
from router.evaluation import Evaluation
from router.report import page, plots
from router.report.findings import ADAPTIVE
from router.report.plots import gains_of
from router.report.wording import PRICE, bounds, share, signed

_WAYS = (ADAPTIVE, "before sampling alone", "while sampling alone")
_BUDGET = "budget"


def budgets(result: Evaluation) -> list[str]:
    figures: list[str] = []
    for pair in PRICES:
        there = [at for at in result.budgets if (at.token_price, at.latency_price) == pair]
        named = f"{pair[0]:g} / {pair[1]:g}"
        told = [(at.limit, at.row(ADAPTIVE)) for at in there]
        axis = f"utility above the best fixed that fits, points, at {named}"
        series = [gains_of(name, [at.row(name) for at in there], intervals=name == ADAPTIVE) for name in _WAYS]
        figures.append(
            page.figure(
                plots.differences([at.limit for at in there], series, axis=axis, rows=_BUDGET),
                f"Where the {PRICE} is {named}. Bars are 95% intervals.",
                label=f"Gain of adaptive under hard budgets at prices of {named}. "
                + "; ".join(f"{name}: {signed(own.gain)} ({bounds(own)})" for name, own in told),
            )
        )
    return [
        page.heading("Under hard budgets"),
        page.paragraph(
            "The allocator takes what fits by its upper bounds, and whatever is chosen then runs under the budget: no "
            "candidate is longer than what is left for it, and what the budget or the deadline cuts has no vote. Fixed "
            "strategies run under the same budget. The zero line is the best of those that fit as often as the upper "
            "bounds promise, in hindsight (where none does, the smallest); the best of all, cut by the budget where it "
            "does not fit, is in the table."
        ),
        page.beside(figures),
        page.table(
            [_BUDGET, "fits", "adaptive", "best that fits", "gain, points", "95% interval", "best, cut", "its gain"],
            [_compared(at) for at in result.budgets if (at.token_price, at.latency_price) == PRICES[0]],
            caption="Accuracy within the budget, where nothing has a price. Fits: share of the questions for which "
            "something on the menu is predicted to fit",
        ),
        page.folded(
            "All ways under all budgets",
            page.table(
                [_BUDGET, "prices", "way", "accuracy", "tokens", "seconds", "gain, points", "95% interval"],
                [
                    [
                        at.limit, f"{at.token_price:g} / {at.latency_price:g}", row.name, share(row.accuracy),
                        f"{row.tokens:.1f}", f"{row.seconds:.2f}", signed(row.gain), bounds(row),
                    ]
                    for at in result.budgets
                    for row in at.rows
                ],
                caption="Means over the questions; gains over the best fixed strategy that fits",
            ),
        ),
    ]  # fmt: skip


def _compared(at: AtBudget) -> list[str]:
    own, fits, cut = at.row(ADAPTIVE), at.row(FITS), at.row(CUT)
    return [
        at.limit,
        share(at.feasible),
        share(own.accuracy),
        _named(fits),
        signed(own.gain),
        bounds(own),
        _named(cut),
        signed(cut.gain),
    ]


def _named(row: Row) -> str:
    return f"{share(row.accuracy)} ({row.name.partition(': ')[2]})"
