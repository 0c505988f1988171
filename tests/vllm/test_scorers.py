"""Reward models on the real vLLM, asked by best-of-N and beam search. Their weights are random: scores mean nothing."""

from __future__ import annotations

import re
from math import fsum, prod
from typing import Any

import httpx
import pytest

from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front

pytestmark = pytest.mark.anyio
# candidates that differ are what a scorer is asked about: a grammar sees to it, as what is drawn is another on other
# processors
QUESTION: Any = [
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red"},
    {"role": "user", "content": "Name a number below a hundred."},
]
STEPWISE: Any = [  # answers with blank lines
    {"role": "user", "content": "How do I make tea?"},
    {"role": "assistant", "content": "Boil water.\n\nAdd the tea.\n\nWait.\n\nDrink."},
    {"role": "user", "content": "How do I make soup?"},
]
DIGITS: Any = {"structured_outputs": {"regex": "[1-9][0-9]{5}"}}
STEPS: Any = {"structured_outputs": {"regex": r"[A-Z][a-z]{4,12}\.(\n\n[A-Z][a-z]{4,12}\.){2,3}"}, "max_tokens": 96}
MARK = "<extra_0>"
AGGREGATIONS = {"last": lambda s: s[-1], "min": min, "product": prod, "mean": lambda s: fsum(s) / len(s)}
CLOSE = 0.01  # the models compute in bfloat16, and what is in one batch differs


def listed(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates that have a score."""
    return [each for each in body["apportion"]["candidates"]["list"] if each["score"] is not None]


async def drawn(gateway: Front, strategy: str, messages: Any = QUESTION, **fields: Any) -> dict[str, Any]:
    fields = {"temperature": 1.3, "max_tokens": 24, "apportion": {"include": ["candidates"]}, **fields}
    response = await gateway.chat(strategy, messages=messages, **fields)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["apportion"]["strategy"] == strategy
    return body


async def good(reward: Vllm, messages: Any, text: str) -> float:
    """What the outcome reward model says of an answer when it is asked without the gateway."""
    conversation = [*messages, {"role": "assistant", "content": text}]
    async with httpx.AsyncClient(base_url=reward.url, trust_env=False, timeout=60) as client:
        reply = await client.post("/classify", json={"model": reward.model, "messages": conversation})
    return reply.raise_for_status().json()["data"][0]["probs"][1]


async def steps_good(steps: Vllm, messages: Any, text: str) -> list[float]:
    """What the process reward model says of each step of an answer. Steps end at blank lines."""
    marked = "".join(step.strip() + MARK for step in re.split(r"\n\s*\n", text) if step.strip())
    conversation = [*messages, {"role": "assistant", "content": marked}]
    body = {"model": steps.model, "task": "token_classify", "messages": conversation}
    async with httpx.AsyncClient(base_url=steps.url, trust_env=False, timeout=60) as client:
        reply = await client.post("/pooling", json=body)
    return [row[1] for row in reply.raise_for_status().json()["data"][0]["data"]]


async def test_an_outcome_reward_model_scores_every_answer(vllm: Vllm, reward: Vllm) -> None:
    """The scores are those that vLLM gives when it is asked about the same texts, and the highest wins."""
    orm = {"kind": "outcome_reward", "url": reward.url, "model": reward.model}
    async with front(vllm, scorers={"orm": orm}) as gateway:
        body = await drawn(gateway, "best_of_n@4:orm", **DIGITS)
    assert body["apportion"].get("note") is None, body["apportion"]
    scored = listed(body)
    assert len({each["score"] for each in scored}) >= 2, "random weights tell texts apart"
    for each in scored:
        assert each["score"] == pytest.approx(await good(reward, QUESTION, each["text"]), abs=CLOSE)
    best = max(scored, key=lambda each: each["score"])
    assert body["choices"][0]["message"]["content"] == best["text"]


async def test_the_class_that_is_good_is_the_operators_to_name(vllm: Vllm, reward: Vllm) -> None:
    other = {"kind": "outcome_reward", "url": reward.url, "model": reward.model, "good_class": 0}
    none = {**other, "good_class": 2}
    async with front(vllm, scorers={"other": other, "none": none}) as gateway:
        for each in listed(await drawn(gateway, "best_of_n@2:other", **DIGITS)):
            assert each["score"] == pytest.approx(1 - await good(reward, QUESTION, each["text"]), abs=CLOSE)
        body = await drawn(gateway, "best_of_n@2:none", **DIGITS)
        assert not listed(body)
        assert "its model has 2 classes, and class 2 was configured" in body["apportion"]["note"]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
async def test_a_process_reward_model_scores_every_step(vllm: Vllm, steps: Vllm, aggregation: str) -> None:
    prm = {"kind": "process_reward", "url": steps.url, "model": steps.model, "aggregation": aggregation}
    async with front(vllm, scorers={"prm": prm}) as gateway:
        body = await drawn(gateway, "best_of_n@4:prm", STEPWISE, **STEPS)
    assert body["apportion"].get("note") is None, body["apportion"]
    scored = listed(body)
    assert len(scored) >= 2
    lengths: set[int] = set()
    for each in scored:
        known = await steps_good(steps, STEPWISE, each["text"])
        lengths.add(len(known))
        assert each["score"] == pytest.approx(AGGREGATIONS[aggregation](known), abs=CLOSE)
    assert max(lengths) > 1, "an answer of several steps is among them"
    best = max(scored, key=lambda each: each["score"])
    assert body["choices"][0]["message"]["content"] == best["text"]


async def test_a_process_reward_model_steers_a_beam_search(vllm: Vllm, steps: Vllm) -> None:
    """It is asked about the whole text so far, and the finished text that it likes best is the answer."""
    prm = {"kind": "process_reward", "url": steps.url, "model": steps.model}
    asked = await steps.total("vllm:request_success_total")
    sections = {"scorers": {"prm": prm}, "strategies": {"beam_step_tokens": 12, "beam_step_stop": []}}
    async with front(vllm, **sections) as gateway:
        body = await drawn(gateway, "beam_search@2x2:prm")
        pieces = body["apportion"]["candidates"]["list"]
        assert body["apportion"].get("note") is None, body["apportion"]
        assert await steps.total("vllm:request_success_total") - asked >= 4
        ended = [each["score"] for each in pieces if each["finish_reason"] == "stop"]
        assert ended, "without a step mark only an answer's end is one"
        said = body["choices"][0]["message"]["content"]
        (score,) = await steps_good(steps, QUESTION, said)
        assert score == pytest.approx(max(ended), abs=CLOSE)


async def test_an_outcome_reward_model_steers_a_beam_search(vllm: Vllm, reward: Vllm) -> None:
    orm = {"kind": "outcome_reward", "url": reward.url, "model": reward.model}
    sections = {"scorers": {"orm": orm}, "strategies": {"beam_step_tokens": 12, "beam_step_stop": []}}
    async with front(vllm, **sections) as gateway:
        body = await drawn(gateway, "beam_search@2x2:orm")
    ended = [each["score"] for each in body["apportion"]["candidates"]["list"] if each["finish_reason"] == "stop"]
    assert ended
    said = body["choices"][0]["message"]["content"]
    assert await good(reward, QUESTION, said) == pytest.approx(max(ended), abs=CLOSE)


async def test_two_steps_get_two_scores(steps: Vllm) -> None:
    """What the scorer's adding of marks rests on."""
    one, two = await steps_good(steps, QUESTION, "One."), await steps_good(steps, QUESTION, "One.\n\nTwo.")
    assert (len(one), len(two)) == (1, 2)
    assert two[0] == pytest.approx(one[0], abs=CLOSE), "a step is not judged by what comes after it"
    assert two[0] != pytest.approx(two[1], abs=1e-6)


async def test_while_all_agree_no_score_is_paid_for(vllm: Vllm, reward: Vllm) -> None:
    orm = {"kind": "outcome_reward", "url": reward.url, "model": reward.model}
    asked = await reward.total("vllm:request_success_total")
    async with front(vllm, scorers={"orm": orm}) as gateway:
        body = await drawn(gateway, "best_of_n@3:orm", top_k=1)
    assert body["apportion"]["agreement"] == 1.0
    assert body["apportion"].get("note") is None, body["apportion"]
    assert await reward.total("vllm:request_success_total") == asked


@pytest.mark.parametrize(
    ("kind", "of", "why"),
    [
        ("outcome_reward", "vllm", "its server answered 404"),  # the generator has no /classify
        ("process_reward", "vllm", "its server answered 404"),
        ("process_reward", "reward", "its server answered 400"),  # scores whole texts
        ("outcome_reward", "steps", "its server answered 501"),  # scores steps
        ("process_reward", "steps", "does its model know the configured step mark?"),
    ],
)
async def test_a_reward_model_that_is_none_leaves_the_vote(
    vllm: Vllm, reward: Vllm, steps: Vllm, kind: str, of: str, why: str
) -> None:
    server = {"vllm": vllm, "reward": reward, "steps": steps}[of]
    scorer = {"kind": kind, "url": server.url, "model": server.model}
    if (kind, of) == ("process_reward", "steps"):
        scorer["step_mark"] = "<step>"
    sections = {"scorers": {"rm": scorer}, "strategies": {"beam_step_tokens": 12}}
    async with front(vllm, **sections) as gateway:
        body = await drawn(gateway, "best_of_n@4:rm", **DIGITS)
        note = body["apportion"]["note"]
        assert note.startswith("the scorer rm failed: "), body
        assert note.endswith(f"{why}, so the majority vote decided"), body
        assert body["choices"][0]["message"]["content"]
        assert not listed(body)
        body = await drawn(gateway, "beam_search@2x2:rm")
        assert why in body["apportion"]["note"]
        assert body["choices"][0]["message"]["content"]
