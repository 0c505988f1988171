"""One spelling an answer: what LaTeX, Markdown, white space and the order of a set's elements do not change."""

from __future__ import annotations

import re
import unicodedata

from strategies.answers.numbers import number

_SPACES_AND_SIGNS = str.maketrans("\u2212\ufe63\uff0d\u00a0\u202f\u2009", "---   ")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|boxed|fbox)\s?\{([^{}]*)\}"
)
_DIGITS = re.compile(r"\\frac\s?([0-9])\s?([0-9])")
_FRACTION = re.compile(r"\\frac\s?\{\s?([0-9.,]{1,40})\s?\}\s?\{\s?([0-9.,]{1,40})\s?\}")
_ALONE = re.compile(rf"{_FRACTION.pattern}(?!\s*(?:[A-Za-z(!]|\\(?!text|mathrm|[ )\],;:!}}])))")
_NOISE = re.compile(
    r"(?<!\\)\\[()\[\],;:! ]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|(?<!\\)\$|\^\{?\\circ\}?"
)
EDGES = " \t\r\n.,;:!?\"'`*_~#\u201c\u201d\u2018\u2019\u00ab\u00bb\u3002\uff0c"
_POSTFIX = re.compile(r"\s*[!']+")
_SYMBOL = re.compile(r"(?:[0-9)\]}]|(?<![^\W\d_])[^\W\d_]|\\[A-Za-z]{1,20})\Z")  # no word: "Paris!" is no factorial
WORD = re.compile(r"(?<!\\)(?<![a-z])[^\W\d_]{2}|[0-9] [0-9]")
_SPACE = re.compile(r"(\\[a-z]+) +(?=[a-z])| ")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_TIMES = re.compile(r"[0-9]\s?[A-Za-z]")
_LETTER = re.compile(r"[A-Za-z]")
_OPERATOR = re.compile(r"[-+*/^]|\\(?:cdot|times|div|pm)")
_NAME = re.compile(r"\\?[A-Za-z]\w*(?:_\{?\w+\}?)?'?(?:\([^()]{0,20}\))?")
_NAMES = re.compile(r"\([A-Za-z](?:, ?[A-Za-z])+\)")
_OPENING = re.compile(r"\\?\{|[(\[]")
_CLOSING = re.compile(r"(?:\\?\}|[)\]])\Z")
_LONGEST_LIST = 500  # characters
_BRACKETS = ("()", "(]", "[)", "[]", "{}")
_COMPOSED = 2000  # characters; a longer text is compared as it is


def unlatex(text: str, *, alone: bool = False) -> str:
    """Without what LaTeX only lays out, and fractions of numbers as 3/4; alone: if nothing is multiplied by them."""
    text = text.translate(_SPACES_AND_SIGNS).replace("{,}", ",")
    if "\\" in text:
        text = text.replace("\\$", "").replace("\\%", "%").replace("\\!", "")
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
        text = _DIGITS.sub(r"\\frac{\1}{\2}", text)
        text = (_ALONE if alone else _FRACTION).sub(lambda m: f" {m[1]}/{m[2]}", text)
        text = _WRAPPER.sub(r"\1", _WRAPPER.sub(r"\1", text))
    return _NOISE.sub("", text) if "\\" in text or "$" in text else text


def ends_as_maths(raw: str) -> bool:
    """Whether the last that a text says, its punctuation aside, is mathematics between LaTeX's delimiters."""
    return raw.rstrip(EDGES).endswith(("$", "\\)", "\\]"))


def operated(value: str) -> bool:
    """Whether a tidied text ends in a factorial or a prime: 5! is no spelling of 5."""
    return value.endswith(("!", "'"))


def tidy(text: str, *, maths: bool = False) -> str:
    """Without white space, quotes, punctuation and Markdown around it. A leading ".5" keeps its point.

    maths: "!" and "'" after a symbol are a factorial and a prime, not enthusiasm and a quote, and stay.
    """
    bare = text.strip(EDGES)
    if bare[:1].isdigit() and text.lstrip(EDGES.replace(".", "")).startswith("." + bare[:1]):
        bare = "." + bare
    if bare.startswith("- ") and not bare[2:3].isdigit():
        bare = bare[2:].strip(EDGES)
    if maths and (postfix := _postfix(text)):
        return bare + postfix
    if len(bare) > 2 and bare[0] + bare[-1] in ("()", "[]") and bare[1:-1].strip(" .-").isalnum():
        bare = bare[1:-1]
    return bare


def _postfix(text: str) -> str:
    """The "!" and "'" that follow a symbol at the end of a text. Not the second quote of a pair."""
    body = text.rstrip(EDGES)
    found = _POSTFIX.match(text, len(body))
    if found is None or not _SYMBOL.search(body[-30:]):
        return ""
    quoted = "'" in text[: len(text) - len(text.lstrip(EDGES))]
    return found[0].strip().rstrip("'" if quoted else "")


def plain(text: str, *, maths: bool = False) -> str:
    folded = " ".join(tidy(text, maths=maths).split()).casefold()
    # composing is quadratic in a run of combining marks: 20,000 of them cost 0.6 s
    return folded if len(folded) > _COMPOSED else unicodedata.normalize("NFC", folded)


def is_equation(left: str) -> bool:
    """Whether a left side says something about unknowns, as in "2x - y = 1". "x", "f(2)", "2 * 6" and words do not:
    what stands right of them is their value."""
    if WORD.search(left.casefold()) or _NAME.fullmatch(left.strip()):
        return False
    bare = _COMMAND.sub(" ", left)
    return bool(_TIMES.search(bare) or (_LETTER.search(bare) and _OPERATOR.search(left)))


def elements(text: str) -> tuple[str, list[str], str] | None:
    """The brackets of a set, tuple or interval, and what commas part in them. None if the text is none of these.

    Braces with and without a backslash are a set's. One pass.
    """
    if len(text) > _LONGEST_LIST:
        return None
    opening, closing = _OPENING.match(text), _CLOSING.search(text)
    if opening is None or closing is None or opening.end() > closing.start():
        return None
    parts = split(text[opening.end() : closing.start()], ",")
    brackets = opening[0][-1] + closing[0][-1]
    if parts is None or len(parts) < 2 or brackets not in _BRACKETS:
        return None
    return brackets[0], parts, brackets[1]


def split(text: str, separator: str) -> list[str] | None:
    """What a separator parts outside all brackets. None if the brackets do not match."""
    parts, depth, start = list[str](), 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at])
            start = at + len(separator)
    return [*parts, text[start:]] if depth == 0 else None


def _listed(text: str) -> str:
    """A tuple or an interval with its numbers in canonical spelling; a set's elements in order too, each once."""
    found = elements(text)
    if found is None or WORD.search(text):
        return text
    opening, parts, closing = found
    parts = [number(part.strip(), units=False) or part.strip() for part in parts]
    if opening == "{":
        return f"\\{{{','.join(sorted(set(parts)))}\\}}"
    return f"{opening}{','.join(parts)}{closing}"


def marked(raw: str, *, boxed: bool = False) -> str:
    """The canonical value of what was marked as the answer: a number, or the text. "" if nothing is left of it."""
    maths = boxed or ends_as_maths(raw)
    raw = raw if boxed else raw.rstrip(EDGES)  # what follows the delimiters is prose again
    bare = _value(tidy(unlatex(raw), maths=maths))
    if not operated(bare) and (found := number(bare)):
        return found
    # A fraction before a letter stays as it is: 1/2x could be either half of x or one by 2x.
    value = plain(_value(tidy(unlatex(raw, alone=True), maths=maths)), maths=maths)
    # Between symbols spaces mean nothing: (3, 4) is (3,4), x + 1 is x+1. But \\pi r is not \\pir.
    return value if WORD.search(value) else _listed(_SPACE.sub(lambda m: f"{m[1]} " if m[1] else "", value))


def _value(text: str) -> str:
    """X of "name = X" and of "2 * 6 = X"."""
    left, equals, right = text.partition("=")
    if not equals or "=" in right or left.rstrip()[-1:] in ("<", ">", "!", ":"):
        return text
    named = left.strip().isidentifier() or _NAMES.fullmatch(left.strip())
    calculated = "," not in left and number(right.strip()) and not is_equation(left)
    return right.strip() if named or calculated else text
