"""When to stop a vote, on public recorded samples: learned against fixed votes and adaptive consistency.

    python -m benchmarks.stopping --data DIR [--orders 16] [--out benchmarks/results/stopping.json]

DIR holds tables of public samples: `rg_llama3b_math50.csv.gz` with its questions (Llama-3.2-3B, two checkpoints, on
AIME24 and AMC23, 50 samples each; open-thought/reasoning-gym-eval, Apache-2.0) and `cruxeval_codellama7b.csv.gz` with
`cruxeval.jsonl` (CodeLlama-7B, 10 samples each; facebookresearch/cruxeval, MIT). The demo's own pools are the third
source. Candidates are counted, not tokens, and waiting costs nothing. Two splits: by question (near-duplicates
together), and by source, so that a whole pool is new to the model. Differences are paired over questions (95 %,
bootstrap).
"""

from __future__ import annotations

import argparse
import ast
import csv
import gzip
import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router.boosted import features_of
from router.comparison import bootstrap
from router.frontier import frontiers, savings
from router.isotonic import binned_isotonic
from router.learning import near_duplicates
from router.pools import Pool, Sample, read_pools
from router.questions import Question
from router.reliability import reliability
from router.replay import replay
from router.stopping_training import HeldOut, gate, held_out, outcomes, played
from router.vote_state import BY_VOTES

DEMO = Path("configs/pools/smollm2-135m.jsonl.gz")
FOLDS = 5
PRICES = (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 4e-2)  # utility of a candidate
Floats = NDArray[np.float64]


def _rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def _pool(source: str, key: str, group: str, text: str, rows: Sequence[tuple[str, float, float]]) -> Pool:
    """rows: answer (blank: none), correctness, characters of each sample."""
    question = Question(
        id=f"{source}/{key}",
        family=source,
        messages=({"role": "user", "content": text},),
        reference="0",
        verifier="number",
        max_tokens=1024,
        group=group,
    )
    samples = tuple(
        Sample(
            text="", answer=answer or None, correct=right, tokens=max(1, round(size / 3.5)), mean_logprob=None,
            certainty=None,
        )
        for answer, right, size in rows
    )  # fmt: skip
    return Pool(question=question, model=source, temperature=0.8, recorded="", samples=samples)


def _literal(answer: str) -> str:
    """Python literals that are spelled differently are equal."""
    try:
        return ast.dump(ast.parse(answer.strip(), mode="eval"))
    except (SyntaxError, ValueError):
        return answer.strip()


def sources(data: Path) -> dict[str, list[Pool]]:
    """Pools by source. Two checkpoints of a model, or the two ways to ask about a program, are sources of their own."""
    pools: dict[str, list[Pool]] = {"demo": read_pools(DEMO)}
    programs = {row["id"]: row for row in map(json.loads, (data / "cruxeval.jsonl").read_text().splitlines())}
    by: dict[tuple[str, str], list[tuple[str, float, float]]] = defaultdict(list)
    for row in _rows(data / "cruxeval_codellama7b.csv.gz"):
        answer = _literal(row["answer"]) if row["answer"] else ""
        by[row["mode"], row["q"]].append((answer, float(row["correct"]), float(row["chars"])))
    for (mode, key), rows in by.items():
        program = programs[key]
        given, wanted = ("??", program["output"]) if mode == "input" else (program["input"], "??")
        text = f"{program['code']}\nassert f({given}) == {wanted}"
        pools.setdefault(f"cruxeval-{mode}", []).append(_pool(f"cruxeval-{mode}", key, key, text, rows))
    problems = json.loads((data / "rg_llama3b_math50_questions.json").read_text())
    by = defaultdict(list)
    for row in _rows(data / "rg_llama3b_math50.csv.gz"):
        source = f"llama3b-{row['ckpt'].replace('_', '')}-{row['set']}"
        by[source, row["q"]].append((row["answer"], float(row["score"]), float(row["resp_chars"])))
    for (source, key), rows in by.items():
        pools.setdefault(source, []).append(_pool(source, key, key, problems[key][0], rows))
    return pools


def utilities(found: HeldOut, weight: Floats, questions: int) -> dict[float, tuple[Floats, Floats]]:
    """By price and question: the utility of the model, and of the threshold that follows the price."""
    cap = 64
    free = np.zeros(len(found.data))
    result: dict[float, tuple[Floats, Floats]] = {}
    for price in PRICES:
        ours, prior = (
            found.data.by_question(run.right - price * run.drawn, questions)
            for run in (
                played(found, price=price, wait=free, weight=each, cap=cap) for each in (weight, np.zeros_like(weight))
            )
        )
        result[price] = ours, prior
    return result


def judged(
    found: HeldOut, parts: Sequence[Sequence[int]], names: Sequence[str], groups: Sequence[str]
) -> dict[str, Any]:
    """Everything about one split. Gates and calibration of a part come from the other parts."""
    questions = len(names)
    owner = np.zeros(questions, dtype=np.intp)
    for k, part in enumerate(parts):
        owner[list(part)] = k
    fold = owner[found.data.question]
    weight = np.zeros(len(fold))
    confidence = np.full_like(found.confidence, np.nan)
    for k in range(len(parts)):
        seen = found.take(np.flatnonzero(fold != k))
        weight[fold == k] = gate(seen, questions)
        there = np.isfinite(seen.confidence)
        xs, ys = binned_isotonic(seen.confidence[there], seen.data.right[there])
        confidence[fold == k] = np.interp(found.confidence[fold == k], xs, ys)
    weight *= found.familiar
    by_price = utilities(found, weight, questions)
    of_source = {name: np.array([other == name for other in names]) for name in dict.fromkeys(names)}
    result: dict[str, Any] = {
        "familiar": {name: float(found.familiar[mine[found.data.question]].mean()) for name, mine in of_source.items()},
        "utility over the threshold by price, worst price": {},
        "confidence_error": {},
    }
    for name, mine in {"all": np.ones(questions, dtype=bool), **of_source}.items():
        ahead = {price: (ours - prior)[mine] for price, (ours, prior) in by_price.items()}
        worst = min(ahead, key=lambda price: float(ahead[price].mean()))
        low, high = bootstrap(ahead[worst], [group for group, of in zip(groups, mine, strict=True) if of])
        result["utility over the threshold by price, worst price"][name] = {
            "price": worst,
            "ahead": float(ahead[worst].mean()),
            "low": low,
            "high": high,
            "mean over prices": float(np.mean([values.mean() for values in ahead.values()])),
        }
        rows = mine[found.data.question] & found.familiar
        known = np.isfinite(confidence[rows])
        result["confidence_error"][name] = (
            reliability("confidence", confidence[rows][known], found.data.right[rows][known]).error
            if known.sum() > 100
            else None
        )
    ways = frontiers(found, questions)
    result["savings"] = [
        {"name": s.name, "gap": s.gap, "cost": s.cost, "saved": s.saved, "low": s.low, "high": s.high}
        for s in savings(ways, groups)
    ]
    result["full vote"] = {"accuracy": float(ways[0].accuracy[-1].mean()), "cost": float(ways[0].cost[-1].mean())}
    result["one sample"] = float(ways[0].accuracy[0].mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--orders", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stopping.json"))
    asked = parser.parse_args()
    pools_of = sources(asked.data)
    pools = [pool for each in pools_of.values() for pool in each]
    names = [name for name, each in pools_of.items() for _ in each]
    started = time.monotonic()
    data = replay(pools, BY_VOTES, orders=asked.orders)
    vectors = np.array([features_of(pool.question).vector() for pool in pools])
    results = outcomes(data, len(pools))
    groups = [pool.question.group or pool.question.id for pool in pools]
    by_question = [[i for i, g in enumerate(groups) if crc32(g.encode()) % FOLDS == k] for k in range(FOLDS)]
    kinds = {name: name.split("-")[0] for name in pools_of}  # one problem asked in two ways is not new the second time
    by_source = [[i for i, name in enumerate(names) if kinds[name] == kind] for kind in dict.fromkeys(kinds.values())]
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.stopping", "--data", "DIR", *_rest()]),
        "questions": {name: len(each) for name, each in pools_of.items()},
    }
    for split, parts in (("by question", by_question), ("by source", by_source)):
        (found,) = held_out([data], vectors, results, parts, groups=near_duplicates(pools))
        report[split] = judged(found, parts, names, groups)
        print(split, json.dumps(report[split], indent=1))
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    asked.out.write_text(json.dumps(report, indent=1) + "\n")


def _rest() -> list[str]:
    """The arguments but for where the data is."""
    arguments = sys.argv[1:]
    at = arguments.index("--data")
    return arguments[:at] + arguments[at + 2 :]


if __name__ == "__main__":
    main()
