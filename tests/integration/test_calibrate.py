"""Recording pools from the real engine: resumable, judged, and never written over."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from router.families import builtin_questions
from router.pools import read_pools
from router.questions import verify
from server.backends.openai import EngineSettings, OpenAIEngine
from server.calibration.asking import Recorder
from server.calibration.collect import record
from server.calibration.plan import Plan, Progress
from server.calibration.sweep import sweep
from strategies.beam_search import Steps
from tests.conftest import Live
from tests.fakes import menu_of

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

QUESTIONS = builtin_questions(per_family=1, seed=3, families=["small_sum", "first_letter", "capital"])
BEAM = menu_of("beam_search@2x2")


class Interrupted(Exception):
    pass


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def engine(gateway: Live, recorder: Recorder) -> AsyncGenerator[OpenAIEngine, None]:
    client = OpenAIEngine(EngineSettings(url=gateway.engine_url), observe=recorder.observe)
    await client.probe()
    yield client
    await client.aclose()


@pytest.fixture
def plan(engine: OpenAIEngine) -> Plan:
    return Plan(samples=4, runs=BEAM, steps=Steps(stop=("\n",), tokens=24), model=engine.profile.models[0])


async def test_an_interrupted_recording_goes_on_where_it_stopped(
    engine: OpenAIEngine, recorder: Recorder, plan: Plan, tmp_path: Path
) -> None:
    """Nothing is asked twice; what comes out holds every question with its samples, runs and timed calls."""
    out = tmp_path / "pools.jsonl.gz"
    partial = tmp_path / "pools.jsonl.gz.partial"

    def interrupt(progress: Progress) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        await record(QUESTIONS, plan, engine, recorder, out, progress=interrupt)
    assert partial.exists()
    assert not out.exists()
    with partial.open("ab") as torn:
        torn.write(b'{"version": 1, "question": {"id"')  # what a killed process leaves

    with pytest.raises(ValueError, match="go on with the same settings"):
        await record(QUESTIONS, replace(plan, samples=5), engine, recorder, out, progress=lambda progress: None)

    seen: list[Progress] = []
    await record(QUESTIONS, plan, engine, recorder, out, progress=seen.append)
    assert [(each.done, each.started_with) for each in seen] == [(2, 1), (3, 1)]
    assert "3/3 questions" in str(seen[-1])
    assert not partial.exists()

    pools = read_pools(out)
    assert [pool.question for pool in pools] == QUESTIONS
    for pool in pools:
        assert len(pool.samples) == 4
        assert all(
            sample.tokens > 0 and (sample.mean_logprob or 0) < 0 and (sample.certainty or 0) > 0
            for sample in pool.samples
        )
        assert all(sample.correct == verify(pool.question, sample.text) for sample in pool.samples if sample.answer)
        assert [run.spec for run in pool.runs] == ["beam_search@2x2"]
        assert pool.calls
        assert all(0 < call.first_token_seconds <= call.seconds and call.added == 4 for call in pool.calls)

    with pytest.raises(ValueError, match="not overwritten"):
        await record(QUESTIONS, plan, engine, recorder, out, progress=seen.append)


async def test_two_recordings_into_one_file_are_refused(
    engine: OpenAIEngine, recorder: Recorder, plan: Plan, tmp_path: Path
) -> None:
    import fcntl

    partial = tmp_path / "pools.jsonl.gz.partial"
    with partial.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another calibration is writing"):
            await record(QUESTIONS, plan, engine, recorder, tmp_path / "pools.jsonl.gz", progress=lambda progress: None)


async def test_the_load_sweep_times_calls_with_and_without_company(
    engine: OpenAIEngine, recorder: Recorder, plan: Plan
) -> None:
    calls = await sweep(engine, recorder, plan, rounds=1, sentences=(2, 12), sequences=(1, 4), at_once=(1, 2))
    assert {call.added for call in calls} == {1, 4}
    assert any(call.running for call in calls)
    assert any(not call.running for call in calls)
    assert len({call.prompt_tokens for call in calls}) >= 2
