"""How long `apportion train` takes, by the number of questions: wall and CPU seconds, and peak memory.

    python -m benchmarks.training [--questions 495 2000 10000] [--samples 32] [--out benchmarks/results/training.json]

The demo's pools, enlarged: a question is asked again with other numbers in its text and some filler, and its samples
are drawn anew from those that were recorded, with replacement. So outcomes are *resampled*: the seconds are real, what
such a model predicts is worth nothing. Every size is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from router.learning import train
from router.pools import Pool, read_pools
from server.config import load_config

DEMO = Path("configs/pools/smollm2-135m.jsonl.gz")
CONFIG = Path("configs/demo.yaml")
_FILLER = (
    "please",
    "think well",
    "before you answer",
    "and",
    "in the form",
    "that was asked for",
    "above",
    "so",
    "now",
)
_CALLS = 4  # timed calls of a repeated question: the load sweep, which stands with the first one, is made once


def enlarged(pools: Sequence[Pool], questions: int, samples: int) -> list[Pool]:
    """Deterministic. The first of each are as recorded but for the number of samples."""
    return [_again(pools[i % len(pools)], i // len(pools), samples, Random(i)) for i in range(questions)]


def _again(pool: Pool, time_: int, samples: int, random: Random) -> Pool:
    drawn = tuple(random.choices(pool.samples, k=samples))
    if not time_:
        return replace(pool, samples=drawn)
    question = pool.question
    messages = (*question.messages[:-1], {**question.messages[-1], "content": _reworded(question.messages[-1], random)})
    return replace(
        pool,
        question=replace(question, id=f"{question.id}~{time_}", messages=messages, group=question.group or question.id),
        samples=drawn,
        calls=pool.calls[:_CALLS],
    )


def _reworded(message: Mapping[str, Any], random: Random) -> str:
    """Other digits where there are some, and a few words more."""
    text = re.sub(r"\d", lambda _: str(random.randint(1, 9)), str(message["content"]))
    return f"{text} {' '.join(random.sample(_FILLER, k=random.randint(1, len(_FILLER))))}"


def measured(questions: int, samples: int) -> dict[str, Any]:
    """One training, in this process."""
    config = load_config(CONFIG)
    pools = enlarged(read_pools(DEMO), questions, samples)
    wall, cpu = time.perf_counter(), time.process_time()
    train(
        pools,
        config.menu,
        step_tokens=config.strategies.beam_step_tokens,
        level=config.budgets.quantile,
        borda_power=config.strategies.borda_power,
    )
    return {
        "questions": questions,
        "samples": samples,
        "calls": sum(len(pool.calls) for pool in pools),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, nargs="+", default=[495, 2000, 10_000])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    asked = parser.parse_args()
    sizes: list[dict[str, Any]] = []
    for questions in asked.questions:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as alone:
            sizes.append(alone.submit(measured, questions, asked.samples).result())
        print(json.dumps(sizes[-1]))
    report = {
        "command": f"python -m benchmarks.training --questions {' '.join(map(str, asked.questions))} "
        f"--samples {asked.samples}",
        "outcomes": "resampled from the demo's pools: the seconds are real, the models are worth nothing",
        "cores": os.cpu_count(),
        "sizes": sizes,
    }
    asked.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
