"""The real vLLM for the tests, started as `apportion serve --launch vllm` starts it, once for the whole run.

VLLM_URL, REWARD_URL and STEPS_URL name servers that are there already, for those who work on the tests: a start takes a
minute. Their flags are GENERATOR, REWARD and STEPS.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.backends.launch import LaunchError, LaunchSettings, launched
from tests.conftest import ROOT

FOLDER = ROOT / ".venv" / "vllm"
EAGER = ("--enforce-eager", "--max-model-len", "2048")
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
GENERATOR = ("--served-model-name", "smollm2", "--scheduling-policy", "priority", *_TOOLS, *EAGER)
REWARD = ("--served-model-name", "reward", "--runner", "pooling", *EAGER)
# the same model, asked for a score at every step mark, which is the last of its tokens; a vLLM does either
_AT_STEPS = '{"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": 49152}'
STEPS = ("--served-model-name", "steps", "--runner", "pooling", "--pooler-config", _AT_STEPS, *EAGER)
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """A vLLM that answers, past the gateway."""

    url: str
    model: str

    async def total(self, name: str) -> float:
        """One of its metrics, summed over its labels."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            text = (await client.get(f"{self.url}/metrics")).raise_for_status().text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
        assert samples, f"vLLM has no metric {name}"
        return sum(sample.value for sample in samples)


@pytest.fixture(scope="session")
async def vllm(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Vllm]:
    log = tmp_path_factory.mktemp("vllm") / "generator.log"
    async with _served("VLLM_URL", "smollm2", "smollm2", GENERATOR, log) as server:
        yield server


@pytest.fixture(scope="session")
async def reward(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Vllm]:
    """A reward model of random weights: it shows that the wire works, and tells nothing of what is good."""
    log = tmp_path_factory.mktemp("vllm") / "reward.log"
    async with _served("REWARD_URL", "reward", "reward", REWARD, log) as server:
        yield server


@pytest.fixture(scope="session")
async def steps(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Vllm]:
    """The same, with a score for every step."""
    log = tmp_path_factory.mktemp("vllm") / "steps.log"
    async with _served("STEPS_URL", "steps", "reward", STEPS, log) as server:
        yield server


@asynccontextmanager
async def _served(variable: str, model: str, folder: str, flags: Sequence[str], log: Path) -> AsyncGenerator[Vllm]:
    if url := os.environ.get(variable):
        yield Vllm(url=url, model=model)
        return
    weights = FOLDER / "models" / folder
    if not weights.is_dir():
        pytest.fail(f"{weights} is not there: `make test-vllm` makes it", pytrace=False)
    settings = LaunchSettings(
        model=str(weights), flags=flags, executable=FOLDER / "bin" / "vllm", start_timeout=600.0, log=log
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        async with launched(settings) as child:
            try:
                await child.healthy(lambda text: None)
            except LaunchError as error:
                pytest.fail(f"{error}\n{_tail(log)}", pytrace=False)
            yield Vllm(url=child.url, model=model)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-5000:]
