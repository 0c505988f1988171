"""The pictures of an evaluation, as SVG to be put into a page: deterministic, their text left as text.

Colours are those of a light page, replaced by the page's variables of the same name so that it can have a dark one too.
Lines and points differ in shape as well as in colour.
"""
# pyright: reportUnknownMemberType=false
# Matplotlib leaves the keyword arguments of its plotting methods without types.

from __future__ import annotations

import io
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from router.areas import Points, hull, reached
from router.comparison import Row
from router.reliability import Reliability
from router.report.labels import place_labels

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
except ImportError as error:
    raise ImportError("the page's pictures need matplotlib: pip install 'apportion[report]'") from error

# name of the variable in the page -> (light, dark)
COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1c2733", "#e6e9ed"),
    "muted": ("#66717d", "#9aa5b1"),
    "line": ("#d3d9df", "#3a4450"),
    "page": ("#fefefe", "#14191f"),
    "blue": ("#0b62a8", "#62b0f2"),
    "orange": ("#c27400", "#f0a830"),
    "green": ("#00805c", "#3fc79b"),
    "purple": ("#a63c80", "#e493c4"),
    "red": ("#bd420d", "#ff8d57"),
    "fill-single": ("#c5cbd3", "#c5cbd3"),
    "fill-vote": ("#7db9e8", "#7db9e8"),
    "fill-best": ("#f2b548", "#f2b548"),
    "fill-beam": ("#5ec5a2", "#5ec5a2"),
    "fill-other": ("#e39ac6", "#e39ac6"),
    "fill-ink": ("#10161d", "#10161d"),
}
_INK, _MUTED, _LINE, _PAGE, _BLUE, _ORANGE, _GREEN, _PURPLE, _RED = (light for light, _ in list(COLOURS.values())[:9])
_FILL_INK = COLOURS["fill-ink"][0]
_STYLES = (
    (_BLUE, "o"),
    (_ORANGE, "s"),
    (_GREEN, "D"),
    (_PURPLE, "^"),
    (_INK, "v"),
    (_RED, "X"),
    (_MUTED, "P"),
)
_METHODS: Mapping[str, tuple[str, str, str]] = {  # marker, fill, how a reader calls it
    "single": ("o", COLOURS["fill-single"][0], "one sample"),
    "majority_vote": ("s", COLOURS["fill-vote"][0], "majority vote"),
    "best_of_n": ("^", COLOURS["fill-best"][0], "best of n"),
    "beam_search": ("D", COLOURS["fill-beam"][0], "beam search"),
}
_WIDTH = 4.5  # inches: on a phone about one to one
_SIZE = 9.5
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "apportion",
    "font.size": _SIZE,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.fontsize": _SIZE,
    "figure.facecolor": "none",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing measured at every row of a picture. low, high: its intervals, where they are shown."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A way of deciding at several settings: (cost, accuracy)."""

    name: str
    points: Points


def gains_of(name: str, rows: Sequence[Row], *, intervals: bool) -> Series:
    """What a way gains at every row of a picture, in points."""
    return Series(
        name=name,
        values=[100 * row.gain for row in rows],
        low=[100 * row.low for row in rows] if intervals else None,
        high=[100 * row.high for row in rows] if intervals else None,
    )


def method_name(spec: str) -> str:
    method = spec.partition("@")[0]
    return _METHODS[method][2] if method in _METHODS else method


def short_name(spec: str) -> str:
    """Of a strategy beside its method's mark: `best_of_n@8:self_certainty:weighted` is `8 sc w`."""
    settings = spec.partition("@")[2].split(":")
    return " ".join([settings[0], *("".join(word[:1] for word in option.split("_")) for option in settings[1:])])


def differences(labels: Sequence[str], series: Sequence[Series], *, axis: str, rows: str) -> str:
    """A forest plot: one row a label, the series below one another in it, right of zero being better."""
    with _settings():
        figure, axes = _canvas(height=0.9 + len(labels) * (0.16 + 0.065 * len(series)))
        step = min(0.34, 0.74 / max(len(series) - 1, 1))
        for i in range(0, len(labels), 2):
            axes.axhspan(i - 0.5, i + 0.5, color=_LINE, alpha=0.35, linewidth=0)
        axes.axvline(0, color=_INK, linewidth=1)
        handles: list[Line2D] = []
        for i, one in enumerate(series):
            colour, marker = _STYLES[i % len(_STYLES)]
            places = [row + step * (i - (len(series) - 1) / 2) for row in range(len(labels))]
            if one.low is not None and one.high is not None:
                axes.hlines(places, one.low, one.high, color=colour, linewidth=1.6)
            size = 6 if one.low is not None else 4
            axes.plot(one.values, places, marker, color=colour, markersize=size, markeredgewidth=0)
            handles.append(
                Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="none", label=one.name)
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(axis)
        axes.set_ylabel(rows)
        _legend(figure, handles)
        return _svg(figure)


def tradeoff(fixed: Mapping[str, tuple[float, float]], tracks: Sequence[Track], *, axis: str) -> str:
    """Accuracy against a cost, on a logarithmic scale: the fixed strategies with what mixing them reaches, and the
    tracks; the first is drawn strongest."""
    with _settings():
        figure, axes = _canvas(height=4.4)
        everything = [*fixed.values(), *(point for track in tracks for point in track.points)]
        xs = [x for x, _ in everything]
        left, right = min(xs) / 1.12, max(xs) * 1.3
        low, high = min(y for _, y in everything), max(y for _, y in everything)
        floor = low - 0.06 * (high - low or 1)
        axes.set_xscale("log")
        _plain_ticks(axes, left, right)
        costs = np.geomspace(min(x for x, _ in fixed.values()), right, 80)
        axes.fill_between(
            costs, reached(list(fixed.values()), costs.tolist()), floor, color=_MUTED, alpha=0.14, linewidth=0
        )
        handles = [Patch(color=_MUTED, alpha=0.14, linewidth=0, label="mixing fixed ones")]
        marks: list[Line2D] = []
        for i, track in reversed(list(enumerate(tracks))):
            colour, marker = _STYLES[i % len(_STYLES)]
            width, size = (2.2, 6.0) if i == 0 else (0.8, 3.5)
            points = sorted(track.points)
            marks += axes.plot(
                [x for x, _ in points], [y for _, y in points], color=colour, marker=marker, markersize=size,
                linewidth=width, markeredgewidth=0, label=track.name, alpha=1 if i == 0 else 0.8,
            )  # fmt: skip
        for method in dict.fromkeys(spec.partition("@")[0] for spec in fixed):
            own = [point for spec, point in fixed.items() if spec.partition("@")[0] == method]
            marker = _METHODS[method][0] if method in _METHODS else "P"
            marks += axes.plot(
                [x for x, _ in own], [y for _, y in own], marker, color=_MUTED, markerfacecolor=_PAGE, markersize=5.5,
                label=f"{method_name(method)} (fixed)",
            )  # fmt: skip
        axes.set_xlim(left, right)
        axes.set_ylim(floor, high + 0.12 * (high - low or 1))
        axes.yaxis.set_major_formatter(FuncFormatter(_as_percent))
        axes.set_xlabel(axis)
        axes.set_ylabel("accuracy")
        _legend(figure, [*reversed(marks[: len(tracks)]), *marks[len(tracks) :], *handles])
        others = [point for track in tracks for point in track.points]
        labels = {point: short_name(spec) for spec, point in fixed.items()}
        place_labels(figure, axes, labels, others, size=_SIZE - 1, ink=_INK, line=_MUTED)
        return _svg(figure)


def stopping(tracks: Sequence[Track], *, strong: str, base: str) -> str:
    """Accuracy against candidates. Marks are settings; the line is what mixing two of them reaches."""
    with _settings():
        figure, axes = _canvas(height=4.2)
        lines: list[Line2D] = []
        order = sorted(range(len(tracks)), key=lambda i: tracks[i].name == strong)
        styles = {track.name: _STYLES[1:][i % 6] for i, track in enumerate(t for t in tracks if t.name != base)}
        styles |= {strong: _STYLES[0], base: (_INK, "o")}
        for i in order:
            track = tracks[i]
            colour, marker = styles[track.name]
            best = hull(track.points)
            width = 2.2 if track.name in (strong, base) else 1
            dashes = "--" if track.name == base else "-"
            axes.plot([x for x, _ in best], [y for _, y in best], color=colour, linewidth=width, linestyle=dashes)
            axes.plot(
                [x for x, _ in track.points], [y for _, y in track.points], marker, color=colour, markersize=3.8,
                markeredgewidth=0, alpha=0.85,
            )  # fmt: skip
            lines.append(
                Line2D([], [], color=colour, marker=marker, linestyle=dashes, linewidth=width, label=track.name)
            )
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_as_percent))
        axes.set_xlabel("candidates a question, mean")
        axes.set_ylabel("accuracy")
        _legend(figure, [line for _, line in sorted(zip(order, lines, strict=True), key=lambda pair: pair[0])])
        return _svg(figure)


def mixes(labels: Sequence[str], shares: Sequence[Mapping[str, float]], menu: Sequence[str], *, rows: str) -> str:
    """Stacked bars, one a label: methods by colour in the menu's order, strategies of a method side by side."""
    methods = list(dict.fromkeys([*(m for m in _METHODS), *(spec.partition("@")[0] for spec in menu)]))
    order = sorted(menu, key=lambda spec: methods.index(spec.partition("@")[0]))
    used = [spec for spec in order if any(share.get(spec, 0) > 0 for share in shares)]
    with _settings():
        figure, axes = _canvas(height=0.9 + 0.3 * len(labels))
        start = np.zeros(len(labels))
        for spec in used:
            width = np.array([share.get(spec, 0.0) for share in shares])
            fill = _fill(spec.partition("@")[0])
            axes.barh(range(len(labels)), width, left=start, height=0.78, color=fill, edgecolor=_PAGE, linewidth=0.8)
            for row in np.flatnonzero(width > 0.022 * (len(short_name(spec)) + 1)):
                axes.text(
                    start[row] + width[row] / 2, float(row), short_name(spec), ha="center", va="center",
                    color=_FILL_INK, size=_SIZE - 1.5,
                )  # fmt: skip
            start += width
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_as_percent))
        axes.set_xlabel("share of the questions")
        axes.set_ylabel(rows)
        shown = dict.fromkeys(spec.partition("@")[0] for spec in used)
        _legend(figure, [Patch(facecolor=_fill(method), label=method_name(method)) for method in shown])
        return _svg(figure)


def calibration(one: Reliability) -> str:
    """What was predicted against what came true: on the diagonal, 70 % means 70 %."""
    with _settings():
        figure, axes = _canvas(height=3.15, width=3.5)
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle="--")
        axes.plot([b.predicted for b in one.bins], [b.actual for b in one.bins], color=_BLUE, marker="o", linewidth=1.4)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_formatter(FuncFormatter(_as_percent))
        axes.set_xlabel(one.name)
        axes.set_ylabel("came true")
        return _svg(figure)


@contextmanager
def _settings() -> Generator[None]:
    """Whatever the user's own matplotlibrc says: the same figures give the same bytes everywhere."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def _canvas(*, height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inline(out.getvalue())


def _inline(svg: str) -> str:
    """Without what only a file needs, nor names that would be there twice in a page of several pictures."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    mark = sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}-", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<svg [^>]*?(viewBox=\"0 0 ([\d.]+) [\d.]+\")[^>]*>", _head, svg, count=1)
    names = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}
    return re.sub("|".join(names), lambda match: names[match[0]], svg).strip()


def _head(match: re.Match[str]) -> str:
    """All pictures in one scale, so that their letters are of one size."""
    return f'<svg {match[1]} style="max-width: {1.5 * float(match[2]):.0f}px">'


def _fill(method: str) -> str:
    return _METHODS[method][1] if method in _METHODS else COLOURS["fill-other"][0]


def _as_percent(value: float, _: int | None) -> str:
    return f"{100 * value:.3g}%"


def _as_number(value: float, _: int | None) -> str:
    return f"{value:g}"


def _plain_ticks(axes: Axes, left: float, right: float) -> None:
    """1, 2, 5, 10 ... instead of powers of ten."""
    ticks = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5) if left <= m * 10.0**e <= right]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_as_number))


def _legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    figure.legend(
        handles=list(handles), loc="outside upper left", ncols=2, handlelength=1.6, columnspacing=1.0, borderpad=0.2
    )
