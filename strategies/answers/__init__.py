"""Read the answer out of a generation and group the generations that agree. Pure, linear in the text, never raises.

Missing that two answers agree costs a vote some of its power; merging two that differ invents a majority that does not
exist. So what is marked as the answer (boxed, labelled) is read generously, and unmarked prose hardly at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from strategies.answers.demands import Demands, demands_of
from strategies.answers.maths import comparable, latex
from strategies.answers.numbers import number
from strategies.answers.pattern import find
from strategies.answers.question import PATTERN, expected_form
from strategies.answers.reading import SHORT, boxed, canonical_json, choice, code, labelled, last_number, result
from strategies.answers.spelling import ends_as_maths, marked, operated, plain, tidy, unlatex
from strategies.types import Candidate

__all__ = [
    "Demands",
    "Extracted",
    "Group",
    "answer_of",
    "comparable",
    "demands_of",
    "expected_form",
    "extract",
    "group",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """An answer in canonical spelling: equal answers have equal values. `form` says where it was found."""

    value: str
    form: str  # boxed, labelled, pattern, number, choice, json, code, tool_calls or text

    @property
    def mathematical(self) -> bool:
        """It was marked as the answer, and algebra could find it equal to another spelling."""
        return self.form in ("boxed", "labelled", "pattern") and latex(self.value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Candidates with one answer, in order of drawing."""

    value: str
    members: tuple[Candidate, ...]


def _read_marked(text: str) -> Extracted | None:
    if (raw := boxed(text)) is not None and (value := marked(raw, boxed=True)):
        return Extracted(value=value, form="boxed")
    if (raw := labelled(text)) is not None and (value := marked(raw)):
        return Extracted(value=value, form="labelled")
    return None


def extract(text: str, *, form: str | None = None) -> Extracted | None:
    """The answer a text gives, in canonical spelling. None is an abstention.

    A reasoning block (up to "</think>") is skipped. Then, the first that is there:

    1. the form asked for. "json": sorted keys, 1.0 as 1, Markdown fence allowed, invalid abstains. "choice": the
       letter; a marked answer without one counts by its value, anything else abstains. "code": the last fenced block;
       without one the rules below. "text": rule 6 alone. "pattern:<RE2>": the first group, or all, of the last match;
       without a match it abstains.
    2. boxed: the last \\boxed{} whose braces balance.
    3. labelled: to the end of its sentence, what follows the last "answer is", "Answer:", "#### " or heading "Answer";
       then "= X" at the end of one of the last lines, unless a later one brings another number.
    4. number: unmarked text of up to SHORT characters that is a number, or whose last number stands alone.
    5. number: longer text whose last line is nothing but a number. All other long prose is compared as text: its last
       number is as likely a year or a step as the answer.
    6. text: case folded, white space collapsed, without the quotes, punctuation and Markdown around it.

    Fenced code of more than one line is not searched, and a text that has some is never read as a number.
    Numbers are exact: 1,234 and $1234.00 are 1234; 0.5, 1/2 and \\frac{1}{2} are 1/2; 12 apples are 12. But 50% is not
    50, and 12 million and 3 pm stay text. Beyond 40 digits or an exponent of 40 they are compared as written.
    """
    text = text.rpartition("</think>")[2].strip()
    if not text or text.startswith("<think>"):
        return None
    if form is not None and form.startswith(PATTERN):
        found = find(form.removeprefix(PATTERN), text)
        return Extracted(value=value, form="pattern") if found and (value := marked(found)) else None
    if form == "json":
        fenced = text.startswith("```") and text.endswith("```")
        value = canonical_json(text[3:-3].partition("\n")[2] if fenced else text)
        return Extracted(value=value, form="json") if value is not None else None
    if form == "choice":
        letter = choice(text)
        return Extracted(value=letter, form="choice") if letter else _read_marked(text)
    if form == "code" and (block := code(text)):
        return Extracted(value=block, form="code")
    if form != "text":
        parts = text.split("```")
        blocks = [part.partition("\n")[2] if "\n" in part else part for part in parts[1::2]]
        parts[1::2] = [block if "\n" not in block.strip() else "" for block in blocks]
        has_code = any("\n" in block.strip() for block in blocks)
        outside = "".join(parts).strip()
        if found := _read_marked(outside):
            return found
        bare = unlatex(outside)
        if not has_code and not operated(tidy(bare, maths=ends_as_maths(outside))):
            if value := result(bare):
                return Extracted(value=value, form="labelled")
            last_line = number(tidy(bare.rpartition("\n")[2]), units=False)
            if value := (number(tidy(bare)) or last_number(bare)) if len(bare) <= SHORT else last_line:
                return Extracted(value=value, form="number")
    value = plain(text) if len(text) > SHORT else plain(unlatex(text), maths=ends_as_maths(text))
    return Extracted(value=value, form="text") if value else None


def answer_of(candidate: Candidate, *, form: str | None) -> Extracted | None:
    """One candidate's answer: its tool calls if it made any, else its text. A cut candidate abstains.

    Calls are equal if their names and arguments, as JSON values, are, in whatever order: they are made side by side.
    Arguments that are not JSON count as written.
    """
    if not candidate.finished:
        return None
    if not candidate.tool_calls:
        return extract(candidate.text, form=form)
    calls: list[str] = []
    for call in candidate.tool_calls:
        function: Any = call.get("function")
        described = cast("Mapping[str, Any]", function) if isinstance(function, Mapping) else call
        arguments: Any = described.get("arguments")
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, default=str)
        value = canonical_json(raw.strip() or "{}")
        called = {"name": described.get("name"), "arguments" if value is not None else "raw": value or raw}
        calls.append(json.dumps(called, sort_keys=True, default=str))
    return Extracted(value=f"[{', '.join(sorted(calls))}]", form="tool_calls")


def group(read: Iterable[tuple[Candidate, Extracted | None]], standing: Mapping[str, str] | None = None) -> list[Group]:
    """Candidates with equal answers: the largest group first, then the better best mean logprob, then the earlier draw.

    read: candidates with what `answer_of` found in them; their order makes no difference. None is in no group.
    standing: for spellings found equal to others the one that stands for all of them. A group has its first member's.
    """
    members: dict[str, list[Candidate]] = {}
    spelled: dict[str, str] = {}
    for candidate, answer in sorted(read, key=lambda pair: pair[0].index):
        if answer is not None:
            key = (standing or {}).get(answer.value, answer.value)
            members.setdefault(key, []).append(candidate)
            spelled.setdefault(key, answer.value)
    groups = [Group(value=spelled[key], members=tuple(equal)) for key, equal in members.items()]
    return sorted(groups, key=_rank)


def _rank(equal: Group) -> tuple[int, float, int]:
    means = [c.logprobs.mean for c in equal.members if c.logprobs is not None]
    return -len(equal.members), -max(means, default=float("-inf")), equal.members[0].index
