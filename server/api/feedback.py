"""POST /v1/apportion/feedback: whether a past response was right."""

from __future__ import annotations

import time
from typing import Any, Self, cast

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from server.access.caller import Caller
from server.api.body import ClientGone, read_json, unread
from server.api.request import explained
from server.errors import InvalidRequest, ResponseNotFound, StoreOff, StoreUnavailable, new_id
from server.gateway import Gateway
from server.store.database import StoreError
from server.store.recorder import Recorder
from server.store.rows import plain
from server.store.verdicts import Given, NothingSaid, NothingToJudge, UnknownResponse, Verdict

router = APIRouter()
PATH = "/v1/apportion/feedback"


class Feedback(BaseModel):
    """One of `correct` and `score`, or a `reference` alone. Later feedback on a response replaces earlier."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    id: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,100}$", description="Of the response, which is its x-request-id header too."
    )
    correct: bool | None = Field(default=None, description="Whether the answer was right.")
    score: float | None = Field(default=None, ge=0, le=1, description="How right it was, 0 to 1.")
    reference: str | None = Field(
        default=None,
        min_length=1,
        max_length=65_536,
        description="The right answer. Kept only where the store keeps texts.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.correct is not None and self.score is not None:
            raise ValueError("correct and score are two words for the same: give one of them")
        if self.correct is None and self.score is None and self.reference is None:
            raise ValueError("one of correct, score and reference is needed")
        return self


@router.post(PATH)
async def feedback(request: Request) -> Response:
    """Say whether a past response was right: it is counted, and teaches the next training."""
    gateway = cast("Gateway", request.app.state.gateway)
    caller = cast("Caller", request.state.caller)
    request.state.id = new_id()
    try:
        said = parse(await read_json(request, gateway.config.server))
    except ClientGone:
        return unread()
    if gateway.recorder is None:
        raise StoreOff
    score = float(said.correct) if said.correct is not None else said.score
    verdict = Verdict(
        id=said.id,
        given=time.time(),
        score=score,
        reference=plain(said.reference) if said.reference is not None else None,
        owner=caller.name,
        on_all=caller.name is None or caller.feedback_on_all,
    )
    given = await _given(gateway.recorder, verdict)
    gateway.metrics.feedback(
        given.strategy,
        replaced=given.replaced,
        score=score if given.first else None,
        expected=given.expected,
    )
    body = {
        "id": said.id,
        "object": "apportion.feedback",
        "score": score,
        "replaced": given.replaced,
        "reference_kept": given.reference_kept,
    }
    return Response(orjson.dumps(body), media_type="application/json", headers={"x-request-id": request.state.id})


def parse(body: Any) -> Feedback:
    """Raises ApiError 400 that names the field."""
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        return Feedback.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][0])[:100]
            known = ", ".join(Feedback.model_fields)
            raise InvalidRequest(f"unknown field {name}: known are {known}", param=name) from None
        if not first["loc"]:
            raise InvalidRequest(first["msg"].removeprefix("Value error, "), param="correct") from None
        raise explained(error, {}) from None


async def _given(recorder: Recorder, verdict: Verdict) -> Given:
    """Raises ApiError."""
    try:
        return await recorder.feedback(verdict)
    except UnknownResponse:
        raise ResponseNotFound(verdict.id) from None
    except NothingToJudge:
        raise InvalidRequest(f"The request '{verdict.id}' had no answer to judge.", param="id") from None
    except NothingSaid:
        raise InvalidRequest(
            "A reference alone says nothing here, as the texts of this response are not kept: give correct or score.",
            param="reference",
        ) from None
    except StoreError:
        raise StoreUnavailable from None
