"""Where in a text the answer stands: boxed, labelled, the last number, a letter, code, JSON, the client's pattern."""

from __future__ import annotations

import json
import re

from strategies.answers.numbers import SCALE, number
from strategies.answers.spelling import EDGES, is_equation, tidy, unlatex

SHORT = 200  # characters: unmarked text up to here may be read as its last number
_TRIED = 8  # labels looked at, from the last one back
_BRACE = re.compile(r"\\(?:boxed|fbox)\s?\{|\\[{}]|[{}]")
_LABEL = re.compile(
    r"(?im)^[ \t#*_]{0,8}(?:the[ ])?(?:final[ ]|correct[ ])?answer[ \t*_]{0,6}(?=\n)|####(?!#)"
    r"|\banswers?\b(?:[ ](?:to|for|of)[ ][^.\n:=]{1,80}?)?(?:[ ]\([^()\n]{1,40}\))?[*_]{0,3}[ \t]{0,3}"
    r"(?:(?:is|are|was|equals)\b[ \t]{0,3}[:=]?|[:=\uff1a])"
)
_VALUE = re.compile(r"(?i)[\s*_]*+(?!(?:not|never|neither|in the form|the following)\b)([^\n]+)")
# Between delimiters nothing ends a sentence: $n! + 1$. Money has none: "$12. That makes $3 each."
_SENTENCE = re.compile(
    r"(?i)(?P<maths>\$(?=[^\s$])[^$\n]*+(?<=\S)\$(?![0-9])|\\\([^\n]{0,200}?\\\))"
    r"|\.(?=\s)|(?<![0-9])[!?](?=\s)|[!?](?=\s(?-i:[A-Z])[a-z])|,?[ ]because\b|,[ ](?:since|as|which|so)\b"
)
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
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})([^`]*)\Z")


def boxed(text: str) -> str | None:
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
        before = line[max(0, end.start() - 5) : end.start()]
        if not end["maths"] and (end[0] != "." or not _ABBREVIATION.search(before)):
            return line[: end.start()]
    return line


def labelled(text: str) -> str | None:
    """What follows the last "answer is", "answer:" or "####": to the end of the sentence, or the next line if none."""
    for label in list(_LABEL.finditer(text))[: -_TRIED - 1 : -1]:
        value = _VALUE.match(text, label.end())
        if value and (sentence := _first_sentence(value[1])).strip(EDGES):
            return sentence
    return None


def last_number(text: str) -> str | None:
    """The last number, if it stands alone: not in a list, range, date, time, name or scale ("2 million")."""
    words = text.split()
    at = next((i for i in range(len(words) - 1, -1, -1) if any(c.isdigit() for c in words[i])), -1)
    if at < 0 or "://" in words[at] or _LISTED.search(text):
        return None
    before = [bare for word in words[max(0, at - 2) : at] if (bare := word.strip(",;$*_()"))]
    if before and before[-1] in _JOINS:
        before.pop()
    after = words[at + 1] if at + 1 < len(words) else ""
    if (before and before[-1][-1:].isdigit()) or SCALE.match(after):
        return None
    percent = "%" if after.strip(EDGES) == "percent" else ""
    return number(tidy(words[at].strip("()[]")).rpartition("=")[2] + percent)


def result(text: str) -> str | None:
    """X of a line near the end that ends in "= X", unless a later line brings another number."""
    later, after = None, 0
    for line in reversed(text.splitlines()):
        if any(c.isdigit() for c in line):
            left, equals, right = line.rpartition("=")
            found = number(tidy(right)) if equals else None
            if found is not None and left.strip() and left[-1] not in "<>!:=" and "://" not in left:
                return found if later in (None, found) and not is_equation(left) else None
            found = last_number(line)
            if found is None or later not in (None, found):
                return None
            later = found
        after += len(line)
        if after > SHORT:
            return None
    return None


def _letter(raw: str, *, marked: bool) -> str | None:
    """The letter an answer starts with: "B", "(b)", "B. Paris", "option B". Not the article in "A car"."""
    bare = unlatex(raw).strip(EDGES + "()[]-")
    match = _LETTER.match(bare)
    if match is None or _SEVERAL.match(bare, match.end(1)):
        return None
    letter, rest = match[1], bare[match.end() :]
    plain = letter.isupper() or match.end() == len(bare) or match[0][-1] == ")"
    article = match["word"] and not (marked and (letter not in "AI" or rest.startswith(("because", "is", "since"))))
    return letter.upper() if plain and not article else None


def choice(text: str) -> str | None:
    """Boxed, then labelled, then the last line's bare letter, then the only letter that starts a line or is named."""
    marked = [raw for raw in (boxed(text), labelled(text)) if raw is not None]
    if marked:
        return _letter(marked[0], marked=True)
    lines = text.splitlines()
    last = lines[-1].strip(EDGES + "()[]")
    led = {letter for line in lines if (letter := _letter(line, marked=False))}
    named: set[str] = {m[1] or m[2] or m[3] for m in _MENTION.finditer(text)}
    return next((letters.pop() for letters in (led & {last}, led, named) if len(letters) == 1), None)


def whole(digits: str) -> float | int:
    value = float(digits)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def canonical_json(text: str) -> str | None:
    try:
        value = json.loads(text, parse_float=whole)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError):
        return None


def code(text: str) -> str | None:
    """The last fenced block, without its language, the blank lines around it and white space at the ends of lines.

    A block that was left open holds to the end of the text. Indentation stays: in some languages it means something.
    """
    last, fence, lines = None, "", list[str]()
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if not fence and mark:
            fence, lines = mark[1], []
        elif fence and mark and mark[1].startswith(fence) and not mark[2].strip():
            last, fence = _lines(lines) or last, ""
        elif fence:
            lines.append(line)
    return (_lines(lines) if fence else None) or last


def _lines(lines: list[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip("\n")
