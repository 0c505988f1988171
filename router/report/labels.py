"""Labels of points, put where they cover nothing."""
# pyright: reportUnknownMemberType=false
# Matplotlib leaves the keyword arguments of its plotting methods without types.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.areas import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HALF_MARK = 3.0
_LETTER = 0.6  # width of a letter over its height
_AWAY = (0, 9, 18, 30)
_RISE = (0, 9, -9, 18, -18)

Box = tuple[float, float, float, float]  # left, bottom, right, top


def place_labels(
    figure: Figure,
    axes: Axes,
    labels: Mapping[tuple[float, float], str],
    others: Points,
    *,
    size: float,
    ink: str,
    line: str,
) -> None:
    """Each beside its point, where it covers no point, none of the others and no label; those that are far from theirs
    get a line to it. Nothing of the layout may change afterwards."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    points = {place: axes.transData.transform(place) for place in labels}
    marks = [*points.values(), *(axes.transData.transform(place) for place in others)]
    taken = [_around(float(x), float(y)) for x, y in marks]
    offsets = [(side * (5 + far), rise) for far in _AWAY for rise in _RISE for side in (1, -1)]
    for place, text in sorted(labels.items()):
        if not text:
            continue
        x, y = (float(value) for value in points[place])
        boxes = [(_box(x + right, y + up, size, len(text), left=right < 0), right, up) for right, up in offsets]
        box, right, up = next((one for one in boxes if not any(_meet(one[0], there) for there in taken)), boxes[0])
        taken.append(box)
        near = abs(right) <= 5 and abs(up) <= 9
        axes.annotate(
            text,
            place,
            (right, up),
            textcoords="offset points",
            size=size,
            va="center",
            ha="right" if right < 0 else "left",
            color=ink,
            arrowprops=None if near else {"arrowstyle": "-", "color": line, "linewidth": 0.5, "shrinkA": 0},
        )


def _around(x: float, y: float) -> Box:
    return x - _HALF_MARK, y - _HALF_MARK, x + _HALF_MARK, y + _HALF_MARK


def _box(x: float, y: float, size: float, letters: int, *, left: bool) -> Box:
    width = _LETTER * size * letters
    start = x - width if left else x
    return start, y - size / 2, start + width, y + size / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
