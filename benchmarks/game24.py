"""From sampling to beam search as the latency price falls, on recorded games of 24 (the paper's figure).

    python -m benchmarks.game24 --data DIR

DIR holds `tot_game24.csv.gz`: GPT-4 on 100 games, 100 chain-of-thought samples each and one breadth-first tree search
that keeps five (princeton-nlp/tree-of-thought-llm, MIT), with correctness and completion tokens.

Recorded: what is right, the tokens of a game's samples together (dealt out over them by their characters) and those of
its search.
Not recorded: seconds, answers and the games themselves. So seconds are reckoned from the tokens with the speed that the
prior assumes (half a second to the first token, 20 ms for each after it, slower with more sequences). A search takes
eight calls after one another, four steps of proposing and judging; how many sequences are at work in them on average is
assumed, and the figures that depend on it are given for half and twice as many. A vote can't be counted without answers
(and right ones differ in this game: it is won by any expression that comes to 24), so that the game's own arithmetic
takes its place: best of n, checked, and the search's five, checked too. There are no texts to learn from, and 100 games
of one kind are too few: strategies are chosen by their averages on other games.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.comparison import bootstrap
from router.predictors import Prior

Floats = NDArray[np.float64]
SAMPLES = 100
SIZES = (1, 2, 4, 8, 16, 32, 64, 100)  # of best of n, and checkpoints
SEARCH = "beam_search@5"
MENU = ("single", *(f"best_of_n@{n}" for n in SIZES[1:]), SEARCH)
LATENCY_PRICES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)  # utility of a second
TOKEN_PRICES = (0.0, 0.02)  # utility of 1,000 tokens
CALLS = 8  # of a search, after one another
AT_WORK = 7  # sequences of a search at the same time, on average: assumed
FOLDS = 10
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Games:
    """Arrays over the games."""

    right: Floats  # samples that are right, of SAMPLES
    lengths: Floats  # (games, SAMPLES) tokens of each sample, ascending
    found: Floats  # whether one of the search's five is right
    first: Floats  # whether its first is
    searched: Floats  # tokens of the search

    def __len__(self) -> int:
        return len(self.right)

    def take(self, games: NDArray[np.bool_] | NDArray[np.intp]) -> Games:
        return Games(
            right=self.right[games],
            lengths=self.lengths[games],
            found=self.found[games],
            first=self.first[games],
            searched=self.searched[games],
        )


def read(path: Path) -> tuple[Games, int]:
    """The games, and of how many the tokens of the samples are not known (a counter that began anew)."""
    rows: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            rows[row["strategy"]][row["q"]].append(row)
    games = sorted(rows["cot"])
    totals = np.array([float(rows["cot"][game][0]["completion_tok"]) for game in games])
    unknown = totals <= 0
    totals[unknown] = totals[~unknown].mean()
    chars = np.array([sorted(float(row["chars"]) for row in rows["cot"][game]) for game in games])
    beams = [rows["tot_bfs5"][game] for game in games]
    return Games(
        right=np.array([sum(float(row["correct"]) for row in rows["cot"][game]) for game in games]),
        lengths=chars / chars.sum(axis=1, keepdims=True) * totals[:, None],
        found=np.array([max(float(row["correct"]) for row in beam) for beam in beams]),
        first=np.array([float(beam[0]["correct"]) for beam in beams]),
        searched=np.array([float(beam[0]["completion_tok"]) for beam in beams]),
    ), int(unknown.sum())


def none_right(games: Games, n: int) -> Floats:
    """Chance that of n samples, drawn without replacement, none is right."""
    return np.array([comb(SAMPLES - int(right), n) / comb(SAMPLES, n) for right in games.right])


def longest(games: Games, n: int) -> Floats:
    """Expected tokens of the longest of n samples."""
    weights = np.array([comb(j, n - 1) / comb(SAMPLES, n) for j in range(SAMPLES)])
    return games.lengths @ weights


def wave_seconds(games: Games, n: int) -> Floats:
    (speed,) = Prior().speeds([(0, 0, n)])
    return speed.first_token + speed.per_token * longest(games, n)


def search_seconds(games: Games, at_work: float) -> Floats:
    (speed,) = Prior().speeds([(0, 0, round(at_work))])
    return CALLS * speed.first_token + speed.per_token * games.searched / at_work


def outcomes(games: Games, at_work: float) -> tuple[Floats, Floats, Floats]:
    """Accuracy, tokens and seconds, (games, MENU)."""
    each = games.lengths.mean(axis=1)
    return (
        np.column_stack([*(1 - none_right(games, n) for n in SIZES), games.found]),
        np.column_stack([*(n * each for n in SIZES), games.searched]),
        np.column_stack([*(wave_seconds(games, n) for n in SIZES), search_seconds(games, at_work)]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do while no sample is right: sizes to go to one after another, and whether to search at the end."""

    waves: tuple[int, ...]
    search: bool


def plan(games: Games, token: float, second: float, at_work: float) -> Plan:
    """The best on average over these games, backwards over the checkpoints: go on to another size, search, or stop.

    What k wrong samples tell of a game is in the weights: a game that is easy is then hardly among those left.
    """
    each, sizes = games.lengths.mean(axis=1), (0, *SIZES)
    search = games.found - token * games.searched - second * search_seconds(games, at_work)
    left = {n: none_right(games, n) if n else np.ones(len(games)) for n in sizes}
    waits = {n: wave_seconds(games, n) for n in range(1, SAMPLES + 1)}
    best: dict[int, tuple[float, Plan]] = {}  # by samples drawn: what is still to come, as a sum over the games
    for k in reversed(sizes):
        choices = [(float(left[k] @ search), Plan(waves=(), search=True))]
        if k:  # something has to be answered
            choices.append((0.0, Plan(waves=(), search=False)))
        for n in (n for n in sizes if n > k):
            now = left[k] - left[n] - left[k] * (token * (n - k) * each + second * waits[n - k])
            value, then = best[n]
            choices.append((float(now.sum()) + value, Plan(waves=(n, *then.waves), search=then.search)))
        best[k] = max(choices, key=lambda choice: (round(choice[0], 9), -len(choice[1].waves)))
    return best[0][1]


def follow(games: Games, steps: Plan, at_work: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Accuracy, tokens, seconds of a plan, and the share that comes to the search; by game."""
    each, count = games.lengths.mean(axis=1), len(games)
    left, right, tokens, seconds = np.ones(count), np.zeros(count), np.zeros(count), np.zeros(count)
    drawn = 0
    for n in steps.waves:
        tokens += left * (n - drawn) * each
        seconds += left * wave_seconds(games, n - drawn)
        right += left - none_right(games, n)
        left, drawn = none_right(games, n), n
    searched = left if steps.search else np.zeros(count)
    return (
        right + searched * games.found,
        tokens + searched * games.searched,
        seconds + searched * search_seconds(games, at_work),
        searched,
    )


def at_price(games: Games, token_price: float, latency_price: float, at_work: float) -> dict[str, Any]:
    """Everything at one pair of prices. Every game's choice is made on the other folds' games."""
    token = token_price / 1000
    accuracy, tokens, seconds = outcomes(games, at_work)
    utility = accuracy - token * tokens - latency_price * seconds
    fold = np.arange(len(games)) % FOLDS
    choice = np.zeros(len(games), dtype=np.intp)
    stepwise = np.zeros((4, len(games)))
    plans: Counter[str] = Counter()
    for k in range(FOLDS):
        mine = fold == k
        choice[mine] = utility[~mine].mean(axis=0).argmax()
        steps = plan(games.take(~mine), token, latency_price, at_work)
        stepwise[:, mine] = follow(games.take(mine), steps, at_work)
        plans[", then ".join([*map(str, steps.waves), *(["search"] if steps.search else [])])] += 1
    best = int(utility.mean(axis=0).argmax())
    ahead = stepwise[0] - token * stepwise[1] - latency_price * stepwise[2] - utility[:, best]
    low, high = bootstrap(ahead, [str(i) for i in range(len(games))])
    return {
        "token_price": token_price,
        "latency_price": latency_price,
        "best_fixed": MENU[best],
        "best_fixed_accuracy": float(accuracy[:, best].mean()),
        "mix": {MENU[j]: float((choice == j).mean()) for j in sorted({*choice.tolist()})},
        "stepwise": {
            "accuracy": float(stepwise[0].mean()),
            "tokens": float(stepwise[1].mean()),
            "seconds": float(stepwise[2].mean()),
            "searched": float(stepwise[3].mean()),
            "ahead": round(float(ahead.mean()), 6) + 0.0,
            "low": round(low, 6) + 0.0,
            "high": round(high, 6) + 0.0,
            "plans": dict(plans.most_common()),
        },
    }


def crossing(games: Games, token_price: float, at_work: float) -> dict[str, float]:
    """The latency price under which searching every game is worth more, on average, than any number of samples, with a
    95 % interval over the games. 0: never."""
    accuracy, tokens, seconds = outcomes(games, at_work)
    before = accuracy - token_price / 1000 * tokens
    prices = np.geomspace(1e-4, 1, 800)

    def of(weights: Floats) -> float:
        utility = (weights @ before)[:, None] - (weights @ seconds)[:, None] * prices
        ahead = np.flatnonzero(utility[-1] >= utility[:-1].max(axis=0))
        return float(prices[ahead[-1]]) if len(ahead) else 0.0

    count = len(games)
    draws = np.random.default_rng(7).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    low, high = np.quantile([of(weights) for weights in draws], [0.025, 0.975])
    return {"price": of(np.full(count, 1 / count)), "low": float(low), "high": float(high)}


def measured(path: Path) -> dict[str, Any]:
    games, unknown = read(path)
    accuracy, tokens, seconds = (column.mean(axis=0).tolist() for column in outcomes(games, AT_WORK))
    return {
        "games": len(games),
        "games whose samples' tokens are not known": unknown,
        "accuracy without a checker": {"single": accuracy[0], f"{SEARCH}, its first": float(games.first.mean())},
        "strategies": [
            {"name": name, "accuracy": a, "tokens": t, "seconds": s}
            for name, a, t, s in zip(MENU, accuracy, tokens, seconds, strict=True)
        ],
        "search pays under a latency price of": [
            {"token_price": price, "sequences at work": at_work, **crossing(games, price, at_work)}
            for price in TOKEN_PRICES
            for at_work in (AT_WORK / 2, AT_WORK, AT_WORK * 2)
        ],
        "prices": [at_price(games, t, price, AT_WORK) for t in TOKEN_PRICES for price in LATENCY_PRICES],
    }


def picture(found: dict[str, Any], command: str) -> str:
    """One page: which strategies are chosen, by latency price."""
    from router.report import page, plots

    figures: list[str] = []
    for token_price in TOKEN_PRICES:
        there = [at for at in found["prices"] if at["token_price"] == token_price]
        labels = [f"{at['latency_price']:g}" for at in there]
        ways = {
            "chosen before sampling, by averages": [at["mix"] for at in there],
            "samples first, then a search where none is right": [
                {"best_of_n@samples": 1 - at["stepwise"]["searched"], SEARCH: at["stepwise"]["searched"]}
                for at in there
            ],
        }
        for title, shares in ways.items():
            said = "; ".join(
                f"{label}: {share.get(SEARCH, 0.0):.0%}" for label, share in zip(labels, shares, strict=True)
            )
            figures.append(
                page.figure(
                    plots.mixes(labels, shares, [*MENU, "best_of_n@samples"], rows="price of a second"),
                    f"Where 1,000 tokens cost {token_price:g}. The cheaper a second (further up), the more games are "
                    "searched.",
                    label=f"Share of the games that are searched, by latency price. {said}",
                    title=title.capitalize(),
                )
            )
    parts = [
        page.heading("From sampling to beam search as the latency price falls", 1),
        page.paragraph(
            f"{found['games']} games of 24, GPT-4, recorded. Strategies are chosen by their averages on other games; "
            "answers are checked by arithmetic; seconds are reckoned from tokens, not measured."
        ),
        page.beside(figures),
        page.table(
            [
                "price of 1,000 tokens / of a second",
                "best fixed",
                "its accuracy",
                "accuracy",
                "searched",
                "utility",
                "95%",
            ],
            [_row(at) for at in found["prices"]],
            caption="Samples first, then a search where none is right, against the best fixed strategy in hindsight",
        ),
        page.terms([("made by", command)]),
    ]
    return page.page("Game of 24", parts, colours=plots.COLOURS)


def _row(at: dict[str, Any]) -> list[str]:
    steps = at["stepwise"]
    return [
        f"{at['token_price']:g} / {at['latency_price']:g}",
        at["best_fixed"],
        f"{at['best_fixed_accuracy']:.3f}",
        f"{steps['accuracy']:.3f}",
        f"{steps['searched']:.0%}",
        f"{steps['ahead']:+.3f}",
        f"{steps['low']:+.3f} to {steps['high']:+.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/game24.json"))
    parser.add_argument("--html", type=Path, default=Path("benchmarks/results/game24.html"))
    asked = parser.parse_args()
    command = "python -m benchmarks.game24 --data DIR"
    found = measured(asked.data / "tot_game24.csv.gz")
    for one in found["strategies"]:
        print(f"{one['name']:<16}{one['accuracy']:>8.3f}{one['tokens']:>9.0f}{one['seconds']:>8.1f} s")
    for one in found["search pays under a latency price of"]:
        print(
            f"1,000 tokens at {one['token_price']:g}, {one['sequences at work']:g} at work: a search pays under "
            f"{one['price']:.4f} a second [{one['low']:.4f}, {one['high']:.4f}]"
        )
    for at in found["prices"]:
        steps = at["stepwise"]
        print(
            f"{at['token_price']:g}, {at['latency_price']:g}: {at['mix']}; stepwise {steps['searched']:.0%} searched, "
            f"{steps['accuracy']:.3f}, {steps['ahead']:+.3f} [{steps['low']:+.3f}, {steps['high']:+.3f}] over "
            f"{at['best_fixed']}; {steps['plans']}"
        )
    asked.out.write_text(json.dumps({"command": command, **found}, indent=1) + "\n")
    asked.html.write_text(picture(found, command))


if __name__ == "__main__":
    main()
