"""Feedback on past responses, as the openai package sends it and understands what comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.fake_engine import VLLM, running
from tests.serving import Served, error_of, serving
from tests.stores import rows

pytestmark = pytest.mark.anyio
KEYS = {
    "team": {"key": "sk-test-0123456789abcdef"},
    "other": {"key": "sk-test-fedcba9876543210"},
    "checker": {"key": "sk-test-aaaaaaaaaaaaaaaa", "feedback_on_all": True},
}
ASKED: Any = {"model": "tiny", "messages": [{"role": "user", "content": "How much is 3 + 4?"}]}


def client_of(served: Served, name: str = "team") -> AsyncOpenAI:
    http = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(
        base_url=f"{served.client.base_url}/v1", api_key=KEYS[name]["key"], http_client=http, max_retries=0
    )


async def give(client: AsyncOpenAI, id: str, **said: Any) -> dict[str, Any]:
    """As the package's own way to call what it does not know."""
    given = await client.post("/apportion/feedback", body={"id": id, **said}, cast_to=object)
    assert isinstance(given, dict)
    return given


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/o.db"


@pytest.fixture
async def served(url: str) -> AsyncGenerator[Served]:
    async with running(VLLM) as engine, serving(engine.url, store={"url": url}) as served:
        yield served


async def test_a_chat_a_stream_and_a_response_are_judged_by_their_ids(served: Served, url: str) -> None:
    async with client_of(served) as client:
        chat = await client.chat.completions.create(**ASKED)
        chunks = [chunk async for chunk in await client.chat.completions.create(**ASKED, stream=True)]
        response = await client.responses.create(model="tiny", input="How much is 3 + 4?")
        assert await give(client, chat.id, correct=True) == {
            "id": chat.id, "object": "apportion.feedback", "score": 1.0, "replaced": False, "reference_kept": False,
        }  # fmt: skip
        assert (await give(client, chunks[0].id, score=0.25))["score"] == 0.25
        assert (await give(client, response.id, correct=False))["score"] == 0.0
        assert (await give(client, chat.id, correct=False))["replaced"]
    scores = {row["id"]: row["score"] for row in rows(url, "feedback")}
    assert scores == {chat.id: 0.0, chunks[0].id: 0.25, response.id: 0.0}


async def test_the_metrics_compare_what_was_expected_with_what_was_said(served: Served) -> None:
    """Once a response, whatever is said of it later. The strategies are those of the menu."""
    async with client_of(served) as client:
        for correct in (True, False):
            chat = await client.chat.completions.create(
                **ASKED, extra_body={"apportion": {"strategy": "majority_vote@3"}}
            )
            predicted = chat.model_extra["apportion"]["predicted"]["accuracy"] if chat.model_extra else None
            await give(client, chat.id, correct=correct)
            await give(client, chat.id, correct=False)
    page = (await served.client.get("/metrics")).text
    label = '{strategy="majority_vote@3"}'
    assert f"apportion_feedback_score_total{label} 1.0\n" in page
    assert f"apportion_feedback_expected_total{label} {2 * predicted}\n" in page
    assert f"apportion_feedback_compared_total{label} 2.0\n" in page
    assert 'apportion_feedback_total{result="new",strategy="majority_vote@3"} 2.0\n' in page
    assert 'apportion_feedback_total{result="replaced",strategy="majority_vote@3"} 2.0\n' in page


async def test_an_unknown_response_is_a_not_found_error(served: Served) -> None:
    async with client_of(served) as client:
        with pytest.raises(openai.NotFoundError, match="No response 'chatcmpl-x' is known") as caught:
            await give(client, "chatcmpl-x", correct=True)
        assert (caught.value.code, caught.value.param) == ("response_not_found", "id")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({}, "one of correct, score and reference is needed"),
        ({"correct": True, "score": 1.0}, "two words for the same"),
        ({"correct": "yes"}, "correct: Input should be a valid boolean"),
        ({"score": 1.5}, "score: Input should be less than or equal to 1"),
        ({"correct": True, "comment": "x"}, "unknown field comment: known are id, correct, score, reference"),
        ({"correct": True, "id": "a b"}, "id: String should match"),
        ({"reference": "7"}, "texts of this response are not kept"),
    ],
)
async def test_what_can_not_be_is_a_bad_request_error(served: Served, said: dict[str, Any], complaint: str) -> None:
    async with client_of(served) as client:
        chat = await client.chat.completions.create(**ASKED)
        with pytest.raises(openai.BadRequestError, match=complaint):
            await give(client, said.pop("id", chat.id), **said)


async def test_a_key_judges_its_own_responses_and_a_checker_all(url: str) -> None:
    """To the others it is as unknown as one that never was."""
    async with running(VLLM) as engine, serving(engine.url, store={"url": url}, keys=KEYS) as served:
        async with client_of(served) as client:
            chat = await client.chat.completions.create(**ASKED)
        async with client_of(served, "other") as client:
            with pytest.raises(openai.NotFoundError):
                await give(client, chat.id, correct=False)
        async with client_of(served, "checker") as client:
            await give(client, chat.id, score=0.5)
        nobody = await served.client.post("/v1/apportion/feedback", json={"id": chat.id, "correct": True})
        assert nobody.status_code == 401
    assert [(row["owner"]) for row in rows(url)] == ["team"]
    assert [(row["score"]) for row in rows(url, "feedback")] == [0.5]


async def test_without_a_store_it_says_how_to_have_one() -> None:
    async with running(VLLM) as engine, serving(engine.url) as served, client_of(served) as client:
        with pytest.raises(openai.NotFoundError, match=r"turns that on with store\.url") as caught:
            await give(client, "chatcmpl-x", correct=True)
        assert caught.value.code == "store_off"


async def test_other_methods_do_not_reach_the_engine(served: Served) -> None:
    response = await served.client.get("/v1/apportion/feedback")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    under = await served.client.post("/quality/v1/apportion/feedback", json={"id": "x", "correct": True})
    assert (under.status_code, error_of(under)["code"]) == (404, "response_not_found")
