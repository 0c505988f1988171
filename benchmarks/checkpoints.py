"""What one checkpoint costs: the learned model's verdict on a request's votes, in microseconds.

    python -m benchmarks.checkpoints [--times 300]

Its place among the recorded questions is found once a request, the verdict once a candidate, both on the event loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from timeit import repeat

from router.boosted import Boosted, features_of
from router.pools import read_pools
from router.stopping import Spending
from strategies.spec import StrategySpec
from strategies.stopping import Poll, Vote

POOLS = Path("configs/pools/smollm2-135m.jsonl.gz")
MODEL = Path("configs/models/smollm2-135m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300)
    times = parser.parse_args().times

    def cost(call: object) -> float:
        assert callable(call)  # noqa: S101 - tells the type checker
        return min(repeat(call, number=times, repeat=5)) / times * 1e6

    stopper = Boosted.load(MODEL).stopper
    assert stopper is not None, "train the demo's model first"  # noqa: S101 - a benchmark's own precondition
    features = features_of(read_pools(POOLS)[0].question)
    place = stopper.place(features)
    print(f"{'place':<28}{cost(lambda: stopper.place(features)):>8.0f} us")
    for written, score in (("majority_vote@64", None), ("best_of_n@64:weighted", 0.5)):
        spending = Spending(token=2e-5, wait=1e-4)
        stopping = stopper.for_request(StrategySpec.parse(written), place, spending)
        assert stopping is not None  # noqa: S101 - the first question of the pools is one the model knows
        for drawn in (1, 8, 32, 63):
            votes = [Vote(answer=i % 5, tokens=20 + i, score=score) for i in range(drawn)]
            poll = Poll(votes=votes, leader=0, cap=64, by_votes=score is None)
            print(f"{written}, {drawn:>2} drawn{cost(lambda p=poll, s=stopping: s.judge(p)):>8.0f} us")


if __name__ == "__main__":
    main()
