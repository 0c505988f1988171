"""Time of reading and grouping 32 candidates: python -m benchmarks.answers"""

from __future__ import annotations

import platform
import timeit
from collections.abc import Callable

from strategies.types import Candidate
from strategies.voting import Ballot

STEPS = "We add 3 to 4 and see that it is fine, *of course*, since 2 * 2 = 4.\n" * 15  # about 1 KB, 250 tokens
CASES: dict[str, tuple[str | None, Callable[[int], str]]] = {
    "numbers, labelled": (None, lambda i: f"The answer is {i % 5}."),
    "numbers, boxed": (None, lambda i: f"So it is \\boxed{{{i % 5}}}."),
    "LaTeX, boxed": (None, lambda i: f"So it is \\boxed{{\\frac{{{i % 5}\\pi}}{{7}}}}."),
    "sets, boxed": (None, lambda i: f"So it is \\boxed{{\\{{{i % 5}, 7, x\\}}}}."),
    "choice letters": ("choice", lambda i: f"The answer is {'ABCDE'[i % 5]}."),
    "code": ("code", lambda i: f"```python\ndef f(x):\n    return x + {i % 5}\n```"),
    "pattern": (r"pattern:Result: (\d+)", lambda i: f"Result: {i % 5}"),
}


def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"{'32 candidates of about 1 KB':<28}  {'ms, best of 20':>14}")
    for name, (form, ending) in CASES.items():
        candidates = [
            Candidate(index=i, text=f"{STEPS}\n{ending(i)}", tokens=250, finish_reason="stop") for i in range(32)
        ]
        groups = len(Ballot.of(candidates, form=form).groups)
        if groups != 5:
            raise SystemExit(f"{name}: {groups} groups instead of 5")

        def vote(candidates: list[Candidate] = candidates, form: str | None = form) -> None:
            Ballot.of(candidates, form=form).vote()

        print(f"{name:<28}  {min(timeit.repeat(vote, number=1, repeat=20)) * 1000:>14.2f}")


if __name__ == "__main__":
    main()
