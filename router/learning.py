"""From pools to a trained allocator: both levels of the decision, with their gates and held-out figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.blocks import numbered
from router.boosted import Boosted
from router.pools import Pool
from router.replay import Replay, playable, replay
from router.stopped import Stops
from router.stopping_training import TrainedStopper, train_stopper
from router.training import Examples, HeldOut, calibrate, examples, fit, folds, held_out, speed_errors
from router.vote_state import BY_VOTES
from router.world import predicted_world, real_world, speeds_of
from strategies.spec import StrategySpec

Floats = NDArray[np.float64]
_REPLAYED = 8000  # orders of all pools together: more of one question add little


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    model: Boosted
    scores: HeldOut
    speed_error: Floats  # actual over predicted seconds of held-out calls
    unseen: HeldOut | None  # the same as `scores`, with whole families held out; None where there are too few families
    data: Examples
    stopping: TrainedStopper | None  # None: the menu has nothing that could stop


def train(
    pools: Sequence[Pool],
    menu: Sequence[StrategySpec],
    *,
    step_tokens: int,
    level: float = 0.9,
    borda_power: float = 1.0,
) -> Trained:
    """Everything: boosters on all the pools, calibration and figures from cross-fitting.

    level: of the upper bounds. step_tokens, borda_power: the strategies' settings. Raises ValueError.
    """
    data = examples(pools, menu, borda_power=borda_power)
    parts = folds(data.pools)
    scores, boosters = held_out(data, menu, step_tokens=step_tokens, parts=parts)
    errors = speed_errors(data, boosters)
    calibration = calibrate(scores, level=level, speed_error=errors)
    by_family = folds(data.pools, by=lambda pool: pool.question.family)
    unseen = held_out(data, menu, step_tokens=step_tokens, parts=by_family)[0] if all(by_family) else None
    stopping = None
    if replays := replays_of(data.pools, menu, borda_power=borda_power):
        warmth = [pool.temperature for pool in data.pools]
        stopping = train_stopper(
            replays,
            data.features,
            menu,
            parts=parts,
            temperatures=(min(warmth), max(warmth)),
            groups=near_duplicates(data.pools),
        )
        offered = [spec for spec in menu if all(spec in row for row in data.labels)]
        stops = Stops(
            stopping.found,
            parts=parts,
            world=real_world(data, offered, step_tokens=step_tokens),
            predicted=predicted_world(data, offered, scores, boosters, parts, level=level, speed_error=errors),
            speeds=speeds_of(data),
            vectors=data.features,
        )
        calibration = replace(calibration, belief=stops.belief())
    model = fit(data, menu, step_tokens=step_tokens).calibrated(calibration)
    if stopping is not None:
        model = replace(model, stopper=stopping.model)
    return Trained(model=model, scores=scores, speed_error=errors, unseen=unseen, data=data, stopping=stopping)


def near_duplicates(pools: Sequence[Pool]) -> NDArray[np.intp]:
    """A number for every question, the same for those that are nearly the same."""
    return numbered([pool.question.group or pool.question.id for pool in pools])


def replays_of(pools: Sequence[Pool], menu: Sequence[StrategySpec], *, borda_power: float) -> list[Replay]:
    """The pools played through under every rule of the menu, the vote's first: it tells what clusters remember."""
    rules = [rule for spec in menu if (rule := playable(spec, pools)) is not None]
    if not rules:
        return []
    orders = int(np.clip(_REPLAYED // len(pools), 1, 16))
    return [replay(pools, rule, orders=orders, borda_power=borda_power) for rule in dict.fromkeys([BY_VOTES, *rules])]
