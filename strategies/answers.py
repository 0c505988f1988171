"""Read the answer out of a generation and group the generations that agree. Pure, and linear in the length of the text.

A vote is only as good as its notion of "the same answer". Two mistakes are possible, and they are not equally bad:
missing that two answers agree costs some of the vote's power, while merging two that differ invents a majority that does
not exist. So what is clearly marked as the answer (boxed, labelled) is read generously, and unmarked prose is not.

Nothing here raises, whatever a model wrote: the worst that can happen is an abstention.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import Any, cast

from strategies.types import Candidate, Query

SHORT = 200  # characters: unmarked text up to here is an answer that may be read as its last number
_DIGITS = 40  # longer numbers are compared digit by digit, never calculated with
_PLAIN_DENOMINATOR = 10  # terminating fractions above it are written as decimals: 1/2 and 3/4, but 12.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """An answer in canonical spelling: equal answers have equal values. `form` says where it was found."""

    value: str
    form: str  # boxed, labelled, number, choice, json, tool_calls or text


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Candidates with one answer, in order of drawing."""

    value: str
    members: tuple[Candidate, ...]


# ---------------------------------------------------------------------------------------------------------- numbers

_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?[$€£¥₹]?\s?(?P<sign2>[+-]?)(?:(?P<whole>[0-9]{{1,9}})\s+(?=[0-9]{{1,9}}/))?"
    rf"(?P<top>{_UNSIGNED})(?:[eE](?P<exponent>[+-]?[0-9]+))?(?:\s?/\s?(?P<bottom>{_UNSIGNED}))?"
    r"\s?(?P<percent>%|percent\b)?[€£¥₹]?",
)
# What may follow a number without changing it: a unit or a remark, but no second number, scale or alternative.
_CHANGES_IT = re.compile(
    r"(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore|[kmb]n?\b|and|or|to|by|times|plus|minus|over|out|of"
    r"|am|pm|a\.m|p\.m|bc|ad|bce|ce|st|nd|rd|th|squared|cubed|factorial|base|mod|modulo)\b",
    re.IGNORECASE,
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\^?\{?[23]\}?(?![0-9])")
_MINUSES = str.maketrans({"\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "})


def _trim(digits: str) -> str:
    """A decimal without thousands separators, leading zeros and trailing zeros of the fraction."""
    whole, _, part = digits.replace(",", "").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _spell(value: Fraction) -> str:
    """One spelling a value: 5, 3/4, 1/3, 12.99."""
    bottom = value.denominator
    if bottom <= _PLAIN_DENOMINATOR:
        return str(value)
    twos = (bottom & -bottom).bit_length() - 1
    rest, fives = bottom >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return str(value)
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // bottom).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _canonical(match: re.Match[str]) -> str | None:
    """The one spelling of a number. Bounded arithmetic: nothing longer than _DIGITS is calculated with."""
    negative = (match["sign"] == "-") != (match["sign2"] == "-")
    top, bottom, exponent = _trim(match["top"]), match["bottom"], match["exponent"]
    percent = "%" if match["percent"] else ""
    sign = "-" if negative and top != "0" else ""
    if bottom is not None:
        bottom = _trim(bottom)
        if bottom == "0":
            return None
    if exponent is not None:
        power = exponent.lstrip("+-").lstrip("0") or "0"
        down = exponent.startswith("-") and power != "0"
        if top == "0" and bottom is None:
            return f"0{percent}"
        if len(power) > 2 or int(power) > _DIGITS or len(top) > _DIGITS:
            if power == "0" and bottom is None:
                return f"{sign}{top}{percent}"
            return f"{sign}{top}e{'-' if down else ''}{power}{'/' + bottom if bottom else ''}{percent}"
        scale = Fraction(10) ** (-int(power) if down else int(power))
    else:
        scale = Fraction(1)
    if len(top) > _DIGITS or len(bottom or "") > _DIGITS:
        return f"{sign}{top}{'/' + bottom if bottom and bottom != '1' else ''}{percent}"
    value = Fraction(top) * scale / Fraction(bottom or "1") + int(match["whole"] or 0)
    return _spell(-value if negative else value) + percent


def _number(text: str, *, units: bool) -> str | None:
    """The canonical number if that is what the text says, units allowed or not: "-$1,234.50", "1 1/2", "12 apples"."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    rest = text[match.end() :]
    bare = rest.strip(" .,;:!?")
    if bare:
        attached = rest[0].isalpha() or rest[0] == "°"
        if not units or rest[0] not in " (,;°" and not (attached and len(bare) > 1 and bare[1].isalpha()):
            return None
        if bare[0] != "(" and (
            not (bare[0].isalpha() or bare[0] == "°")
            or _CHANGES_IT.match(bare)
            or any(c.isdigit() or c in "+=<>*" for c in _UNIT_POWER.sub("", bare))
        ):
            return None
    return _canonical(match)


# ------------------------------------------------------------------------------------------------------------- text

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|boxed|fbox)\s?\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\frac\s?(?:\{\s?([0-9.,]{1,40})\s?\}\s?\{\s?([0-9.,]{1,40})\s?\}|([0-9])([0-9]))")
_NOISE = re.compile(r"\\[()\[\],;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|(?<!\\)\$|\^\{?\\circ\}?")
_EDGES = " \t\r\n.,;:!?\"'`*_~#\u201c\u201d\u2018\u2019\u00ab\u00bb\u3002\uff0c"


def _unlatex(text: str) -> str:
    text = text.translate(_MINUSES)
    if "\\" in text:
        text = text.replace("\\$", "").replace("\\%", "%").replace("{,}", ",").replace("\\!", "")
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
        text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
        text = _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", text))
    return _NOISE.sub("", text) if "\\" in text or "$" in text else text


def _tidy(text: str) -> str:
    """Without white space, quotes, punctuation and Markdown around it. A leading ".5" keeps its point."""
    bare = text.strip(_EDGES)
    if bare[:1].isdigit() and text.lstrip(_EDGES.replace(".", "")).startswith("." + bare[:1]):
        bare = "." + bare
    if bare.startswith("- ") and not bare[2:3].isdigit():
        bare = bare[2:].strip(_EDGES)
    if len(bare) > 2 and bare[0] + bare[-1] in ("()", "[]") and bare[1:-1].strip(" .-").isalnum():
        bare = bare[1:-1]
    return bare


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(_tidy(text).split()).casefold())


def _marked(raw: str) -> str:
    """The canonical value of what was marked as the answer; "" if there is nothing in it."""
    bare = _tidy(_unlatex(raw))
    left, equals, right = bare.partition("=")
    if equals and "=" not in right and left.rstrip()[-1:] not in ("<", ">", "!", ":"):
        if left.strip().isidentifier():
            bare = right.strip()
        elif (result := _number(right.strip(), units=True)) is not None and "," not in left:
            return result
    if (number := _number(bare, units=True)) is not None:
        return number
    value = _plain(bare)
    # Between symbols spaces mean nothing: (3, 4) is (3,4), x + 1 is x+1.
    return value if _WORD.search(value) else value.replace(" ", "")


_WORD = re.compile(r"(?<!\\)(?<![a-z])[^\W\d_]{2}|[0-9] [0-9]")

# ---------------------------------------------------------------------------------------------------------- finding

_BRACE = re.compile(r"\\(?:boxed|fbox)\s?\{|\\[{}]|[{}]")
_LABEL = re.compile(
    r"\banswers?\b(?:[ ](?:to|for|of)[ ][^.\n:=]{1,80}?)?[*_]{0,3}[ \t]{0,3}"
    r"(?:(?:is|are|was|equals)\b[ \t]{0,3}[:=]?|[:=\uff1a]|[*_]{0,3}[ \t]{0,3}(?=\n))[*_]{0,3}|####",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"[\s*_]{0,5}(?:not|n't|never|neither|in the form|the following)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?](?=\s)|,?[ ]because\b|,[ ](?:since|as|which|so)\b", re.IGNORECASE)
_ABBREVIATION = re.compile(r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|St|Mt|vs|No))\Z")


def _boxed(text: str) -> str | None:
    """The content of the last box that is closed and not blank. One pass, so unclosed boxes cost nothing extra."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return None
    open_at: list[tuple[int, bool]] = []
    best: tuple[int, str] | None = None
    for brace in _BRACE.finditer(text):
        mark = brace[0]
        if mark[-1] == "{" and mark != "\\{":
            open_at.append((brace.end(), len(mark) > 1))
        elif mark == "}" and open_at:
            start, box = open_at.pop()
            if box and (best is None or start > best[0]) and not text[start : brace.start()].isspace():
                if start < brace.start():
                    best = (start, text[start : brace.start()])
    return best[1] if best else None


def _first_sentence(line: str) -> str:
    for end in _SENTENCE.finditer(line):
        if end[0] != "." or not _ABBREVIATION.search(line[max(0, end.start() - 5) : end.start()]):
            return line[: end.start()]
    return line


def _labelled(text: str) -> str | None:
    """What follows the last "answer is", "answer:" or "####": to the end of the sentence, or the next line if none."""
    for label in reversed(list(_LABEL.finditer(text))):
        start = label.end()
        while start < len(text) and text[start] in " \t\r\n*_":
            start += 1
        if _REFUSED.match(text, start):
            continue
        end = text.find("\n", start)
        value = _first_sentence(text[start : end if end >= 0 else len(text)])
        if value.strip(_EDGES):
            return value
    return None


def _last_number(text: str) -> str | None:
    """The last number, if it stands alone: not in a list, a range, a date, a time, a scale ("2 million") or a name."""
    words = text.split()
    for at in range(len(words) - 1, -1, -1):
        if not any(c.isdigit() for c in words[at]):
            continue
        number = _number(_tidy(words[at].strip("()[]")).rpartition("=")[2], units=True)
        before = words[max(0, at - 2) : at]
        after = words[at + 1] if at + 1 < len(words) else ""
        if before and (
            before[-1][-1:].isdigit()
            or before[-1].rstrip(",")[-1:].isdigit()
            or (len(before) == 2 and before[0].strip(",$*_")[-1:].isdigit() and before[1] in _JOINS)
        ):
            return None
        return None if _CHANGES_IT.match(after) and after.lower() not in _HARMLESS else number
    return None


_JOINS = frozenset(("and", "or", "to", "-", "\u2013", "&", "through", "/"))
_HARMLESS = frozenset(("and", "or", "to", "by", "times", "over", "out", "of"))


def _result(text: str) -> str | None:
    """X of the last line that ends in "= X", unless a later line brings another number: then it was a step."""
    lines = text.splitlines()
    for at in range(len(lines) - 1, -1, -1):
        left, equals, right = lines[at].rpartition("=")
        if equals and left.strip() and left[-1] not in "<>!:=" and (x := _number(_tidy(right), units=True)) is not None:
            return x
        if any(c.isdigit() for c in lines[at]):
            later = _last_number(lines[at])
            earlier = _result("\n".join(lines[:at])) if later is not None and at else None
            return earlier if earlier == later else None
    return None


# ---------------------------------------------------------------------------------------------------------- choices

_LETTER = re.compile(
    r"(?:(?:option|choice|letter)\s{1,3})?[(\[]?([A-Z])(?:[)\].:,]|\Z|\s{0,3}[-\u2013\u2014]|\s)", re.IGNORECASE
)
_MENTION = re.compile(
    r"(?<![\w(])\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)\s{1,3}\(?([A-Z])\b|\b([A-Z])\)? is (?:the )?(?:correct|right|best)"
)
_OPTION = re.compile(r"(?<![\w(])\(?([A-Z])\)(?=\s)|^[ \t>*-]{0,8}([A-Z])[.:](?=\s)", re.MULTILINE)


def _letter(raw: str) -> str | None:
    """The letter a marked answer starts with: "B", "(b)", "B. Paris", "option B". Not the article in "a car"."""
    bare = _unlatex(raw).strip(_EDGES + "()[]")
    match = _LETTER.match(bare)
    if match is None:
        return None
    letter, rest = match[1], bare[match.end() :]
    if match[0][-1:].isspace() and (
        letter.islower() or (letter in "AI" and not rest.startswith(("because", "is", "-")))
    ):
        return None
    return letter.upper()


def _choice(text: str) -> Extracted | None:
    for raw in (_boxed(text), _labelled(text)):
        if raw is not None and (letter := _letter(raw)):
            return Extracted(value=letter, form="choice")
    lines = text.strip().splitlines()
    for line in (lines[-1], lines[0]) if len(lines) > 1 else lines:
        if letter := _letter(line):
            return Extracted(value=letter, form="choice")
    named = {next(filter(None, groups)) for groups in _MENTION.findall(text)}
    if len(named) == 1:
        return Extracted(value=named.pop(), form="choice")
    return _read_marked(text)


# ------------------------------------------------------------------------------------------------------------- JSON


def _whole(digits: str) -> float | int:
    value = float(digits)
    return int(value) if isfinite(value) and value.is_integer() and abs(value) < 2**53 else value


def _reject(constant: str) -> Any:
    raise ValueError(constant)


def _canonical_json(text: str) -> str | None:
    try:
        value = json.loads(text, parse_float=_whole, parse_constant=_reject)
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


# -------------------------------------------------------------------------------------------------------- interface


def _read_marked(text: str) -> Extracted | None:
    if (raw := _boxed(text)) is not None and (value := _marked(raw)):
        return Extracted(value=value, form="boxed")
    if (raw := _labelled(text)) is not None and (value := _marked(raw)):
        return Extracted(value=value, form="labelled")
    return None


def extract(text: str, *, form: str | None = None) -> Extracted | None:
    """The answer a text gives, or None for an abstention."""
    text = text.rpartition("</think>")[2].strip()
    if not text or text.startswith("<think>"):
        return None
    fences = text.split("```")
    inner = [part.partition("\n")[2] if "\n" in part else part for part in fences[1::2]]
    if form == "json":
        value = _canonical_json(inner[0] if inner and not fences[0].strip() else text)
        return Extracted(value=value, form="json") if value is not None else None
    if form == "choice":
        return _choice(text)
    if form != "text":
        outside = "\n".join(fences[::2]) if inner else text
        if found := _read_marked(outside):
            return found
        if not inner:
            plain = _unlatex(text)
            if (value := _result(plain)) is not None:
                return Extracted(value=value, form="labelled")
            closing = plain if len(plain) <= SHORT else plain.rpartition("\n")[2]
            value = _last_number(closing) if len(plain) <= SHORT else _number(_tidy(closing), units=False)
            if value is not None:
                return Extracted(value=value, form="number")
    value = _plain(text)
    return Extracted(value=value, form="text") if value else None


def answer_of(candidate: Candidate, *, form: str | None) -> Extracted | None:
    """The answer of one candidate: its tool calls if it made any, else its text. A cut candidate abstains."""
    if not candidate.finished:
        return None
    if candidate.tool_calls:
        calls: list[dict[str, Any]] = []
        for call in candidate.tool_calls:
            function: Any = call.get("function")
            described = cast("Mapping[str, Any]", function) if isinstance(function, Mapping) else call
            arguments: Any = described.get("arguments")
            raw = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, default=str)
            value = _canonical_json(raw.strip() or "{}")
            calls.append(
                {"name": str(described.get("name")), **({"raw": raw} if value is None else {"arguments": value})}
            )
        return Extracted(value=json.dumps(calls, sort_keys=True), form="tool_calls")
    return extract(candidate.text, form=form)


def group(candidates: Iterable[Candidate], *, form: str | None) -> list[Group]:
    """Groups of equal answers: largest first, then the better best mean logprob, then the earlier draw."""
    members: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if answer := answer_of(candidate, form=form):
            members.setdefault(answer.value, []).append(candidate)
    groups = [Group(value=v, members=tuple(sorted(m, key=lambda c: c.index))) for v, m in members.items()]
    return sorted(groups, key=lambda g: (-len(g.members), -max(map(_mean, g.members)), g.members[0].index, g.value))


def _mean(candidate: Candidate) -> float:
    mean = candidate.logprobs.mean if candidate.logprobs is not None else float("-inf")
    return mean if mean == mean else float("-inf")


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            content: Any = message.get("content")
            if isinstance(content, str):
                return content
            parts = cast("Sequence[Any]", content) if isinstance(content, list | tuple) else ()
            texts = [cast("Mapping[str, Any]", part).get("text") for part in parts if isinstance(part, Mapping)]
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def expected_form(query: Query) -> str | None:
    """The form the client asked for."""
    response_format: Any = query.sampling.get("response_format")
    if isinstance(response_format, Mapping):
        kind: Any = cast("Mapping[str, Any]", response_format).get("type")
        if kind in ("json_object", "json_schema"):
            return "json"
    expected, last_end, question = ord("A"), 0, _question(query.messages)
    for option in _OPTION.finditer(question):
        letter = option[1] or option[2]
        if ord(letter) == expected and (
            letter == "A" or question[last_end : option.start()].strip(" ,;\n*") not in ("", "and", "or")
        ):
            if letter == "B":
                return "choice"
            expected, last_end = ord("B"), option.end()
    return None
