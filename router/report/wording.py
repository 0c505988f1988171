"""How the page writes its figures. Differences are in points: hundredths of utility, or of accuracy."""

from __future__ import annotations

import math

from router.areas import Area
from router.comparison import Row
from router.evaluation import AtPrice
from router.frontier import Saving
from router.report.findings import ADAPTIVE, SAVING_TARGET

PRICE = "price of 1,000 tokens / of a second"
NOTHING = "\u2013"


def price(at: AtPrice) -> str:
    return f"{at.token_price:g} / {at.latency_price:g}"


def share(value: float) -> str:
    return _minus(f"{value:.1%}") if math.isfinite(value) else NOTHING


def whole(value: float) -> str:
    """Of a share that somebody set, not measured."""
    return f"{100 * value:g}%"


def points(value: float) -> str:
    return f"{100 * value:g}"


def signed(value: float) -> str:
    text = f"{100 * value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else _minus(text)


def utility(value: float) -> str:
    return _minus(f"{value:.4f}")


def bounds(row: Row | Area) -> str:
    return f"{signed(row.low)} to {signed(row.high)}"


def gain_at(at: AtPrice) -> str:
    row = at.row(ADAPTIVE)
    return f"{price(at)}: {signed(row.gain)} ({bounds(row)})"


def interval(one: Saving) -> str:
    return f"{share(one.low)} to {share(one.high)}"


def judged(one: Saving) -> str:
    """A saving against the target, in a word or two."""
    if not one.saved >= SAVING_TARGET:
        return "missed"
    return "met by the whole interval" if one.low >= SAVING_TARGET else "met, not by the whole interval"


def saved(one: Saving) -> tuple[str, str, str]:
    """What it saves, the interval, and whether the target is met."""
    if not math.isfinite(one.saved):
        return "not reached", NOTHING, "missed"
    return share(one.saved), interval(one), judged(one)


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
