"""The decision: the strategy with the highest utility among those that fit the budget. Pure.

    U(s | x) = accuracy(x, s) - token_price * tokens(x, s) / 1000 - latency_price * seconds(x, s, load)

"Latency and Token-Aware Test-Time Compute" (arXiv 2509.09864), eq. 1, with the budgets as hard constraints on upper
quantiles, so that a budget is a promise and not an average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from strategies.types import Allocation, Prediction, Prices, Query


class BudgetInfeasible(Exception):
    """Nothing on the menu fits a strict budget. Carries the smallest budget that would do."""

    def __init__(self, smallest: Prediction) -> None:
        super().__init__(
            f"no strategy fits the budget; the smallest, {smallest.spec}, needs about "
            f"max_total_tokens={ceil(smallest.tokens_upper)} and deadline_ms={ceil(smallest.seconds_upper * 1000)}"
        )
        self.smallest = smallest


def utility(row: Prediction, prices: Prices) -> float:
    return row.accuracy - prices.token_price * row.tokens / 1000 - prices.latency_price * row.seconds


def judge(row: Prediction, *, prices: Prices, max_total_tokens: float, seconds_left: float) -> Prediction:
    """The row with its utility, and whether its upper quantiles fit the budget."""
    problems: list[str] = []
    if row.reason:
        problems.append(row.reason)
    if row.tokens_upper > max_total_tokens:
        problems.append(f"may need {row.tokens_upper:.0f} tokens of {max_total_tokens:.0f}")
    if row.seconds_upper > seconds_left:
        problems.append(f"may take {row.seconds_upper:.2f} s of {max(seconds_left, 0.0):.2f} s")
    return replace(row, utility=utility(row, prices), feasible=not problems, reason="; ".join(problems))


def choose(
    query: Query,
    predictions: Sequence[Prediction],
    *,
    now: float,
    decided_by: str,
    model_version: str | None = None,
) -> Allocation:
    """Choose among the predictions (one row a menu entry; a row with a reason is not offered).

    now: monotonic seconds, for what is left until the deadline. Ties go to the fewer tokens, then to the menu's order.
    Raises BudgetInfeasible for a strict budget that nothing fits, ValueError without any row.
    """
    if not predictions:
        raise ValueError("the menu offers nothing")
    rows = [
        judge(
            row,
            prices=query.prices,
            max_total_tokens=query.budget.max_total_tokens,
            seconds_left=query.budget.deadline - now,
        )
        for row in predictions
    ]
    fitting = [row for row in rows if row.feasible]
    if query.requested is not None:
        return _as_asked(query, rows)
    if fitting:
        best = max(fitting, key=lambda row: (row.utility, -row.tokens))
        return Allocation(
            spec=best.spec,
            predictions=rows,
            reason=_why(best, fitting, len(rows)),
            decided_by=decided_by,
            model_version=model_version,
        )
    # what is not offered at all can't be cut to size, unless there is nothing else
    offered = [judged for judged, row in zip(rows, predictions, strict=True) if not row.reason] or rows
    smallest = min(offered, key=lambda row: (row.seconds_upper, row.tokens_upper))
    if query.budget.strict:
        raise BudgetInfeasible(smallest)
    return Allocation(
        spec=smallest.spec,
        predictions=rows,
        reason=f"nothing on the menu fits the budget, so {smallest.spec} is cut to size ({smallest.reason})",
        decided_by=decided_by,
        model_version=model_version,
        fits=False,
    )


def _as_asked(query: Query, rows: Sequence[Prediction]) -> Allocation:
    spec = query.requested
    assert spec is not None  # noqa: S101 - the caller checked; tells the type checker
    row = next((row for row in rows if row.spec == spec), None)
    fits = row is None or row.feasible
    if query.budget.strict and row is not None and not fits:
        raise BudgetInfeasible(row)
    return Allocation(
        spec=spec,
        predictions=rows,
        reason=f"the client asked for {spec}" + ("" if fits or row is None else f", which may not fit ({row.reason})"),
        decided_by="client",
        fits=fits,
    )


def _why(best: Prediction, fitting: Sequence[Prediction], offered: int) -> str:
    """One sentence: what it won with, over what, and how many others did not fit."""
    others = sorted((row for row in fitting if row is not best), key=lambda row: row.utility, reverse=True)
    dropped = offered - len(fitting)
    sentence = f"{best.spec} has the highest utility, {best.utility:.3f}"
    if others:
        second = others[0]
        sentence += f", ahead of {second.spec} with {second.utility:.3f}"
    if dropped:
        sentence += f"; {dropped} of {offered} menu entries do not fit"
    return sentence
