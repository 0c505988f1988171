"""Whether a JSON value fits a JSON Schema that came from outside, at a bounded price.

jsonschema does the work, without what a hostile schema could use: nothing is fetched ($ref points into the schema
itself), patterns are RE2's (`strategies.answers.pattern`) instead of `re`'s, which can backtrack for ever, and a check
ends after a number of steps. Python's jsonschema and not a compiled one, because it can be stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property, lru_cache
from typing import Any, cast

import referencing
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from strategies.answers.pattern import compiled
from strategies.answers.reading import whole

STEPS = 3000  # of one check: 3 to 10 ms were measured, 20 for a schema made for it
_NODES = 5000  # values in a schema
_DEEPEST = 64  # levels of a schema
_LONGEST = 4096  # characters of a text that a pattern is searched in
# Their meaning depends on what other keywords have looked at, at a price that is hard to bound; $dynamicRef likewise.
_UNBOUNDED = frozenset({"unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"})

# Keywords that look at every member of what they check, and those that hardly look at the members of their own value.
_EACH = frozenset(
    {
        "items",
        "additionalItems",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "contains",
        "uniqueItems",
    }
)
_QUICK = frozenset({"properties", "required", "enum"})
_MEMBERS = 32  # of those, for one step

_jsonschema: Any = validators  # their types are partial
_referencing: Any = referencing
_NOTHING: Any = _referencing.Registry()  # nothing beside the schema itself is known, and nothing is fetched
Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]
_left: ContextVar[list[int]] = ContextVar("steps left of the check under way")


class _Over(Exception):
    """The check took too many steps."""


class Schema:
    """One schema, for all candidates of a request. Read when it is first needed: of many tools few are called."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._over = False  # a check took too many steps, so that no other is begun

    @cached_property
    def _validator(self) -> Any:
        schema: Any = self._schema
        if type(schema) not in (bool, dict) or not _bounded(schema):
            return None
        plain: Any = json.loads(json.dumps(schema), parse_float=whole)  # 1.0 is spelled 1, as in what is checked
        return _bounding(_jsonschema.validator_for(plain, default=Draft202012Validator))(plain, registry=_NOTHING)

    def fits(self, value: Any) -> bool | None:
        """None: it can't be told, because the schema is none, or too large, or refers to what is not in it."""
        if self._validator is None or self._over:
            return None
        steps = _left.set([STEPS])
        try:
            return bool(self._validator.is_valid(value))
        except _Over:
            self._over = True
            return None
        except Exception:  # noqa: BLE001 - a broken schema breaks its validator in any way there is, RecursionError included
            return None
        finally:
            _left.reset(steps)


def _bounded(schema: Any) -> bool:
    """Small enough to be used, and without what can't be bounded."""
    level, seen = [schema], 0
    for _ in range(_DEEPEST):
        seen += len(level)
        if seen > _NODES:
            return False
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keywords = cast("dict[str, Any]", value)
                if not _UNBOUNDED.isdisjoint(keywords) or not _within(keywords.get("$ref", "#")):
                    return False
                below += keywords.values()
            elif isinstance(value, list):
                below += cast("list[Any]", value)
        level = below
        if not level:
            return True
    return False


def _within(ref: Any) -> bool:
    """A place in the schema itself, found by its path: names have to be searched for, and addresses fetched."""
    return not isinstance(ref, str) or ref == "#" or ref.startswith("#/")


@lru_cache(maxsize=16)  # there are seven drafts
def _bounding(base: Any) -> Any:
    """jsonschema's class of a draft with every keyword counted, and `re` replaced."""
    known: Mapping[str, Keyword] = base.VALIDATORS
    own: Mapping[str, Keyword] = {
        "const": _const,
        "enum": _enum,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    return _jsonschema.extend(
        base, validators={name: _counted(name, own.get(name, check)) for name, check in known.items()}
    )


def _counted(name: str, check: Keyword) -> Keyword:
    each, quick = name in _EACH, name in _QUICK

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        _charge(1 + (_size(value) // _MEMBERS if quick else _size(value)) + (_size(instance) if each else 0))
        return check(validator, value, instance, schema)

    return counted


def _charge(steps: int) -> None:
    left = _left.get()
    left[0] -= steps
    if left[0] < 0:
        raise _Over


def _size(value: Any) -> int:
    """What a keyword may have to look at: the members of a container, long text by the piece."""
    if isinstance(value, str):
        return len(value) // 256
    return len(cast("Sequence[Any]", value)) if isinstance(value, list | dict) else 0


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """By spelling: jsonschema compares value by value."""
    if isinstance(instance, str):
        found = instance in values
    else:
        _charge(len(values))
        found = _spelled(instance) in map(_spelled, values)
    if not found:
        yield ValidationError("is none of the values")


def _const(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if _spelled(instance) != _spelled(wanted):
        yield ValidationError("is not the value")


def _spelled(value: Any) -> str:
    """Equal values have equal spellings, and true is not 1. Charged for: a schema can ask for the same many times."""
    spelled = json.dumps(value, sort_keys=True)
    _charge(_size(spelled))
    return spelled


def _matches(pattern: str, text: str) -> bool:
    """Raises ValueError for what is not in RE2's syntax, or is too long: then it can't be told."""
    if len(text) > _LONGEST:
        raise ValueError("too long to be searched")
    _charge(len(text) // 2)  # of a pattern made for it, a step's time
    return compiled(pattern).search(text.encode(errors="replace")) is not None


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError("does not match")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, below in patterns.items():
            for name, value in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(value, below, path=name, schema_path=pattern)


def _unique_items(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """In one pass; jsonschema compares objects pair by pair."""
    if unique and validator.is_type(instance, "array"):
        spelled = {_spelled(value) for value in instance}
        if len(spelled) < len(instance):
            yield ValidationError("has equal items")


def _additional_properties(validator: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, value in cast("Mapping[str, Any]", instance).items():
        if name not in named and not any(_matches(pattern, name) for pattern in patterns):
            yield from validator.descend(value, below, path=name)
