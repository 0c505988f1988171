"""Time of one `extract` by length of the conversation: python -m benchmarks.features"""

from __future__ import annotations

import platform
import timeit

from router.features import extract
from strategies.types import Budget, Prices, Query

QUESTION = (
    "Tom has 3 boxes with 1,250 apples each, and sells 40% of them for $0.75 per apple. On Monday he buys half as many "
    "again at 12 / 5 of the price; `f(x) = 2 * x + 1` says how much he pays. How many apples are left in total, and "
    "what is the remainder when that number is divided by 7? Think step by step and put the answer in \\boxed{}.\n"
)


def conversation(characters: int) -> Query:
    """A worked example, then the question, of `characters` in all."""
    example, answer = QUESTION[: characters // 4], "The answer is 42."
    question = (QUESTION * (characters // len(QUESTION) + 1))[: characters - len(example) - len(answer)]
    return Query(
        id="benchmark",
        model="m",
        messages=[
            {"role": "user", "content": example},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": question},
        ],
        sampling={"temperature": 0.7},
        budget=Budget(max_total_tokens=4096, deadline=60.0),
        prices=Prices(token_price=0.0, latency_price=0.0),
    )


def main() -> None:
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"{'characters':>12}  {'µs per call, best of 5':>24}")
    for characters in (400, 4_000, 1_000_000):
        query = conversation(characters)
        timer = timeit.Timer(lambda query=query: extract(query))
        loops, _ = timer.autorange()
        print(f"{characters:>12,}  {min(timer.repeat(5, loops)) / loops * 1e6:>24,.0f}")


if __name__ == "__main__":
    main()
