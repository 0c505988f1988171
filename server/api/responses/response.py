"""The response object of the Responses API, with the `apportion` object beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.api.response import finish_reason, usage
from server.api.responses.output import Status
from server.api.responses.request import ResponsesRequest
from server.api.work import Work
from server.errors import ApiError
from strategies.types import Json, Outcome

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def begun(request: ResponsesRequest, work: Work) -> dict[str, Any]:
    """The response while it is being made: what was asked for. Nothing of it is kept, whatever `store` said."""
    text = request.text
    return {
        "id": work.query.id,
        "object": "response",
        "created_at": work.created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": work.query.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {"effort": request.effort, "summary": request.summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {
            "format": (text and text.format) or {"type": "text"},
            **({"verbosity": text.verbosity} if text and text.verbosity else {}),
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
    }


def status(outcome: Outcome) -> Status:
    return "completed" if _reason(outcome) is None else "incomplete"


def ended(begun: Json, work: Work, outcome: Outcome, items: Sequence[Json], *, now: int) -> dict[str, Any]:
    """The response with its answer. now: Unix seconds."""
    reason = _reason(outcome)
    return {
        **begun,
        "status": status(outcome),
        "completed_at": now if reason is None else None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": list(items),
        "usage": _usage(outcome),
        "apportion": work.report(outcome),
    }


def failed(begun: Json, error: ApiError) -> dict[str, Any]:
    """The response that broke off. The API knows few codes; the error's own stands in the `error` event before it."""
    code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(error.status, "server_error")
    return {**begun, "status": "failed", "error": {"code": code, "message": error.message}}


def _reason(outcome: Outcome) -> str | None:
    """Why the answer is not whole. The API knows no word for a deadline or a shared budget: `cut_short` tells."""
    winners = outcome.answer.winners if outcome.answer is not None else ()
    return _REASONS.get(finish_reason(winners[0])) if winners else "max_output_tokens"


def _usage(outcome: Outcome) -> Mapping[str, Any]:
    """The chat's figures under this API's names. Engines are not asked what they had cached."""
    counted = usage(outcome)
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": counted["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": counted["total_tokens"],
    }
