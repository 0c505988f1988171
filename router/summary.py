"""The evaluation's figures for a terminal."""

from __future__ import annotations

from router.budgets import CUT, FITS
from router.evaluation import AtPrice, Evaluation

_ADAPTIVE = "adaptive"


def table(result: Evaluation) -> str:
    """A short table: the fixed strategies, every way of deciding at each pair of prices, what stopping saves."""
    unseen = "its family" if result.unseen_families else "it"
    lines = [
        f"{result.questions} questions of {result.families} families, {result.samples} samples each; every question is "
        f"predicted by a model that has not seen {unseen}",
        f"the stopping model said that it knows {result.familiar:.0%} of them",
        "",
        f"{'fixed strategy':<44}{'accuracy':>9}{'tokens':>9}{'seconds':>9}",
        *(f"{row.name:<44}{row.accuracy:>9.3f}{row.tokens:>9.1f}{row.seconds:>9.2f}" for row in result.fixed),
        "",
        f"{'price per 1k tokens, per second':<44}{'accuracy':>9}{'tokens':>9}{'seconds':>9}{'utility':>9}"
        "  against the best fixed",
    ]
    for at in result.prices:
        lines.append(f"{at.token_price:g}, {at.latency_price:g}")
        lines += [
            f"  {row.name:<42}{row.accuracy:>9.3f}{row.tokens:>9.1f}{row.seconds:>9.2f}{row.utility:>9.3f}"
            f"  {row.gain:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
            for row in at.rows
        ]
        mix = ", ".join(f"{name} {share:.0%}" for name, share in sorted(at.mix.items(), key=lambda item: -item[1])[:4])
        closed = "" if at.closed is None else f"; closes {at.closed:.0%} of the gap to the oracle"
        lines.append(f"  adaptive chose {mix}{closed}")
    lines += [
        "",
        f"{'hard budget, at prices':<30}{'adaptive':>9}{'fits':>9}{'cut':>9}  adaptive against the fixed that fits",
    ]
    for at in result.budgets:
        own, accuracies = at.row(_ADAPTIVE), [at.row(name).accuracy for name in (_ADAPTIVE, FITS, CUT)]
        lines.append(
            f"{f'{at.limit}, {at.token_price:g}, {at.latency_price:g}':<30}"
            + "".join(f"{accuracy:>9.3f}" for accuracy in accuracies)
            + f"  {own.gain:+.3f} [{own.low:+.3f}, {own.high:+.3f}]"
        )
    lines += ["", "mean accuracy over the range of costs (area under the frontier), against the fixed strategies mixed"]
    lines += [
        f"  {one.name:<24}{one.cost:<9}{one.area:>7.3f}  {one.gain:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
        for one in result.areas
    ]
    lines += ["", "candidates saved against the best fixed vote, at the full vote's accuracy less"]
    lines += [
        f"  {saving.gap * 100:g} points: {saving.name:<28}{saving.cost:>6.1f}  {saving.saved:+.0%} "
        f"[{saving.low:+.0%}, {saving.high:+.0%}]"
        for saving in result.savings
    ]
    low, high = min(result.coverage.values()), max(result.coverage.values())
    lines += ["", verdict(result.prices)]
    lines += [f"{one.name}: calibration error {one.error:.3f}, Brier {one.brier:.3f}" for one in result.reliability]
    lines += [
        f"tokens: median error {result.tokens_error:.0%}, {result.level:.0%} upper bounds cover {low:.1%} to "
        f"{high:.1%}",
        f"seconds of an engine call at its true length: median error {result.speed_error:.0%}",
    ]
    return "\n".join(lines)


def verdict(prices: tuple[AtPrice, ...]) -> str:
    """One sentence on adaptive against the best fixed strategy in hindsight."""
    rows = [at.row(_ADAPTIVE) for at in prices]
    above = sum(row.gain > 0 for row in rows)
    surely, worse = sum(row.low > 0 for row in rows), sum(row.high < 0 for row in rows)
    return (
        f"adaptive against the best fixed strategy in hindsight: ahead at {above} of {len(rows)} prices, surely (95 %) "
        f"ahead at {surely}, surely behind at {worse}"
    )
