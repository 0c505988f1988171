"""Every strategy on the real vLLM: what it draws, what it picks, and what it makes of vLLM's caches."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from functools import cache
from typing import Any

import httpx
import pytest

from strategies.beam_search import Steps
from strategies.registry import strategies
from tests.conftest import ROOT
from tests.serving import events_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front
from tests.vllm.test_protocol import PERSON, WEATHER

pytestmark = pytest.mark.anyio
# worked examples, so that candidates are short and can agree
SUM: Any = [
    {"role": "user", "content": "2 + 2 = ?"},
    {"role": "assistant", "content": "2 + 2 = 4"},
    {"role": "user", "content": "5 + 3 = ?"},
    {"role": "assistant", "content": "5 + 3 = 8"},
    {"role": "user", "content": "7 + 5 = ?"},
]
OPEN: Any = [*SUM[:2], {"role": "user", "content": "Name a number below a hundred."}]  # draws that differ
LIST = "List three fruits, each on a line of its own."
STORY = "Write two sentences about a cat."
CANDIDATES = {"include": ["candidates"]}
STRATEGIES = (
    "single", "majority_vote@4", "best_of_n@4", "best_of_n@4:weighted", "best_of_n@4:borda",
    "best_of_n@4:self_certainty", "best_of_n@4:self_certainty:weighted", "best_of_n@4:lowest_group_confidence",
    "best_of_n@4:tail_confidence", "beam_search@2x2", "beam_search@4x2:self_certainty",
)  # fmt: skip


@pytest.fixture(scope="module")
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm, strategies={"beam_step_tokens": 12, "beam_step_stop": "\n"}) as gateway:
        yield gateway


def test_all_of_them_are_here() -> None:
    methods = {strategy.partition("@")[0] for strategy in STRATEGIES}
    assert methods == set(strategies(Steps(stop=("\n",), tokens=8, max_steps=4)))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_it_answers_and_counts_everything(gateway: Front, strategy: str) -> None:
    before = await gateway.vllm.total("vllm:generation_tokens_total")
    response = await gateway.chat(strategy, messages=SUM, max_tokens=32, apportion={"include": ["candidates"]})
    assert response.status_code == 200, response.text
    body = response.json()
    made = body["apportion"]
    assert made["strategy"] == strategy
    assert body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    await gateway.running(0)
    generated = await gateway.vllm.total("vllm:generation_tokens_total") - before
    spent = body["usage"]["completion_tokens"]
    # what is cut has been counted as far as it was seen; vLLM may have made a few tokens more by then
    slack = 0 if made["cut_short"] is None else 4 * made["candidates"]["drawn"]
    assert generated - slack <= spent <= generated + 1
    drawn = made["candidates"]["list"]
    if not strategy.startswith("beam_search"):
        answer = body["choices"][0]["message"]["content"].strip()
        assert answer in [candidate["text"].strip() for candidate in drawn]
    if strategy.startswith("best_of_n"):
        scores = [candidate["score"] for candidate in drawn if candidate["score"] is not None]
        assert scores
        assert all(math.isfinite(score) for score in scores)


def number(text: str) -> str:
    """What is voted on: the last number."""
    return re.findall(r"\d+", text)[-1]


async def test_the_answer_of_most_wins_a_vote(gateway: Front) -> None:
    response = await gateway.chat("majority_vote@8", messages=SUM, temperature=1.0, apportion=CANDIDATES)
    made, said = response.json()["apportion"], response.json()["choices"][0]["message"]["content"]
    votes: dict[str, int] = made["votes"]
    assert 1 < sum(votes.values()) <= made["candidates"]["finished"] <= made["candidates"]["drawn"] <= 8
    assert votes[number(said)] == max(votes.values())
    assert made["agreement"] == pytest.approx(votes[number(said)] / sum(votes.values()), abs=1e-3)
    counted = Counter(number(each["text"]) for each in made["candidates"]["list"] if each["finish_reason"] == "stop")
    assert all(counted[answer] >= voters for answer, voters in votes.items())


@pytest.mark.parametrize("scorer", ["", ":self_certainty"])
@pytest.mark.parametrize("rule", ["naive", "weighted", "borda"])
async def test_each_rule_of_best_of_n_picks_by_the_scores(gateway: Front, scorer: str, rule: str) -> None:
    """Reckoned again from the scores of the candidates, which are worth what their answer is worth."""
    strategy = f"best_of_n@8{scorer}" + (f":{rule}" if rule != "naive" else "")
    response = await gateway.chat(strategy, messages=SUM, temperature=1.2, apportion=CANDIDATES)
    made, said = response.json()["apportion"], response.json()["choices"][0]["message"]["content"]
    scored = [each for each in made["candidates"]["list"] if each["score"] is not None]
    scores = [each["score"] for each in scored]
    worth: dict[str, float] = defaultdict(float)
    for each in scored:
        answer, score = number(each["text"]), each["score"]
        if rule == "naive":
            worth[answer] = max(worth[answer], score)
        elif rule == "weighted":
            worth[answer] += score
        else:  # places from below, which equals share
            worth[answer] += sum(other < score for other in scores) + (scores.count(score) + 1) / 2
    assert len(worth) >= 2, "there are answers to choose from"
    assert Counter(number(each["text"]) for each in scored) == made["votes"]
    assert worth[number(said)] == pytest.approx(max(worth.values()))
    assert said in [each["text"] for each in scored]
    if not scorer:
        for each in scored:
            assert each["score"] == pytest.approx(math.exp(each["mean_logprob"]), abs=1e-3)


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3", "best_of_n@3", "best_of_n@3:borda"])
async def test_streamed_it_is_what_was_picked(gateway: Front, strategy: str) -> None:
    fields: dict[str, Any] = {"messages": SUM, "temperature": 0.8, "apportion": CANDIDATES}
    text, last = await _streamed(gateway, strategy, **fields)
    made = last["apportion"]
    assert last["usage"]["completion_tokens"] == made["actual"]["tokens"] > 0
    assert made["strategy"] == strategy
    texts = [each["text"] for each in made["candidates"]["list"]]
    assert text in texts
    if strategy == "single":
        assert text == (await gateway.chat(strategy, **fields)).json()["choices"][0]["message"]["content"]
    if strategy == "majority_vote@3":
        assert made["votes"][number(text)] == max(made["votes"].values())
    if strategy == "best_of_n@3":
        best = max(made["candidates"]["list"], key=lambda each: each["score"])
        assert text == best["text"]


async def test_a_beam_search_is_streamed_once_it_has_ended(gateway: Front) -> None:
    text, last = await _streamed(gateway, "beam_search@2x2", content=LIST, max_tokens=40, apportion=CANDIDATES)
    assert last["apportion"]["strategy"] == "beam_search@2x2"
    assert text
    assert joined(text, [each["text"] for each in last["apportion"]["candidates"]["list"]], "\n")


async def _streamed(gateway: Front, strategy: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """The text of a stream, and its last chunk."""
    streamed = await gateway.chat(strategy, stream=True, stream_options={"include_usage": True}, **fields)
    *chunks, done = events_of(streamed.text)
    assert done == "[DONE]"
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]), chunks[-1]


async def test_a_vote_of_many_is_one_call(gateway: Front) -> None:
    """vLLM batches the candidates of a call, and reads the prompt once for all."""
    before = await gateway.vllm.total("vllm:request_success_total")
    calls = await _calls(gateway)
    response = await gateway.chat(
        "best_of_n@16", messages=SUM, max_tokens=8, ignore_eos=True, apportion={"max_total_tokens": 400}
    )
    assert response.json()["apportion"]["candidates"]["drawn"] == 16
    assert await _calls(gateway) - calls == 1
    assert await gateway.vllm.total("vllm:request_success_total") - before == 16


async def test_what_one_call_may_not_have_is_asked_for_in_several(vllm: Vllm) -> None:
    """Their seeds go on from call to call: the draws are those of a single call of vLLM."""
    asked = {"model": vllm.model, "messages": OPEN, "max_tokens": 8, "temperature": 1.3, "seed": 7, "n": 8}
    async with httpx.AsyncClient(base_url=vllm.url, trust_env=False, timeout=60) as client:
        direct = (await client.post("/v1/chat/completions", json=asked)).json()["choices"]
    expected = [choice["message"]["content"] for choice in sorted(direct, key=lambda choice: choice["index"])]
    assert len(set(expected)) >= 6, "draws that differ"
    async with front(vllm, engine={"max_n": 3}) as gateway:
        calls = await _calls(gateway)
        fields: dict[str, Any] = {"temperature": 1.3, "max_tokens": 8, "seed": 7}
        response = await gateway.chat("best_of_n@8", messages=OPEN, apportion=CANDIDATES, **fields)
        assert await _calls(gateway) - calls == 3
    found = [each["text"] for each in response.json()["apportion"]["candidates"]["list"]]
    assert len(found) == 8
    # what is computed in another batch differs in its last bits, which can turn a draw
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 6, (found, expected)


async def test_what_a_decided_vote_cuts_is_aborted_by_vllm(gateway: Front) -> None:
    """Half of the candidates ramble, which a grammar makes them do, while the others agree."""
    before = await gateway.vllm.total("vllm:generation_tokens_total")
    rambling = {"regex": "12|[A-Z][a-z ]{300,400}"}
    response = await gateway.chat(
        "majority_vote@16", messages=SUM, structured_outputs=rambling, temperature=1.5, max_tokens=400, seed=3,
        apportion=CANDIDATES,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    made = response.json()["apportion"]
    assert response.json()["choices"][0]["message"]["content"] == "12"
    assert made["cut_short"] == "consensus"
    cut = [each for each in made["candidates"]["list"] if each["finish_reason"] is None]
    assert cut, made
    assert made["actual"]["cancelled_tokens"] == sum(each["tokens"] for each in cut)
    assert all(len(each["text"]) < 300 for each in cut), "none was where the grammar lets it end"
    await gateway.running(0)
    generated = await gateway.vllm.total("vllm:generation_tokens_total") - before
    assert generated <= made["actual"]["tokens"] + 20 * len(cut), "they went on"


@pytest.mark.parametrize("between", ["\n", ", "])
async def test_the_text_of_a_beam_search_is_of_one_piece(gateway: Front, between: str) -> None:
    """With the likeliest token always, its steps joined are what one call says: nothing is lost or doubled between.

    A text that leaves no doubt: what is computed in another batch differs in its last bits, which decide between
    tokens that are about as likely."""
    counted = [between.join(map(str, range(first, first + 20))) for first in (20, 40, 60)]
    messages: list[Any] = []
    for first, numbers in zip((20, 40), counted, strict=False):
        messages.append({"role": "user", "content": f"Count from {first} to {first + 19}."})
        messages.append({"role": "assistant", "content": numbers})
    messages.append({"role": "user", "content": "Count from 60 to 79."})
    fields: dict[str, Any] = {"temperature": 0.8, "top_k": 1, "max_tokens": 24, "messages": messages}
    at_once = (await gateway.chat("single", **fields)).json()["choices"][0]["message"]["content"]
    assert at_once.startswith(counted[-1][:20])
    calls = await _calls(gateway)
    in_steps = (await gateway.chat("beam_search@2x2", **fields)).json()
    assert await _calls(gateway) - calls >= 2, "it went step by step"
    # a step mark at the very end, where the tokens ran out, is none of its text
    assert in_steps["choices"][0]["message"]["content"].rstrip() == at_once.rstrip()


@pytest.mark.parametrize("mark", ["\n", "\n\n", "."])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
async def test_steps_end_at_their_mark(vllm: Vllm, mark: str, temperature: float) -> None:
    """No piece has one in it, and the answer is pieces with just one mark between them, spaces as they were."""
    messages: Any = [
        {"role": "user", "content": "List three colours."},
        {"role": "assistant", "content": mark.join(["Red", "Green", "Blue", ""])},
        {"role": "user", "content": "List three fruits."},
    ]
    # its rounds are as many as its tokens make, however soon the model would have ended
    fields: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "temperature": temperature}
    async with front(vllm, strategies={"beam_step_tokens": 24, "beam_step_stop": mark}) as gateway:
        response = await gateway.chat("beam_search@2x2", messages=messages, apportion=CANDIDATES, **fields)
        assert response.status_code == 200, response.text
    said = response.json()["choices"][0]["message"]["content"]
    pieces = [each["text"] for each in response.json()["apportion"]["candidates"]["list"]]
    assert len(pieces) > 4, "more than one round"
    assert all(mark not in piece for piece in pieces)
    assert joined(said, pieces, mark), (said, pieces)


def joined(text: str, pieces: Sequence[str], mark: str) -> bool:
    """Whether a text is made of pieces in their order, each with a mark behind it or, where it was cut, with none."""

    @cache
    def rest(at: int, first: int) -> bool:
        if at == len(text):
            return True
        for number in range(first, len(pieces)):
            if text.startswith(pieces[number], at):
                end = at + len(pieces[number])
                if (pieces[number] and rest(end, number + 1)) or (
                    text.startswith(mark, end) and rest(end + len(mark), number + 1)
                ):
                    return True
        return False

    return rest(0, 0)


@pytest.mark.parametrize(
    ("text", "whole"),
    [("a\nb", True), ("a\n\nb", False), ("ab", True), ("a b", False), ("b\na", False), ("a\nb\n", True)],
)
def test_what_joined_means(text: str, whole: bool) -> None:
    assert joined(text, ["a", "b"], "\n") is whole


async def test_steps_are_as_long_and_as_many_as_configured(vllm: Vllm) -> None:
    async with front(vllm, strategies={"beam_step_tokens": 6, "beam_step_stop": [], "beam_max_steps": 3}) as gateway:
        calls = await _calls(gateway)
        response = await gateway.chat(
            "beam_search@2x2", STORY, max_tokens=200, temperature=1.0, ignore_eos=True, apportion=CANDIDATES
        )
        calls = await _calls(gateway) - calls
    body = response.json()
    pieces = body["apportion"]["candidates"]["list"]
    assert {each["tokens"] for each in pieces} == {6}
    assert len(pieces) == 3 * 4
    assert calls == 1 + 2 + 2, "the first steps at once, then each beam by itself"
    assert "stopped after 3 steps" in body["apportion"]["note"]
    assert body["choices"][0]["finish_reason"] == "length"
    said = body["choices"][0]["message"]["content"]
    assert said in {a["text"] + b["text"] + c["text"] for a in pieces for b in pieces for c in pieces}


async def test_a_clients_stop_string_ends_a_beam_search(gateway: Front) -> None:
    fields: dict[str, Any] = {"temperature": 0.8, "top_k": 1, "max_tokens": 48}
    text = (await gateway.chat("single", STORY, **fields)).json()["choices"][0]["message"]["content"]
    word = text.split()[10]
    stopped = (await gateway.chat("beam_search@2x2", STORY, stop=word, **fields)).json()
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(word)]
    assert stopped["choices"][0]["finish_reason"] == "stop"


async def test_a_clients_stop_string_that_ends_steps_too_ends_the_answer(gateway: Front) -> None:
    fields: dict[str, Any] = {"temperature": 0.8, "top_k": 1, "max_tokens": 48, "stop": ["\n"]}
    body = (await gateway.chat("beam_search@2x2", LIST, **fields)).json()
    assert body["choices"][0]["finish_reason"] == "stop"
    said = body["choices"][0]["message"]["content"]
    assert said == (await gateway.chat("single", LIST, **fields)).json()["choices"][0]["message"]["content"]
    assert "\n" not in said


@pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4"])
async def test_json_that_is_cut_off_does_not_win(gateway: Front, strategy: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    fields: dict[str, Any] = {"response_format": wanted, "max_tokens": 24, "temperature": 1.2}
    text, last = await _streamed(gateway, strategy, content="Describe a person.", apportion=CANDIDATES, **fields)
    made = last["apportion"]
    lengths = [each["finish_reason"] for each in made["candidates"]["list"]]
    assert "length" in lengths, "at least one was cut"
    assert "stop" in lengths, "and at least one was not"
    assert set(json.loads(text)) == {"name", "age"}
    assert all(set(json.loads(answer)) == {"name", "age"} for answer in made["votes"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", ["majority_vote@3", "best_of_n@3"])
async def test_calls_of_tools_are_voted_on(gateway: Front, strategy: str, stream: bool) -> None:
    fields: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60, "temperature": 1.0}
    content = "What is the weather in Rome?"
    if stream:
        streamed = await gateway.chat(
            strategy, content, stream=True, stream_options={"include_usage": True}, apportion=CANDIDATES, **fields
        )
        *chunks, _ = events_of(streamed.text)
        made = chunks[-1]["apportion"]
        deltas = [c["delta"] for chunk in chunks for c in chunk["choices"]]
        pieces = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
        name = "".join(piece.get("name") or "" for piece in pieces)
        arguments = "".join(piece.get("arguments") or "" for piece in pieces)
    else:
        body = (await gateway.chat(strategy, content, apportion=CANDIDATES, **fields)).json()
        made = body["apportion"]
        (call,) = body["choices"][0]["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert made["strategy"] == strategy
    assert name == "weather"
    voted = {answer: json.loads(answer)[0] for answer in made["votes"]}
    chosen = next(answer for answer, call in voted.items() if json.loads(call["arguments"]) == json.loads(arguments))
    if strategy.startswith("majority_vote"):
        assert made["votes"][chosen] == max(made["votes"].values())


async def test_at_temperature_0_there_is_nothing_to_choose_from(gateway: Front) -> None:
    """vLLM would refuse several candidates."""
    body = (await gateway.chat("majority_vote@3", "2 + 2 = ?", temperature=0)).json()
    assert body["apportion"]["strategy"] == "single"
    assert "temperature 0" in body["apportion"]["reason"]


async def test_the_steps_of_a_beam_search_find_their_prefix_in_the_cache(gateway: Front) -> None:
    """A prompt of some hundred tokens is computed once, and read from the cache by every later step."""
    text = " ".join(f"Fact {i}: the number {i} comes before the number {i + 1}." for i in range(40))
    tokens = (await gateway.served.client.post("/tokenize", json={"model": gateway.vllm.model, "prompt": text})).json()
    asked, hit = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
    before = [await gateway.vllm.total(name) for name in (asked, hit)]
    calls = await _calls(gateway)
    response = await gateway.chat("beam_search@2x2", f"{text} Go on.", temperature=0.8, max_tokens=60, ignore_eos=True)
    assert response.status_code == 200, response.text
    calls = await _calls(gateway) - calls
    queries, hits = [await gateway.vllm.total(n) - b for n, b in zip((asked, hit), before, strict=True)]
    assert calls >= 3
    assert queries >= calls * tokens["count"], "every step reads the whole prompt"
    whole_blocks = tokens["count"] // 128 * 128
    assert hits >= (calls - 1) * whole_blocks, "but the first finds it in the cache"


@pytest.mark.parametrize(
    ("profile", "menu"),
    [("votes", ["majority_vote@3"]), ("beams", ["beam_search@2x2"]), ("ones", ["single"])],
)
async def test_a_profile_chooses_from_its_own_menu(vllm: Vllm, profile: str, menu: list[str]) -> None:
    async with front(vllm, profiles={profile: {"menu": menu}}) as gateway:
        made = (await _allocated(gateway, profile=profile))["apportion"]
    assert made["profile"] == profile
    assert made["strategy"] in menu
    assert [row["strategy"] for row in made["predictions"]] == menu


@pytest.mark.parametrize(("trained", "by"), [(False, "prior"), (True, "model")])
async def test_left_to_itself_it_runs_what_is_worth_the_most(vllm: Vllm, trained: bool, by: str) -> None:
    """With the prior, and with what has been trained on this very model behind another engine."""
    allocator = {"models_dir": str(ROOT / "configs" / "models" / "smollm2-135m")} if trained else {}
    spent: dict[str, int] = {}
    async with front(vllm, allocator=allocator) as gateway:
        for name, price in (("free", 0.0), ("dear", 500.0)):
            body = await _allocated(gateway, token_price=price, latency_price=0.0)
            made = body["apportion"]
            assert made["decided_by"] == by
            offered = [row for row in made["predictions"] if row["feasible"]]
            assert len(offered) > 3
            chosen = next(row for row in offered if row["strategy"] == made["strategy"])
            assert chosen["utility"] == max(row["utility"] for row in offered)
            spent[name] = body["usage"]["completion_tokens"]
            # a vote that asks for one answer, and for more as long as they are worth it, is no dearer than `single`
            assert (made["candidates"]["drawn"] == 1) is (name == "dear")
    assert spent["dear"] < spent["free"]


async def _allocated(gateway: Front, **own: Any) -> dict[str, Any]:
    response = await gateway.chat("auto", messages=SUM, apportion={"include": ["predictions"], **own})
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"]
    return response.json()


async def _calls(gateway: Front) -> float:
    """Calls of the gateway to its engine."""
    text = (await gateway.served.client.get("/metrics")).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("apportion_engine_requests_total{")
    )
