"""POST /v1/completions: passed on, but for `best_of`, which engines have given up and which is a strategy.

As OpenAI defines it: so many completions of each prompt, of which the n with the highest log probability per token
come back, best first. It is one call to the engine, and the tokens of all of them are the request's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, cast

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.passthrough import Change, pass_through
from server.errors import SERVER_ERROR, EngineFailed, InvalidRequest
from server.gateway import Gateway
from server.passthrough.cost import is_count, json_object

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    gateway = cast("Gateway", request.app.state.gateway)
    most = min(gateway.engine.max_n, gateway.config.budgets.max_candidates)
    return await pass_through(request, change=lambda raw: best_of(raw, most=most))


def best_of(raw: bytes, *, most: int) -> Change:
    """What the engine is asked instead, and what becomes of its answer. most: that it can draw. Raises ApiError."""
    body = json_object(raw)
    wanted, n = body.get("best_of"), body.get("n") or 1
    if wanted is None or not is_count(n):
        return Change(raw)
    if not is_count(wanted) or wanted < n:
        raise InvalidRequest(f"best_of must be a whole number, and not below n, which is {n}", param="best_of")
    asked = {name: value for name, value in body.items() if name != "best_of"}
    if wanted == n:
        return Change(orjson.dumps(asked))
    if wanted > most:
        raise InvalidRequest(f"best_of is {wanted}, the most is {most}", param="best_of")
    for field in ("stream", "echo"):
        if body.get(field):
            raise InvalidRequest(f"{field} is not possible with best_of above n", param=field)
    asked |= {"n": wanted, "logprobs": body.get("logprobs") or 1}
    return Change(
        orjson.dumps(asked),
        rewrite=lambda answer: _chosen(answer, drawn=wanted, n=n, keep_logprobs=body.get("logprobs") is not None),
    )


def _chosen(raw: bytes, *, drawn: int, n: int, keep_logprobs: bool) -> bytes:
    """The answer with the n best choices of every prompt. Raises EngineFailed."""
    answer = json_object(raw)
    choices = cast("list[dict[str, Any]]", answer.get("choices") or [])
    try:
        ordered = sorted(choices, key=lambda choice: int(choice["index"]))
        scores = {id(choice): _mean_logprob(choice) for choice in ordered}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EngineFailed(
            "The engine's answer has no log probabilities to choose by.",
            status=502,
            type=SERVER_ERROR,
            param="best_of",
            code="no_logprobs",
            headers={"x-should-retry": "false"},
        ) from None
    best: list[dict[str, Any]] = []
    for first in range(0, len(ordered), drawn):
        of_one_prompt = ordered[first : first + drawn]
        best += sorted(of_one_prompt, key=lambda choice: scores[id(choice)], reverse=True)[:n]
    for index, choice in enumerate(best):
        choice["index"] = index
        if not keep_logprobs:
            choice["logprobs"] = None
    return orjson.dumps({**answer, "choices": best})


def _mean_logprob(choice: Mapping[str, Any]) -> float:
    """Of vLLM's (OpenAI's old) form or of llama.cpp's (that of chats); of nothing said: the worst there is."""
    logprobs: Mapping[str, Any] = choice["logprobs"]
    if "token_logprobs" in logprobs:
        values = [float(value) for value in logprobs["token_logprobs"] if value is not None]
    else:
        values = [float(entry["logprob"]) for entry in logprobs["content"]]
    return fmean(values) if values else -math.inf
