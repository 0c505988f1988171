"""The process that does the algebra, with math-verify: `python -m server.maths.worker SECONDS`.

Two processes: one that has imported everything and waits, and its copy (`fork`), which works. A timer of the kernel
kills the copy when a question takes longer than SECONDS: nothing that hostile input does inside Python or C can hold
it up. The first then says so and makes another copy, in milliseconds instead of the second that importing takes.

In, a line: [number, answer, [other, ...]]. Out, a line: "number bits", a bit an other, each written as soon as it is
known. A line that ends in "!" was cut short.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from strategies.answers.maths import latex
from strategies.answers.spelling import elements, split

_MEMORY = 1 << 30  # bytes of address space
_WARM = (  # so that a copy starts with everything loaded that the common cases need
    ("\\sqrt{8}", "2\\sqrt{2}"), ("x^2-x-2", "(x+1)(x-2)"), ("\\frac{\\pi}{2}", "0.5\\pi"), ("2x+2y=2", "x+y=1"),
    ("x<5", "5>x"), ("\\frac{x}{3}", "\\frac{1}{3}x"), ("\\sin^2x", "1-\\cos^2x"),
)  # fmt: skip

Same = Callable[[str, str], bool]


def algebra() -> Same:
    """Whether two pieces of LaTeX are equal. Raises ImportError without math-verify.

    Only its grammar of LaTeX is used: it also knows how to read Python, which evaluates what it reads.
    """
    sympy: Any = import_module("sympy")  # neither is completely typed
    math_verify: Any = import_module("math_verify")
    relations, verify = sympy.core.relational, math_verify.verify
    config = [math_verify.LatexExtractionConfig()]

    @lru_cache(maxsize=512)
    def read(text: str) -> Any:
        found = math_verify.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        return found[0] if len(found) == 1 else None

    def ratio(one: Any, other: Any) -> Any:
        """Of two relations' left sides minus their right sides; not of solutions: x^2=-1 and x^2=-2 both have none."""
        return sympy.simplify((one[0] - one[1]) / (other[0] - other[1]))

    def related(one: Any, other: Any) -> bool:
        if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq):
            quotient = ratio((one.lhs, one.rhs), (other.lhs, other.rhs))
            return bool(quotient.is_number and quotient.is_finite and quotient.is_nonzero)
        kinds = (sympy.StrictLessThan, sympy.StrictGreaterThan)
        if not all(hasattr(side, "gts") for side in (one, other)) or isinstance(one, kinds) != isinstance(other, kinds):
            return False
        return bool(ratio((one.gts, one.lts), (other.gts, other.lts)).is_positive)

    def same(one: str, other: str) -> bool:
        left, right = read(one), read(other)
        if left is None or right is None:
            return False
        if isinstance(left, relations.Relational) or isinstance(right, relations.Relational):
            return related(left, right)
        exact: dict[str, Any] = {"float_rounding": 12, "timeout_seconds": None}  # 1.4142 is not the root of 2
        return bool(verify(left, right, **exact)) and bool(verify(right, left, **exact))  # it is not symmetric

    return same


def equal(one: str, other: str, same: Same) -> bool:
    """Compares sets, tuples, intervals and unions element by element, and asks `same` for what is in them.

    By hand, because math-verify takes (1,2) and {1,2} for equal, and every interval that ends before it begins.
    """
    if one == other:
        return True
    left, right = _parts(one), _parts(other)
    if left is None or right is None:
        return left is None and right is None and same(one, other)
    kind, ours = left
    if right[0] != kind or len(right[1]) != len(ours):
        return False
    if kind not in ("{}", "\\cup"):
        return all(equal(a, b, same) for a, b in zip(ours, right[1], strict=True))
    theirs = list(right[1])
    for part in ours:
        match = next((candidate for candidate in theirs if equal(part, candidate, same)), None)
        if match is None:
            return False
        theirs.remove(match)
    return True


def _parts(text: str) -> tuple[str, Sequence[str]] | None:
    if "\\cup" in text and len(union := split(text, "\\cup") or ()) > 1:
        return "\\cup", [part.strip() for part in union]
    if (listed := elements(text.strip())) is None:
        return None
    opening, parts, closing = listed
    return opening + closing, [part.strip() for part in parts]


def _work(seconds: float, same: Same) -> None:
    """Answer questions until there are no more. Ended by the kernel if one takes too long."""
    with contextlib.suppress(ValueError, OSError):  # not every system bounds it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while line := _line():
        number, answer, others = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        os.write(1, f"{number} ".encode())
        for other in others:
            os.write(1, b"1" if _decide(answer, other, same) else b"0")
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, b"\n")


def _decide(answer: str, other: str, same: Same) -> bool:
    one, another = sorted((answer, other))  # what is found cannot depend on which came first
    left, right = latex(one), latex(another)
    try:
        return left is not None and right is not None and equal(left, right, same)
    except Exception:  # noqa: BLE001 (a parser and an algebra system on hostile input: whatever they raise is no)
        return False


def _line() -> bytes:
    """The next question, empty at the end. There is never more than one on its way."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            return b""
        line += more
    return line


def main(seconds: float) -> int:
    logging.disable()
    try:
        same = algebra()
    except ImportError:
        return 3
    for one, other in _WARM:
        equal(one, other, same)
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"ready\n")
        while True:
            copy = os.fork()
            if not copy:
                with contextlib.suppress(BrokenPipeError):
                    _work(seconds, same)
                os._exit(0)
            if os.waitpid(copy, 0)[1] == 0:
                break  # the gateway has gone
            os.write(1, b"!\n")
    os._exit(0)  # nothing to tidy up, and tidying up takes a third of a second


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
