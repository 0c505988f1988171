"""Read the answer out of a generation and group the generations that agree. Pure, linear in the text, never raises.

Missing that two answers agree costs a vote some of its power; merging two that differ invents a majority that does not
exist. So what is marked as the answer (boxed, labelled) is read generously, and unmarked prose hardly at all.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from strategies.types import Candidate, Query

SHORT = 200  # characters: unmarked text up to here may be read as its last number
_DIGITS = 40  # longer numbers are compared as strings of digits, never calculated with
_TRIED = 8  # labels looked at, from the last one back
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s?[$€£¥₹]?\s?(?P<sign2>[+-]?)(?:(?P<whole>[0-9]{1,9})\s{1,3}(?=[0-9]{1,9}/[0-9]{1,9}(?![0-9.,e])))?"
    rf"(?P<top>{_UNSIGNED})(?:[eE](?P<exponent>[+-]?[0-9]+))?(?:\s?/\s?(?P<bottom>{_UNSIGNED}))?"
    r"(?:\s?(?P<percent>%|percent\b))?(?:\s?[€£¥₹])?"
)
# A unit after a number is dropped. These are no units: they change the value, or say that there is more than one.
_SCALE = re.compile(
    r"(?i)(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore|k|[mb]n|[ap]m|[ap]\.m|bce?|ad|ce|st|nd|rd|th)\b"
)
_OPERATOR = re.compile(
    r"(?i)(?:and|or|to|by|times|plus|minus|over|out|squared|cubed|factorial|base|mod|modulo|pi|sqrt|root|sin|cos|tan|log|ln"
    r"|exp|[bceinxyz])\b"
)
_ATTACHED = re.compile(r"(?i)(?:[kcm]g|[kcm]m|[mc]l|kmh?|ft|lbs?|oz|hrs?|mins?|secs?|ms|mph|usd|eur|deg)\b")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])(?:\^?\{?[23]\}?|[²³])(?![0-9])")
_SPACES_AND_SIGNS = str.maketrans("\u2212\ufe63\uff0d\u00a0\u202f\u2009", "---   ")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|boxed|fbox)\s?\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\frac\s?(?:\{\s?([0-9.,]{1,40})\s?\}\s?\{\s?([0-9.,]{1,40})\s?\}|([0-9])([0-9]))")
_NOISE = re.compile(r"\\[()\[\],;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|(?<!\\)\$|\^\{?\\circ\}?")
_EDGES = " \t\r\n.,;:!?\"'`*_~#\u201c\u201d\u2018\u2019\u00ab\u00bb\u3002\uff0c"
_WORD = re.compile(r"(?<!\\)(?<![a-z])[^\W\d_]{2}|[0-9] [0-9]")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s?\{|\\[{}]|[{}]")
_LABEL = re.compile(
    r"(?im)^[ \t#*_]{0,8}(?:the[ ])?(?:final[ ]|correct[ ])?answer[ \t*_]{0,6}(?=\n)|####(?!#)"
    r"|\banswers?\b(?:[ ](?:to|for|of)[ ][^.\n:=]{1,80}?)?(?:[ ]\([^()\n]{1,40}\))?[*_]{0,3}[ \t]{0,3}"
    r"(?:(?:is|are|was|equals)\b[ \t]{0,3}[:=]?|[:=\uff1a])"
)
_VALUE = re.compile(r"(?i)[\s*_]*+(?!(?:not|never|neither|in the form|the following)\b)([^\n]+)")
_SENTENCE = re.compile(r"(?i)\.(?=\s)|(?<![0-9])[!?](?=\s)|,?[ ]because\b|,[ ](?:since|as|which|so)\b")
_ABBREVIATION = re.compile(r"(?:\b[A-Za-z]|\b(?:Mr|Mrs|Ms|Dr|St|Mt|vs|No))\Z")
_JOINS = frozenset(("and", "or", "to", "-", "\u2013", "&", "through", "/", "x", "*", "+"))
_LISTED = re.compile(r"^[ \t]{0,8}[0-9]{1,3}[.)]\s", re.MULTILINE)
_LETTER = re.compile(
    r"(?i)(?:(?:option|choice|letter)\s{1,3})?[(\[]?([A-Z])(?:[)\].:,]|\Z|\s{1,3}[-\u2013\u2014]|(?P<word>\s))"
)
_SEVERAL = re.compile(r"[)\]]?\s{0,3}(?:,\s{0,3}|&|/|(?:,\s)?(?:and|or)\b)\s{0,3}[(\[]?[A-Z](?:[)\].,\s]|\Z)")
_MENTION = re.compile(
    r"(?<![\w(])\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)\s{1,3}\(?([A-Z])\b"
    r"|\b([A-Z])\)? is (?:the )?(?:correct|right|best)"
)
_OPTION = re.compile(r"(?<![\w(])\(?([A-Z])\)\*{0,2}(?=\s)|^[ \t>*-]{0,8}([A-Z])\.\*{0,2}(?=\s)", re.MULTILINE)


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


def _trim(digits: str) -> str:
    """A decimal without thousands separators, leading zeros and trailing zeros of the fraction."""
    whole, _, part = digits.replace(",", "").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _spell(value: Fraction) -> str:
    """One spelling a value: 5, 3/4, 1/3, 12.99. A ratio of small numbers and what never ends stay fractions."""
    top, bottom = abs(value.numerator), value.denominator
    twos = (bottom & -bottom).bit_length() - 1
    rest, fives = bottom >> twos, 0
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if bottom == 1 or rest != 1 or max(top, bottom) <= 10:
        return str(value)
    places = max(twos, fives)
    digits = str(top * 10**places // bottom).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _canonical(match: re.Match[str]) -> str | None:
    """The one spelling of a number. Exponents and digits are bounded before anything is calculated."""
    negative = (match["sign"] == "-") != (match["sign2"] == "-")
    top, bottom, exponent = _trim(match["top"]), _trim(match["bottom"] or "1"), match["exponent"] or "0"
    power = exponent.lstrip("+-").lstrip("0") or "0"
    percent = "%" if match["percent"] else ""
    if bottom == "0":
        return None
    if top == "0" and not match["whole"]:
        return f"0{percent}"
    if max(len(top), len(bottom)) > _DIGITS or len(power) > 2 or int(power) > _DIGITS:
        scale = "" if power == "0" else f"e{'-' if exponent[0] == '-' else ''}{power}"
        return f"{'-' if negative else ''}{top}{scale}{'' if bottom == '1' else '/' + bottom}{percent}"
    scaled = Fraction(top) * Fraction(10) ** (-int(power) if exponent[0] == "-" else int(power))
    value = scaled / Fraction(bottom) + int(match["whole"] or 0)
    return _spell(-value if negative else value) + percent


def _number(text: str, *, units: bool = True) -> str | None:
    """The canonical number if that is all the text says: "-$1,234.50", "1 1/2", and with units "12 apples", "5 m^2"."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    rest = text[match.end() :].lstrip("*_")
    if bare := rest.strip(" .,;:!?"):
        if not (units and (rest[0] in " (,;°" or _ATTACHED.match(rest))) or _SCALE.match(bare) or _OPERATOR.match(bare):
            return None
        more = any(c.isdigit() or c in "+=<>*" for c in _UNIT_POWER.sub("", bare))
        if bare[0] != "(" and (more or not (bare[0].isalpha() or bare[0] == "°")):
            return None
    return _canonical(match)


def _unlatex(text: str) -> str:
    text = text.translate(_SPACES_AND_SIGNS).replace("{,}", ",")
    if "\\" in text:
        text = text.replace("\\$", "").replace("\\%", "%").replace("\\!", "")
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
    """The canonical value of what was marked as the answer: a number, or the text. "" if nothing is left of it."""
    bare = _tidy(_unlatex(raw))
    left, equals, right = bare.partition("=")
    if equals and "=" not in right and left.rstrip()[-1:] not in ("<", ">", "!", ":") and "," not in left:
        bare = right.strip() if left.strip().isidentifier() or _number(right.strip()) else bare
    if number := _number(bare):
        return number
    value = _plain(bare)
    # Between symbols spaces mean nothing: (3, 4) is (3,4), x + 1 is x+1.
    return value if _WORD.search(value) else value.replace(" ", "")


def _boxed(text: str) -> str | None:
    """The content of the last box that is closed and not blank. One pass, so boxes left open cost nothing extra."""
    opened: list[tuple[int, bool]] = []
    start, end = -1, -1
    for brace in _BRACE.finditer(text):
        if brace[0] == "}" and opened:
            inside, is_box = opened.pop()
            if is_box and inside > start and text[inside : brace.start()].strip():
                start, end = inside, brace.start()
        elif brace[0][-1] == "{" and brace[0] != "\\{":
            opened.append((brace.end(), len(brace[0]) > 1))
    return text[start:end] if start >= 0 else None


def _first_sentence(line: str) -> str:
    for end in _SENTENCE.finditer(line):
        if end[0] != "." or not _ABBREVIATION.search(line[max(0, end.start() - 5) : end.start()]):
            return line[: end.start()]
    return line


def _labelled(text: str) -> str | None:
    """What follows the last "answer is", "answer:" or "####": to the end of the sentence, or the next line if none."""
    for label in list(_LABEL.finditer(text))[: -_TRIED - 1 : -1]:
        value = _VALUE.match(text, label.end())
        if value and (sentence := _first_sentence(value[1])).strip(_EDGES):
            return sentence
    return None


def _last_number(text: str) -> str | None:
    """The last number, if it stands alone: not in a list, range, date, time, name or scale ("2 million")."""
    words = text.split()
    at = next((i for i in range(len(words) - 1, -1, -1) if any(c.isdigit() for c in words[i])), -1)
    if at < 0 or "://" in words[at] or _LISTED.search(text):
        return None
    before = [bare for word in words[max(0, at - 2) : at] if (bare := word.strip(",;$*_()"))]
    if before and before[-1] in _JOINS:
        before.pop()
    after = words[at + 1] if at + 1 < len(words) else ""
    if (before and before[-1][-1:].isdigit()) or _SCALE.match(after):
        return None
    percent = "%" if after.strip(_EDGES) == "percent" else ""
    return _number(_tidy(words[at].strip("()[]")).rpartition("=")[2] + percent)


def _result(text: str) -> str | None:
    """X of a line near the end that ends in "= X", unless a later line brings another number."""
    later, after = None, 0
    for line in reversed(text.splitlines()):
        if any(c.isdigit() for c in line):
            left, equals, right = line.rpartition("=")
            number = _number(_tidy(right)) if equals else None
            if number is not None and left.strip() and left[-1] not in "<>!:=" and "://" not in left:
                return number if later in (None, number) else None
            number = _last_number(line)
            if number is None or later not in (None, number):
                return None
            later = number
        after += len(line)
        if after > SHORT:
            return None
    return None


def _letter(raw: str, *, marked: bool) -> str | None:
    """The letter an answer starts with: "B", "(b)", "B. Paris", "option B". Not the article in "A car"."""
    bare = _unlatex(raw).strip(_EDGES + "()[]-")
    match = _LETTER.match(bare)
    if match is None or _SEVERAL.match(bare, match.end(1)):
        return None
    letter, rest = match[1], bare[match.end() :]
    plain = letter.isupper() or match.end() == len(bare) or match[0][-1] == ")"
    article = match["word"] and not (marked and (letter not in "AI" or rest.startswith(("because", "is", "since"))))
    return letter.upper() if plain and not article else None


def _choice(text: str) -> Extracted | None:
    """Boxed, then labelled, then the last line's bare letter, then the only letter that starts a line or is named."""
    marked = [raw for raw in (_boxed(text), _labelled(text)) if raw is not None]
    lines = text.splitlines()
    found = {letter for raw in marked[:1] if (letter := _letter(raw, marked=True))}
    if not marked:
        last = lines[-1].strip(_EDGES + "()[]")
        led = {letter for line in lines if (letter := _letter(line, marked=False))}
        named: set[str] = {m[1] or m[2] or m[3] for m in _MENTION.finditer(text)}
        found = next((letters for letters in (led & {last}, led, named) if len(letters) == 1), found)
    return Extracted(value=found.pop(), form="choice") if found else _read_marked(text)


def _whole(digits: str) -> float | int:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _canonical_json(text: str) -> str | None:
    try:
        value = json.loads(text, parse_float=_whole)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _read_marked(text: str) -> Extracted | None:
    if (raw := _boxed(text)) is not None and (value := _marked(raw)):
        return Extracted(value=value, form="boxed")
    if (raw := _labelled(text)) is not None and (value := _marked(raw)):
        return Extracted(value=value, form="labelled")
    return None


def extract(text: str, *, form: str | None = None) -> Extracted | None:
    """The answer a text gives, in canonical spelling. None is an abstention.

    A reasoning block (up to "</think>") is skipped. Then, the first that is there:

    1. the form asked for. "json": sorted keys, 1.0 as 1, Markdown fence allowed, invalid abstains. "choice": the
       letter; a marked answer without one counts by its value, anything else abstains. "text": rule 6 alone.
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
    if form == "json":
        fenced = text.startswith("```") and text.endswith("```")
        value = _canonical_json(text[3:-3].partition("\n")[2] if fenced else text)
        return Extracted(value=value, form="json") if value is not None else None
    if form == "choice":
        return _choice(text)
    if form != "text":
        parts = text.split("```")
        blocks = [part.partition("\n")[2] if "\n" in part else part for part in parts[1::2]]
        parts[1::2] = [block if "\n" not in block.strip() else "" for block in blocks]
        has_code = any("\n" in block.strip() for block in blocks)
        outside = "".join(parts).strip()
        if found := _read_marked(outside):
            return found
        if not has_code:
            bare = _unlatex(outside)
            if value := _result(bare):
                return Extracted(value=value, form="labelled")
            last_line = _number(_tidy(bare.rpartition("\n")[2]), units=False)
            if value := (_number(_tidy(bare)) or _last_number(bare)) if len(bare) <= SHORT else last_line:
                return Extracted(value=value, form="number")
    value = _plain(text if len(text) > SHORT else _unlatex(text))
    return Extracted(value=value, form="text") if value else None


def answer_of(candidate: Candidate, *, form: str | None) -> Extracted | None:
    """One candidate's answer: its tool calls in order if it made any, else its text. A cut candidate abstains.

    Calls are equal if their names and arguments, as JSON values, are. Arguments that are not JSON count as written.
    """
    if not candidate.finished:
        return None
    if not candidate.tool_calls:
        return extract(candidate.text, form=form)
    calls: list[dict[str, Any]] = []
    for call in candidate.tool_calls:
        function: Any = call.get("function")
        described = cast("Mapping[str, Any]", function) if isinstance(function, Mapping) else call
        arguments: Any = described.get("arguments")
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, default=str)
        value = _canonical_json(raw.strip() or "{}")
        calls.append({"name": described.get("name"), "arguments" if value is not None else "raw": value or raw})
    return Extracted(value=json.dumps(calls, sort_keys=True, default=str), form="tool_calls")


def group(read: Iterable[tuple[Candidate, Extracted | None]]) -> list[Group]:
    """Candidates with equal answers: the largest group first, then the better best mean logprob, then the earlier draw.

    read: candidates with what `answer_of` found in them; their order makes no difference. None is in no group.
    """
    members: dict[str, list[Candidate]] = {}
    for candidate, answer in sorted(read, key=lambda pair: pair[0].index):
        if answer is not None:
            members.setdefault(answer.value, []).append(candidate)
    groups = [Group(value=value, members=tuple(equal)) for value, equal in members.items()]
    return sorted(groups, key=_rank)


def _rank(equal: Group) -> tuple[int, float, int]:
    means = [c.logprobs.mean for c in equal.members if c.logprobs is not None]
    return -len(equal.members), -max(means, default=float("-inf")), equal.members[0].index


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    content: Any = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), "")
    if not isinstance(content, list | tuple):
        return content if isinstance(content, str) else ""
    parts = [cast("Mapping[str, Any]", part) for part in cast("Sequence[Any]", content) if isinstance(part, Mapping)]
    return "\n".join(text for part in parts if isinstance(text := part.get("text"), str))


def expected_form(query: Query) -> str | None:
    """The form the client asked for: "json" by response_format, "choice" by lettered options in the last user message.

    Options are "A) ... B) ..." or "(A) ... (B) ..." anywhere, or "A. ..." and "B. ..." at the start of lines. Tools on
    offer say nothing: whether a candidate called one is seen from the candidate.
    """
    wanted: Any = query.sampling.get("response_format")
    if isinstance(wanted, Mapping) and cast("Any", wanted).get("type") in ("json_object", "json_schema"):
        return "json"
    question, after_a = _question(query.messages), -1
    for option in _OPTION.finditer(question):
        letter = option[1] or option[2]
        if letter == "A" and after_a < 0:
            after_a = option.end()
        elif letter == "B" and after_a >= 0:
            # "points (A) and (B)" offers nothing to choose
            return None if question[after_a : option.start()].strip(" ,;*") in ("", "and", "or", "to") else "choice"
    return None
