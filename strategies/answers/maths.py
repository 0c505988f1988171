"""Which answers are mathematics, and which two of them could be equal though they are spelled differently.

Only what passes here is worth the algebra. A refusal is cheap and safe: the two answers count as different.
"""

from __future__ import annotations

import re
from functools import lru_cache

from strategies.answers.numbers import number
from strategies.answers.spelling import WORD, elements, split

LONGEST = 200  # characters
_ELEMENTS = 16  # of a set or tuple
_TYPED = {
    "√": "\\sqrt", "π": "\\pi ", "\u00d7": "\\cdot ", "·": "\\cdot ", "÷": "/", "∞": "\\infty ", "\u222a": "\\cup ",
    "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "²": "^2", "³": "^3", "±": "\\pm ", "θ": "\\theta ", "**": "^",
}  # fmt: skip
_FUNCTION = re.compile(r"(?<![\\a-z])(sqrt|sin|cos|tan|log|ln|pi|infty)(?![a-z])")
_ROOT = re.compile(r"\\sqrt\s?(?:\(([^()]*)\)|([0-9]+|[a-z](?![a-z])))")
_BLACKBOARD = re.compile(r"\\mathbb\{([a-z])\}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]{1,9}\}|\\[a-zA-Z]+")
_RELATION = re.compile(r"[=<>]|\\(?:le|leq|ge|geq|lt|gt|ne|neq)(?![a-z])")
# Units, money, a derivative, a base ("101_2"), a grammar's own signs, and what reads in two ways: 1/2x, 2\frac{1}{2}x.
_DOUBTFUL = re.compile(r"[%$°;:?!&#@|]{2}|[%$°;:?#@\"']|[0-9]_|[0-9]/[0-9]+\s?[\\a-z(!]|[0-9]\s?\\frac|\\in(?![a-z])")


@lru_cache(maxsize=1024)
def latex(value: str) -> str | None:
    """A canonical value as LaTeX for the algebra, None if it is no mathematics or too long."""
    if len(value) > LONGEST:
        return None
    text = value
    for typed, command in _TYPED.items():
        text = text.replace(typed, command)
    text = _FUNCTION.sub(r"\\\1 ", text)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    text = _BLACKBOARD.sub(lambda m: f"\\mathbb{{{m[1].upper()}}}", text)
    bare = _COMMAND.sub(" ", text)
    if _DOUBTFUL.search(text) or any(WORD.search(part) for part in bare.split()) or not bare.isascii():
        return None
    return text if _shape(text) is not None else None


def _shape(text: str) -> str | None:
    """Answers of different shapes are different: (1,2) is not {1,2}, x=3 is no number. None: a bare list, or broken."""
    whole = split(text, ",")
    if whole is None or len(whole) > 1:
        return None  # "2,3" may be two solutions in any order, or a pair in its own
    if _RELATION.search(text):
        return "relation"
    if "\\cup" in text:
        return "union"
    listed = elements(text)
    if listed is None:
        return "scalar"
    opening, parts, closing = listed
    return f"{opening}{len(parts)}{closing}" if len(parts) <= _ELEMENTS else None


def comparable(one: str, other: str) -> bool:
    """Whether two canonical values that differ are worth the algebra. Symmetric."""
    left, right = latex(one), latex(other)
    if left is None or right is None or (_numeric(one) and _numeric(other)):
        return False
    return _shape(left) == _shape(right) and _unknowns(left) == _unknowns(right)


def _numeric(value: str) -> bool:
    """A number or a list of numbers: their canonical spelling says all."""
    listed = elements(value)
    return all(number(part, units=False) for part in (listed[1] if listed is not None else [value]))


def _unknowns(text: str) -> set[str]:
    return set(re.findall(r"[a-z]", _COMMAND.sub(" ", text)))
