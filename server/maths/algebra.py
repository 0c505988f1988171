"""Whether two pieces of LaTeX are equal: read by math-verify's grammar, decided exactly by SymPy.

Nothing is rounded. math-verify's own comparison is not used: it takes two numbers below 10^-15 for equal, and chains
of equations for their last value. Nor is its search for answers in a text, which reads a part of what it cannot read
as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from strategies.answers.spelling import elements, split

Same = Callable[[str, str], bool]

# What the grammar reads without its meaning: derivatives as powers or not at all, 2x \approx 3 as 3,
# x \equiv 1 \mod 3 as x=1, 1.2.3 as 0.36.
_LOOSE = re.compile(
    r"'|\\prime|[a-z]\s?\^\s?\{?\([^()]*\)\}?\s?\(|\\p?mod(?![a-z])|\\(?:approx|equiv|cong|sim)|\.[0-9]*\."
)
_MIXED = re.compile(r"\\(?:setminus|cap)(?![a-z]).*\\cup|\\cup.*\\(?:setminus|cap)(?![a-z])")  # which is first?
_POWER = re.compile(r"\^\s?\(([^()]*)\)")
_FRACTION = re.compile(r"\\frac ?([0-9a-z]) ?([0-9a-z])")
_IMAGINARY = re.compile(r"(?<![a-z])i(?![a-z])")


def algebra() -> Same:
    """Whether two scalars, relations, matrices or named sets are equal. Raises ImportError without math-verify."""
    sympy: Any = import_module("sympy")  # neither is completely typed
    grammar: Any = import_module("latex2sympy2_extended")
    strict = (sympy.StrictLessThan, sympy.StrictGreaterThan)
    conjunction: Any = import_module("latex2sympy2_extended.logic").And

    @lru_cache(maxsize=512)
    def read(text: str) -> Any:
        if _LOOSE.search(text) or _MIXED.search(text):
            return None
        text = _FRACTION.sub(r"\\frac{\1}{\2}", _POWER.sub(r"^{\1}", text))
        real = not _IMAGINARY.search(text)
        return grammar.latex2sympy(text, is_real=real, convert_degrees=False, normalization_config=None)

    def exact(value: Any) -> Any:
        value = value.doit()
        return value.xreplace({each: sympy.Rational(str(each)) for each in value.atoms(sympy.Float)})

    def vanishes(difference: Any) -> bool:
        if difference.free_symbols:
            difference = sympy.simplify(difference)
        if difference.is_zero is not None or difference.free_symbols:
            return bool(difference.is_zero)
        digits = difference.evalf(2)  # a hundred are tried, and a precision of 1 says that all were zero
        return bool(digits.is_Float and digits._prec == 1)

    def equal_values(one: Any, other: Any) -> bool:
        one, other = exact(one), exact(other)
        if one.has(sympy.nan, sympy.zoo) or other.has(sympy.nan, sympy.zoo):
            return False
        if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
            alike = isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase)
            return alike and one.shape == other.shape and all(map(equal_values, one.flat(), other.flat()))
        if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
            return matched(one.args, other.args, equal_values)
        if isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr):
            return one == other or vanishes(one - other)
        return isinstance(one, sympy.Set) and one == other  # but every relation that holds is the same "true"

    def ratio(one: Any, other: Any) -> Any:
        """Of two relations' left sides minus their right sides; not of solutions: x^2=-1 and x^2=-2 both have none."""
        return sympy.simplify((exact(one[0]) - exact(one[1])) / (exact(other[0]) - exact(other[1])))

    def related(one: Any, other: Any) -> bool:
        if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq):
            quotient = ratio((one.lhs, one.rhs), (other.lhs, other.rhs))
            return bool(quotient.is_number and quotient.is_finite and quotient.is_nonzero)
        if not hasattr(one, "gts") or not hasattr(other, "gts") or isinstance(one, strict) != isinstance(other, strict):
            return False
        return bool(ratio((one.gts, one.lts), (other.gts, other.lts)).is_positive)

    def relations(value: Any) -> Sequence[Any]:
        """Of a chain such as 1<x<5 both, in their order."""
        parts = value._unsorted_args if isinstance(value, conjunction) else [value]
        return parts if all(isinstance(part, sympy.core.relational.Relational) for part in parts) else []

    def same(one: str, other: str) -> bool:
        left, right = read(one), read(other)
        if left is None or right is None:
            return False
        ours, theirs = relations(left), relations(right)
        if ours or theirs:
            return len(ours) == len(theirs) and all(map(related, ours, theirs))
        return equal_values(left, right)

    return same


def equal(one: str, other: str, same: Same) -> bool:
    """Compares sets, tuples, intervals and unions element by element, and asks `same` for what is in them.

    By hand, because the grammar reads (1,2) as an interval, and every interval that ends before it begins as empty.
    """
    if one == other:
        return True
    left, right = _parts(one), _parts(other)
    if left is None or right is None:
        return left is None and right is None and same(one, other)
    kind, ours = left
    if right[0] != kind or len(right[1]) != len(ours):
        return False
    if kind not in ("{}", "\\cup"):
        return all(equal(a, b, same) for a, b in zip(ours, right[1], strict=True))
    return matched(ours, right[1], lambda a, b: equal(a, b, same))


def matched(ours: Sequence[Any], theirs: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Whether each has one of its own among the others."""
    left = list(theirs)
    for part in ours:
        match = next((at for at, candidate in enumerate(left) if same(part, candidate)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _parts(text: str) -> tuple[str, Sequence[str]] | None:
    if "\\cup" in text and not _MIXED.search(text) and len(union := split(text, "\\cup") or ()) > 1:
        return "\\cup", [part.strip() for part in union]
    if (listed := elements(text.strip())) is None:
        return None
    opening, parts, closing = listed
    return opening + closing, [part.strip() for part in parts]
