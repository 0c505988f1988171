"""The real engine as the judge of its own answers."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Live, gateway_process

pytestmark = pytest.mark.engine


@pytest.fixture
def judged(gateway: Live, tmp_path: Path) -> Generator[str, None, None]:
    """A second gateway in front of the same engine, with a judge configured; its address."""
    config, log = tmp_path / "judge.yaml", tmp_path / "stderr.log"
    config.write_text(
        f"engine: {{url: '{gateway.engine_url}'}}\n"
        "scorers:\n"
        "  pointwise: {kind: judge, max_tokens: 24}\n"
        "  pairwise: {kind: judge, compare: pairwise, max_tokens: 24}\n"
    )
    with gateway_process(log, "-c", str(config)) as url:
        yield url


@pytest.mark.parametrize("compare", ["pointwise", "pairwise"])
def test_the_engine_judges_its_own_answers_within_the_budget(judged: str, compare: str) -> None:
    """A small model is a poor judge: shown is that it is asked, read, paid for and bounded, not that it helps."""
    asked = {
        "messages": [{"role": "user", "content": "7 + 5 = ? Answer with the number."}],
        "max_tokens": 24,
        "apportion": {
            "strategy": f"best_of_n@3:{compare}",
            "max_total_tokens": 200,
            "include": ["candidates"],
        },
    }
    reply = httpx.post(f"{judged}/v1/chat/completions", json=asked, timeout=120, trust_env=False).raise_for_status()
    body = reply.json()
    own, drawn = body["apportion"], body["apportion"]["candidates"]["list"]
    contested = len(own["votes"]) > 1  # while all agree nobody is asked
    spent = body["usage"]["completion_tokens"]
    assert spent == own["actual"]["tokens"] <= 200
    assert own["actual"]["scoring_tokens"] == spent - sum(each["tokens"] for each in drawn)
    if compare == "pointwise" and contested:
        assert own["actual"]["scoring_tokens"] > 0
        assert any(each["score"] is not None for each in drawn) or "no opinion" in own["note"]
    assert all(each["score"] is None or 0 <= each["score"] <= 1 for each in drawn)
