"""LightGBM as it is used here: one thread, the same data give the same trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FIXED: Mapping[str, Any] = {
    "verbosity": -1,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "learning_rate": 0.05,
    "bagging_freq": 1,
}


def boost(
    parameters: Mapping[str, Any], rows: Floats, targets: Floats, *, rounds: int, start: Floats | None = None
) -> lgb.Booster:
    """`start`: what each row begins with, on the objective's raw scale."""
    train = cast("Callable[..., lgb.Booster]", vars(lgb)["train"])  # LightGBM's own types are partly unknown
    return train(dict(parameters), lgb.Dataset(rows, targets, init_score=start), num_boost_round=rounds)


def predict(booster: lgb.Booster, rows: Floats, *, raw: bool = False) -> Floats:
    # one thread: a handful of rows take longer to hand out than to predict
    return cast("Any", booster).predict(rows, raw_score=raw, num_threads=1)
