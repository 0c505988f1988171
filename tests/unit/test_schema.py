"""JSON Schemas from outside: what they mean, and what they may cost."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from strategies.answers.schema import STEPS, Schema

TREE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "id": {"type": "integer"}}}},
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "fit", "unfit"),
    [
        ({"type": "integer"}, 7.0, 7.5),
        ({"type": "string", "pattern": "^[0-9]{2}$"}, "42", "4"),
        ({"pattern": "^(a+)+$"}, "a" * 4000, "a" * 4000 + "!"),  # `re` would still be at it
        ({"enum": [1.0, {"b": 1.0, "a": [True]}]}, {"a": [True], "b": 1}, True),
        ({"enum": [1.0, "1"]}, 1, 2),
        ({"enum": ["a", None]}, None, "b"),
        ({"const": 1.0}, 1, True),
        ({"const": {"b": [2.0], "a": None}}, {"a": None, "b": [2]}, {"a": None, "b": ["2"]}),
        ({"type": "array", "uniqueItems": True}, [1, True, "1", [1], {"a": 1}], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]),
        ({"properties": {"a": True}, "additionalProperties": False}, {"a": 1}, {"a": 1, "b": 2}),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1}, {"a": "1"}),
        (
            {"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
            {"n_a": 1},
            {"x": 1},
        ),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, {"x": "1"}, {"n_a": "1"}),
        (TREE, {"next": {"next": {"id": 3}}}, {"next": {"next": {"id": "3"}}}),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{}], "additionalItems": False},
            ["a"],
            ["a", "b"],
        ),
        ({"anyOf": [{"type": "null"}, {"minimum": 3}]}, 4, 2),
        ({"$id": "https://example.com/s", "$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1, 2),
        (True, 1, None),
        (False, None, 1),
    ],
)  # fmt: skip
def test_it_means_what_it_says(schema: Any, fit: Any, unfit: Any) -> None:
    if schema is not False:
        assert Schema(schema).fits(fit) is True
    if schema is not True:
        assert Schema(schema).fits(unfit) is False


def chained(depth: int) -> dict[str, Any]:
    """Looks twice at each of `depth` levels: 2^depth steps."""
    both = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}, {"$ref": f"#/$defs/{i + 1}"}]} for i in range(depth)}
    return {"$defs": {**both, str(depth): {}}, "$ref": "#/$defs/0"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


LARGE: Any = {"a": [{str(i): "v" * 20} for i in range(300)]}


def compared(keyword: dict[str, Any]) -> dict[str, Any]:
    """Looks at one value many times, from few places."""
    return {"$defs": {"same": keyword}, "allOf": [{"$ref": "#/$defs/same"}] * 200}


HOSTILE: dict[str, tuple[Any, Any]] = {
    "another host": ({"$ref": "http://127.0.0.1:9/schema.json"}, 1),
    "a file": ({"$ref": "file:///etc/passwd"}, 1),
    "another host in the middle": ({"properties": {"a": {"$ref": "http://127.0.0.1:9/s"}}}, {"a": 1}),
    "another host by id": ({"$id": "http://127.0.0.1:9/s", "properties": {"a": {"$ref": "other.json"}}}, {"a": 1}),
    "itself": ({"$ref": "#"}, 1),
    "itself, roundabout": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, 1),
    "a name": ({"$ref": "#somewhere"}, 1),
    "nothing": ({"$ref": "#/$defs/missing"}, 1),
    "doubling": (chained(40), 1),
    "a pattern that RE2 has not": ({"pattern": "(?=a)b"}, "b"),
    "a pattern for long texts": ({"pattern": "a.*b"}, "a" * 100_000),
    "deep": (nested(2000), {}),
    "wide": ({"properties": {str(i): {} for i in range(100_000)}}, {}),
    "many at once": ({"items": {"allOf": [{"type": "integer"}] * 300}}, list(range(5000))),
    "a large value of an enum": (compared({"enum": [LARGE]}), LARGE),
    "a large constant": (compared({"const": LARGE}), LARGE),
    "large items": (compared({"uniqueItems": True}), [LARGE]),
    "unevaluated": ({"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False}, {"b": 1}),
    "dynamic": ({"$dynamicRef": "#a"}, 1),
    "no schema": ({"type": "integre"}, 1),
    "no schema at all": ([], 1),
    "keywords of other types": ({"properties": 3, "allOf": 7, "enum": 1, "required": 5, "pattern": []}, {"a": 1}),
    "a huge number": ({"multipleOf": 0.1}, 10**4000),
}


@pytest.mark.parametrize(("schema", "value"), list(HOSTILE.values()), ids=list(HOSTILE))
def test_what_is_hostile_or_broken_costs_little_and_says_nothing(
    schema: Any, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched, nothing hangs, and no candidate is put out by it."""

    def connected(*_: object) -> None:
        raise AssertionError("it connects")

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", connected)
    assert Schema(schema).fits(value) is None


def test_values_of_an_ordinary_size_are_within_the_bound() -> None:
    """Fifty records of eight fields are; as many fields as there are steps are not."""
    record = {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in "abcdefgh"},
        "required": list("abcdefgh"),
        "additionalProperties": False,
    }
    records = {"type": "array", "items": record}
    assert Schema(records).fits([dict.fromkeys("abcdefgh", 1)] * 50) is True
    assert Schema(records).fits([*[dict.fromkeys("abcdefgh", 1)] * 49, dict.fromkeys("abcdefgh", "1")]) is False
    assert Schema({"additionalProperties": {"type": "integer"}}).fits(dict.fromkeys(map(str, range(STEPS)), 1)) is None
