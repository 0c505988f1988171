"""The tour's six questions, from trivial to out of reach for SmolLM2-135M-Instruct, each with a budget of its own.

They have the shapes of the calibration's families (router/families.py), worked examples included: that is the ground
a trained allocator knows, and what a model this small needs to answer at all. The questions themselves are written
for the tour, so that right and wrong are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.questions import Question

_FIRST_LETTER = """\
What is the first letter of the word "flowerwork"?
f
What is the first letter of the word "dehydrant"?
d
What is the first letter of the word "yolky"?
y
What is the first letter of the word "table"?"""

_SMALL_SUM = """\
1 + 4 = ?
1 + 4 = 5
5 + 3 = ?
5 + 3 = 8
6 + 0 = ?
6 + 0 = 6
9 + 4 = ?"""

_CAPITAL = """\
Give me the capital of New Zealand.
Wellington
Which city is the capital of Libya?
Tripoli
Which city is the capital of Kenya?
Nairobi
Which city is the capital of Italy?"""

_ONE_STEP = """\
Hugo found 9 pencils and David found 15. How many did they find together?
9 pencils and 15 pencils are added. 9 + 15 = 24. The answer is 24.
Farid shares 6 pencils equally among 3 friends. How many pencils does each friend get?
6 pencils are divided by 3. 6 / 3 = 2. The answer is 2.
Ben has 30 books. Paul gives Ben 24 more. How many books does Ben have now?
30 books and 24 more books are added. 30 + 24 = 54. The answer is 54.
Rosa has 7 stickers. Leo gives Rosa 4 more. How many stickers does Rosa have now?"""

_TWO_STEPS = """\
Ana has 10 stamps. Grace has 9 times as many. How many do they have together?
Grace has 9 * 10 = 90. Together they have 10 + 90 = 100. The answer is 100.
Ella picked 23 cards, kept 7, and shared the rest equally among 4 friends. How many did each friend get?
The rest is 23 - 7 = 16. Each friend gets 16 / 4 = 4. The answer is 4.
Olga fills 7 bags with 21 buttons each. Then Ella loses 12 buttons. How many buttons remain?
At first there are 7 * 21 = 147. Then 147 - 12 = 135 remain. The answer is 135.
There are 3 jars with 2 cookies in each, and 5 cookies lie on the floor. How many cookies are there altogether?"""

_BACKWARDS = """\
Spell the word Havana backwards.
anavah
Spell the word zeist backwards.
tsiez
Spell the word queest backwards.
tseeuq
Spell the word garden backwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One stop of the tour: a question, the prices it is asked under, and what its answer may cost."""

    name: str
    point: str  # what this stop shows
    question: Question
    profile: str
    max_total_tokens: int
    deadline_ms: int

    @property
    def ask(self) -> str:
        return self.question.messages[-1]["content"]

    @property
    def examples(self) -> int:
        return len(self.question.messages) // 2

    @property
    def seconds(self) -> float:
        return self.deadline_ms / 1000

    @property
    def body(self) -> Mapping[str, Any]:
        """What is posted to /v1/chat/completions."""
        return {
            "messages": [dict(message) for message in self.question.messages],
            "max_tokens": self.question.max_tokens,
            "apportion": {
                "profile": self.profile,
                "max_total_tokens": self.max_total_tokens,
                "deadline_ms": self.deadline_ms,
                "include": ["predictions", "candidates", "features"],
            },
        }


def _question(family: str, turns: str, reference: str, *, verifier: str = "number", max_tokens: int = 16) -> Question:
    """turns: one a line, the user's and the assistant's in turn; the last is what is asked."""
    return Question(
        id=f"tour-{family}",
        family=family,
        messages=tuple(
            {"role": "assistant" if place % 2 else "user", "content": line}
            for place, line in enumerate(turns.splitlines())
        ),
        reference=reference,
        verifier=verifier,
        max_tokens=max_tokens,
    )


STOPS: tuple[Stop, ...] = (
    Stop(
        name="first letter",
        point="profile fast: an answer at once",
        question=_question("first_letter", _FIRST_LETTER, "t", verifier="word"),
        profile="fast",
        max_total_tokens=256,
        deadline_ms=10_000,
    ),
    Stop(
        name="small sum",
        point="few tokens: 64 for all candidates together",
        question=_question("small_sum", _SMALL_SUM, "13"),
        profile="balanced",
        max_total_tokens=64,
        deadline_ms=10_000,
    ),
    Stop(
        name="capital city",
        point="profile balanced: does asking more often pay?",
        question=_question("capital", _CAPITAL, "Rome", verifier="word"),
        profile="balanced",
        max_total_tokens=512,
        deadline_ms=15_000,
    ),
    Stop(
        name="one-step story",
        point="little time: 2 s from question to answer",
        question=_question("story_one_step", _ONE_STEP, "11", max_tokens=96),
        profile="quality",
        max_total_tokens=2048,
        deadline_ms=2_000,
    ),
    Stop(
        name="two-step story",
        point="profile quality: a right answer is worth many tokens",
        question=_question("story_two_step", _TWO_STEPS, "11", max_tokens=96),
        profile="quality",
        max_total_tokens=2048,
        deadline_ms=30_000,
    ),
    Stop(
        name="backwards",
        point="out of reach, whatever is spent",
        question=_question("backward", _BACKWARDS, "nedrag", verifier="word"),
        profile="balanced",
        max_total_tokens=512,
        deadline_ms=10_000,
    ),
)
