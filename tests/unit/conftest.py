"""What is trained once for all the unit tests."""

from __future__ import annotations

import pytest

from router.evaluation import Evaluation, evaluate
from router.learning import Trained, train
from tests.pools import MENU, POOLS, STEP_TOKENS


@pytest.fixture(scope="session")
def trained() -> Trained:
    return train(POOLS, MENU, step_tokens=STEP_TOKENS)


@pytest.fixture(scope="session")
def evaluated() -> Evaluation:
    return evaluate(POOLS, MENU, step_tokens=STEP_TOKENS)
