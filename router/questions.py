"""Questions with known answers: what calibration asks an engine, to learn what each strategy achieves on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, cast

from strategies.answers import extract

Message = Mapping[str, str]

_GYM = "reasoning_gym:"
GYM_MISSING = "the built-in questions need reasoning-gym: install apportion[calibrate]"

# verifier kind -> what `expected_form` says of such a question, so that verdicts and votes read alike
_FORMS: Mapping[str, str | None] = {"number": None, "choice": "choice", "word": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question and how to judge a completion of it.

    verifier: "number", "choice", "word" (the extracted answer equals the reference's), or
    "reasoning_gym:<task>" (the task's own judge, on the extracted answer; metadata["entry"] is what it reads).
    """

    id: str
    family: str
    messages: tuple[Message, ...]
    reference: str
    verifier: str
    max_tokens: int
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.verifier not in _FORMS and not self.verifier.startswith(_GYM):
            known = ", ".join([*_FORMS, f"{_GYM}<task>"])
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
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """Read what `to_json` wrote. Raises ValueError naming the field that is missing or of the wrong type."""
        try:
            return cls(
                id=str(data["id"]),
                family=str(data["family"]),
                messages=tuple({str(k): str(v) for k, v in message.items()} for message in data["messages"]),
                reference=str(data["reference"]),
                verifier=str(data["verifier"]),
                max_tokens=int(data["max_tokens"]),
                metadata=dict(data.get("metadata") or {}),
            )
        except KeyError as error:
            raise ValueError(f"a question lacks the field {error.args[0]!r}") from error
        except (AttributeError, TypeError) as error:
            raise ValueError(f"question {data.get('id')!r} has a field of the wrong type: {error}") from error


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


def verify(question: Question, text: str) -> float:
    """How right a completion is, 0 to 1.

    Judges what `extract` finds, the very thing the gateway votes over: a candidate that counts as right here
    must also be able to win a vote there. Partial credit of reasoning-gym's judges is dropped, because a vote
    and a client know only right and wrong.
    """
    kind = question.verifier
    found = extract(text, form=_FORMS.get(kind))
    if found is None:
        return 0.0
    if kind.startswith(_GYM):
        entry = {"question": question.messages[-1]["content"], **dict(question.metadata["entry"])}
        return 1.0 if _gym_score(kind.removeprefix(_GYM))(answer=found.value, entry=entry) >= 1 else 0.0
    expected = extract(question.reference, form=_FORMS.get(kind))
    if expected is None:
        raise ValueError(f"question {question.id!r}: its reference {question.reference!r} holds no answer")
    return 1.0 if found.value == expected.value else 0.0
