"""Whatever a client sends, the features are finite, complete and repeatable."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.features import FEATURE_NAMES, extract, notable
from strategies.types import Budget, Prices, Query

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
# Text made of what the patterns look for, next to arbitrary text.
TEXT = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ["1,234", "-", "$", "\\frac", "(a)", "B.", "=", "?", "\n", "    ", "```", "how many", "é", "日", " "]
    ),
    max_size=40,
).map("".join)
PART = JSON | st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": TEXT})
MESSAGE = st.dictionaries(st.text(max_size=8), JSON, max_size=3) | st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "other"])},
    optional={"content": TEXT | JSON | st.lists(PART, max_size=4), "tool_calls": JSON},
)
SAMPLING = st.fixed_dictionaries(
    {}, optional={"temperature": SCALARS, "stop": JSON, "tool_choice": JSON, "response_format": JSON}
)


def ask(messages: list[Any], **fields: Any) -> Query:
    return Query(
        id="q",
        model="m",
        messages=messages,
        budget=Budget(max_total_tokens=1, deadline=1.0),
        prices=Prices(token_price=0.0, latency_price=0.0),
        **{"sampling": {}, **fields},
    )


@given(
    messages=st.lists(MESSAGE, max_size=5),
    sampling=SAMPLING,
    tools=st.lists(JSON, max_size=3),
    limit=st.none() | st.integers(),
)
def test_any_request_is_described(messages: list[Any], sampling: Any, tools: list[Any], limit: int | None) -> None:
    query = ask(messages, sampling=sampling, tools=tools, max_tokens=limit)
    features = extract(query)
    assert len(features.vector()) == len(FEATURE_NAMES)
    assert all(type(value) is float and math.isfinite(value) for value in features.vector())
    assert features == extract(query)
    assert all(value for _, value, _ in notable(features, 999))


@given(text=TEXT)
def test_shares_are_shares_and_counts_are_not_negative(text: str) -> None:
    values = extract(ask([{"role": "user", "content": text}])).values
    assert all(0 <= value <= 1 for name, value in values.items() if name.endswith("_share"))
    assert all(value >= 0 for value in values.values())
    assert sum(value for name, value in values.items() if name.startswith("form_")) <= 1


@given(text=TEXT, more=TEXT)
def test_a_longer_conversation_has_no_fewer_prompt_tokens(text: str, more: str) -> None:
    short = extract(ask([{"role": "user", "content": text}]))
    long = extract(ask([{"role": "user", "content": text}, {"role": "user", "content": more}]))
    assert long.values["prompt_tokens"] >= short.values["prompt_tokens"]
