"""Questions with known answers: what calibration asks an engine, to learn what each strategy achieves on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, cast

import orjson

from strategies.answers import Extracted, answer_of, expected_form, extract
from strategies.types import Budget, Candidate, Json, Prices, Query

Label = Literal["verifier", "reference", "feedback", "agreement"]

_GYM = "reasoning_gym:"
GYM_MISSING = "the built-in questions need reasoning-gym: install apportion[calibrate]"

# verifier kind -> what `expected_form` says of such a question, so that verdicts and votes read alike
_FORMS: Mapping[str, str | None] = {"number": None, "choice": "choice", "word": None}
_ELSEWHERE = (
    "function",
    "log",
    "feedback",
    "agreement",
)  # the verdict does not follow from the question and one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question and how to judge a completion of it.

    verifier: "number", "choice", "word" (the extracted answer equals the reference's); "reference" (the same, in the
    form that the request asks for); "reasoning_gym:<task>" (the task's own judge, on the extracted answer;
    metadata["entry"] is what it reads); or who else judges: "function" (the user's), "log" (the log it was read from),
    "feedback" (what was said of answers that a gateway returned), "agreement" (most of the question's own samples).
    group: questions that differ in digits or spelling alone share it. sampling: the request's other fields for the
    engine, such as response_format.
    """

    id: str
    family: str
    messages: tuple[Json, ...]
    reference: str
    verifier: str
    max_tokens: int
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: tuple[Json, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group: str | None = None

    @property
    def label(self) -> Label:
        """Where its samples' correctness comes from."""
        if self.verifier == "reference" or self.verifier == "feedback" or self.verifier == "agreement":
            return self.verifier
        return "verifier"

    def __post_init__(self) -> None:
        if self.verifier not in (*_FORMS, *_ELSEWHERE, "reference") and not self.verifier.startswith(_GYM):
            known = ", ".join([*_FORMS, "reference", f"{_GYM}<task>", *_ELSEWHERE])
            raise ValueError(f"question {self.id!r}: unknown verifier {self.verifier!r}: known are {known}")

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "family": self.family,
            "messages": [dict(message) for message in self.messages],
            "reference": self.reference,
            "verifier": self.verifier,
            "max_tokens": self.max_tokens,
            "metadata": dict(self.metadata),
            "tools": [dict(tool) for tool in self.tools],
            "sampling": dict(self.sampling),
            "group": self.group,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """Read what `to_json` wrote. Raises ValueError naming the field that is missing or of the wrong type."""
        try:
            return cls(
                id=str(data["id"]),
                family=str(data["family"]),
                messages=tuple(_object(message) for message in data["messages"]),
                reference=str(data["reference"]),
                verifier=str(data["verifier"]),
                max_tokens=int(data["max_tokens"]),
                metadata=dict(data.get("metadata") or {}),
                tools=tuple(_object(tool) for tool in data.get("tools") or ()),
                sampling=dict(data.get("sampling") or {}),
                group=data.get("group"),
            )
        except KeyError as error:
            raise ValueError(f"a question lacks the field {error.args[0]!r}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"question {data.get('id')!r} has a field of the wrong type: {error}") from error


def _object(value: Any) -> Json:
    return {str(key): inner for key, inner in value.items()}


class _Score(Protocol):
    def __call__(self, *, answer: str | None, entry: dict[str, Any]) -> float: ...


@lru_cache(maxsize=64)
def _gym_score(task: str) -> _Score:
    """The judge of one reasoning-gym task. Imported here: only those who calibrate with these tasks have it."""
    try:
        from reasoning_gym.factory import get_score_answer_fn
    except ImportError as error:
        raise ImportError(GYM_MISSING) from error
    return cast("_Score", get_score_answer_fn(task))


def form_of(question: Question) -> str | None:
    """The form of answer that it asks for, as the gateway would read the request."""
    if question.verifier in _FORMS:
        return _FORMS[question.verifier]
    if question.verifier.startswith(_GYM):
        return None
    query = Query(
        id=question.id,
        model="",
        messages=question.messages,
        sampling=question.sampling,
        budget=Budget(max_total_tokens=1, deadline=0.0),
        prices=Prices(token_price=0.0, latency_price=0.0),
        tools=question.tools,
    )
    return expected_form(query)


def expected(question: Question) -> Extracted:
    """The answer that its reference gives. Raises ValueError when that gives none in the form asked for.

    A reference that is a JSON list of {"name", "arguments"} stands for tool calls, if tools are on offer.
    """
    form = form_of(question)
    if question.tools and (calls := _calls(question.reference)):
        asked = Candidate(index=0, text="", tool_calls=calls, tokens=0, finish_reason="tool_calls")
        found = answer_of(asked, form=form)
    else:
        found = extract(question.reference, form=form)
    if found is None:
        asks = f" of the form {form!r}, which is asked for" if form else ""
        raise ValueError(f"question {question.id!r}: its reference {question.reference[:80]!r} holds no answer{asks}")
    return found


def _calls(reference: str) -> tuple[Json, ...]:
    try:
        calls: Any = orjson.loads(reference)
    except orjson.JSONDecodeError:
        return ()
    if not isinstance(calls, list):
        return ()
    items = cast("list[Any]", calls)
    return tuple(items) if all(isinstance(call, dict) and "name" in call for call in items) else ()


def judge(question: Question, answer: str) -> float:
    """How right an extracted answer is, 0 to 1. Raises ValueError when that is not for the question to say.

    Partial credit of reasoning-gym's judges is dropped, because a vote and a client know only right and wrong.
    """
    kind = question.verifier
    if kind in _ELSEWHERE:
        raise ValueError(f"question {question.id!r} is judged by {kind}, not by itself")
    if kind.startswith(_GYM):
        entry = {"question": question.messages[-1]["content"], **dict(question.metadata["entry"])}
        return 1.0 if _gym_score(kind.removeprefix(_GYM))(answer=answer, entry=entry) >= 1 else 0.0
    return 1.0 if answer == expected(question).value else 0.0


def verify(question: Question, text: str) -> float:
    """How right a completion is, 0 to 1.

    Judges what `extract` finds, the very thing the gateway votes over: a candidate that counts as right here
    must also be able to win a vote there.
    """
    found = extract(text, form=form_of(question))
    return judge(question, found.value) if found is not None else 0.0
