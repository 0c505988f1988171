"""Questions to record, and a scripted engine's answers to them."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.pools import Pool
from router.questions import Question
from server.backends.openai import EngineSettings
from server.calibration.plan import Plan
from server.calibration.workers import Lost, Reply, Worker
from strategies.types import EngineError
from tests.conftest import ROOT
from tests.fake_engine import FakeEngine, Request, words
from tests.fake_engine import Reply as Said

COST = 5  # tokens of "The answer is 7" and its end


def question(name: str, **fields: Any) -> Question:
    given: dict[str, Any] = {"family": "f", "reference": "7", "verifier": "reference", "max_tokens": 10, **fields}
    return Question(id=name, messages=({"role": "user", "content": f"How much, {name}?"},), **given)


def asked(request: Request) -> str:
    return request.body["messages"][-1]["content"].removeprefix("How much, ").removesuffix("?")


class Script:
    """Answers in turn, for each question of its own; else always 7."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self._answers = answers
        self._said: Counter[str] = Counter()

    def __call__(self, request: Request) -> Sequence[Said]:
        name = asked(request)
        answers = self._answers.get(name, ["7"])
        replies: list[Said] = []
        for _ in range(int(request.body.get("n") or 1)):
            replies.append(words(f"The answer is {answers[self._said[name] % len(answers)]}"))
            self._said[name] += 1
        return replies


def sizes(pools: Sequence[Pool]) -> dict[str, int]:
    return {pool.question.id: len(pool.samples) for pool in pools}


def untimed(pools: Sequence[Pool]) -> list[Pool]:
    """All that does not depend on when it was recorded, and how fast."""
    return [
        replace(pool, recorded="", calls=(), runs=tuple(replace(run, seconds=0.0) for run in pool.runs))
        for pool in pools
    ]


class Beside:
    """A worker as Ray runs it, but in this process: what goes in and out is pickled. It dies with these calls, once
    the engine has answered them, and with what else it has in work."""

    def __init__(self, settings: EngineSettings, plan: Plan, *, deaths: Collection[int] = ()) -> None:
        self._made_of = pickle.dumps((settings, plan))
        self._deaths = deaths
        self._calls = 0
        self._lives: list[Worker] = []
        self._alive = False

    async def start(self) -> EngineError | None:
        if not self._alive:
            self._lives.append(Worker(*_unpickled(self._made_of)))
            self._alive = True
        return await self._lives[-1].start()

    async def ask(self, question: Question, n: int) -> Reply:
        if not self._alive:
            raise Lost("it is dead")
        self._calls += 1
        dies = self._calls in self._deaths
        life = self._lives[-1]
        reply = await life.ask(*_unpickled(pickle.dumps((question, n))))
        if dies:
            self._alive = False
        if not self._alive or life is not self._lives[-1]:
            raise Lost("it died")
        return _unpickled(pickle.dumps(reply))

    async def aclose(self) -> None:
        for life in self._lives:
            if life.engine is not None:
                await life.engine.aclose()


def _unpickled(data: bytes) -> Any:
    return pickle.loads(data)  # noqa: S301 - our own


async def calibrating(folder: Path, server: FakeEngine, *arguments: str) -> asyncio.subprocess.Process:
    """`apportion calibrate` on chats in that folder, as a process of its own."""
    chats = [{"messages": [{"role": "user", "content": f"How much, {i}?"}], "id": str(i)} for i in range(4)]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats))
    (folder / "config.yaml").write_text(f"engine: {{url: '{server.url}', max_n: 4}}\nmenu: [single, majority_vote@4]\n")
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", "calibrate", "-c", str(folder / "config.yaml"), "--no-sweep",
        "--questions", str(folder / "chats.jsonl"), "--out", str(folder / "mine.parquet"), *arguments,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
