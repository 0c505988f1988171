"""The process that does the algebra: `python -m server.maths.worker SECONDS`.

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

from server.maths.algebra import Same, algebra, equal
from strategies.answers.maths import latex

_MEMORY = 1 << 30  # bytes of address space
_WARM = (  # so that a copy starts with everything loaded that the common cases need
    ("\\sqrt{8}", "2\\sqrt{2}"), ("x^2-x-2", "(x+1)(x-2)"), ("\\frac{\\pi}{2}", "0.5\\pi"), ("2x+2y=2", "x+y=1"),
    ("x<5", "5>x"), ("\\frac{x}{3}", "\\frac{1}{3}x"), ("\\sin^2x", "1-\\cos^2x"),
)  # fmt: skip


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
    except MemoryError:
        os._exit(1)  # what was remembered fills the memory: the next copy starts without it
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
    sys.stdout = sys.stderr  # what a library prints is no answer
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
