"""OpenAI's response shapes, with the `apportion` object beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.features import Features, notable
from strategies.types import Allocation, Candidate, Json, Outcome, Prediction, Query

_FINISH = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def finish_reason(candidate: Candidate) -> str:
    """OpenAI knows no word for a cut: a candidate the gateway or the engine cut short ends with `length`."""
    reason = candidate.finish_reason
    if reason is not None and reason not in _FINISH:
        return "length"
    if reason is None:
        return "length"
    return "tool_calls" if candidate.tool_calls and reason == "stop" else reason


def stop_reason(candidate: Candidate) -> dict[str, Any]:
    """Which stop string or token ended it, where the engine tells (vLLM)."""
    return {} if candidate.stop_reason is None else {"stop_reason": candidate.stop_reason}


def usage(outcome: Outcome) -> dict[str, Any]:
    """Everything generated counts; what was not returned is shown as reasoning tokens."""
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": outcome.completion_tokens - outcome.returned_tokens},
    }


def message(candidate: Candidate) -> dict[str, Any]:
    body: dict[str, Any] = {"role": "assistant", "content": candidate.text}
    if candidate.reasoning:
        body[candidate.reasoning_name] = candidate.reasoning
    if candidate.refusal:
        body |= {"content": candidate.text or None, "refusal": candidate.refusal}
    if candidate.tool_calls:
        body |= {"content": candidate.text or None, "tool_calls": list(candidate.tool_calls)}
    return body


def trimmed(content: Sequence[Json], top: int) -> list[Json]:
    """Logprob entries with as many alternatives as the client asked for: a scorer may have needed more."""
    return [
        {**entry, "top_logprobs": entry["top_logprobs"][:top]} if entry.get("top_logprobs") else entry
        for entry in content
    ]


def completion(outcome: Outcome, query: Query, extra: Mapping[str, Any], *, created: int) -> dict[str, Any]:
    """The body of a finished, unstreamed request. Raises ValueError for an outcome without an answer."""
    if outcome.answer is None:
        raise ValueError("no answer to return")
    choices = [
        {
            "index": place,
            "message": message(candidate),
            "finish_reason": finish_reason(candidate),
            "logprobs": {"content": trimmed(candidate.logprob_content, query.top_logprobs), "refusal": None}
            if query.logprobs
            else None,
            **stop_reason(candidate),
        }
        for place, candidate in enumerate(outcome.answer.winners)
    ]
    return {
        "id": outcome.query_id,
        "object": "chat.completion",
        "created": created,
        "model": query.model,
        "choices": choices,
        "usage": usage(outcome),
        "apportion": dict(extra),
    }


def apportion(
    outcome: Outcome, query: Query, include: Sequence[str] = (), features: Features | None = None
) -> dict[str, Any]:
    """What was decided, what was predicted, what it cost."""
    allocation, answer = outcome.allocation, outcome.answer
    finished = sum(candidate.finished for candidate in outcome.candidates)
    body: dict[str, Any] = {
        "strategy": str(allocation.spec),
        "reason": allocation.reason,
        "decided_by": allocation.decided_by,
        "model_version": allocation.model_version,
        "familiar": allocation.familiar,
        "profile": query.profile,
        "predicted": _prediction(allocation.chosen) if allocation.chosen else None,
        "actual": {
            "tokens": outcome.completion_tokens,
            "cancelled_tokens": outcome.cancelled_tokens,
            "scoring_tokens": outcome.scoring_tokens,
            "seconds": round(outcome.seconds, 4),
        },
        "budget": {
            "max_total_tokens": query.budget.max_total_tokens,
            "deadline_ms": round((query.budget.deadline - query.arrived) * 1000),
            "fits": allocation.fits,
        },
        "candidates": {"drawn": len(outcome.candidates), "finished": finished},
        "agreement": None if answer is None or answer.agreement is None else round(answer.agreement, 4),
        "confidence": None if answer is None or answer.confidence is None else round(answer.confidence, 4),
        "checkpoints": _checkpoints(allocation),
        "cut_short": None if answer is None else answer.cut_short,
    }
    if answer is not None and answer.note:
        body["note"] = answer.note
    if "predictions" in include:
        body["predictions"] = predictions(allocation)
    if "features" in include and features is not None:
        body["features"] = {name: value for name, value, _ in notable(features)}
    if "candidates" in include:
        body["candidates"]["list"] = [_candidate(candidate) for candidate in outcome.candidates]
        body["votes"] = dict(answer.votes) if answer is not None else {}
    return body


def _checkpoints(allocation: Allocation) -> str | None:
    """What decided when to stop, where anything did: best of N is stopped by a model alone, beam search by none."""
    by = allocation.stopping.by
    stopped = allocation.spec.method == "majority_vote" or (allocation.spec.method == "best_of_n" and by == "model")
    return by if stopped else None


def server_timing(outcome: Outcome, *, decided: float) -> str:
    """Where the time went, for the Server-Timing header: milliseconds from arrival. decided: seconds until then."""
    points = {"decided": decided, "first_token": outcome.first_token_seconds, "total": outcome.seconds}
    return ", ".join(f"{name};dur={at * 1000:.1f}" for name, at in points.items() if at is not None)


def predictions(allocation: Allocation) -> list[dict[str, Any]]:
    """The whole table the decision was made on."""
    return [
        {
            "strategy": str(row.spec),
            **_prediction(row),
            "utility": round(row.utility, 4),
            "feasible": row.feasible,
            "reason": row.reason or None,
        }
        for row in allocation.predictions
    ]


def _prediction(row: Prediction) -> dict[str, Any]:
    return {
        "accuracy": round(row.accuracy, 4),
        "tokens": round(row.tokens, 1),
        "tokens_upper": round(row.tokens_upper, 1),
        "seconds": round(row.seconds, 4),
        "seconds_upper": round(row.seconds_upper, 4),
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "index": candidate.index,
        "text": candidate.text,
        "tokens": candidate.tokens,
        "finish_reason": candidate.finish_reason,
        "score": candidate.score,
        "mean_logprob": round(candidate.logprobs.mean, 4) if candidate.logprobs and candidate.logprobs.tokens else None,
    }
