"""What the features mean, by example."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest

from router.features import EDGE, FEATURE_NAMES, FEATURE_NOTES, FEATURES_VERSION, IMAGE_TOKENS, extract, notable
from strategies.types import Budget, Prices, Query


def query(*messages: Any, **fields: Any) -> Query:
    """Strings are user messages; anything else is passed on as it is."""
    return Query(
        **{
            "id": "q",
            "model": "m",
            "messages": [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages],
            "sampling": {},
            "budget": Budget(max_total_tokens=1000, deadline=10.0),
            "prices": Prices(token_price=0.0, latency_price=0.0),
            **fields,
        }
    )


def values(*messages: Any, **fields: Any) -> Any:
    return extract(query(*messages, **fields)).values


def test_names_are_those_of_this_version() -> None:
    """A trained model reads columns by position: another list of names needs another version, and this pair updated."""
    digest = hashlib.sha256("\n".join(FEATURE_NAMES).encode()).hexdigest()[:16]
    assert (FEATURES_VERSION, digest) == (1, "1415efedd8dc8d3f")


def test_every_feature_has_a_note_and_a_place_in_the_vector() -> None:
    features = extract(query("What is 2 + 2?"))
    assert features.version == FEATURES_VERSION
    assert tuple(features.values) == tuple(FEATURE_NOTES) == FEATURE_NAMES
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert all(note and "\n" not in note for note in FEATURE_NOTES.values())
    assert features.vector() == [features.values[name] for name in FEATURE_NAMES]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He paid $1,234.50 for 3.", {"numbers": 2, "number_digits": 7, "number_max_digits": 6, "decimals": 1}),
        ("Sort [100,200,300].", {"numbers": 3, "number_max_digits": 3}),
        ("x2 is v1.0.3 of foo_7", {"numbers": 0}),
        ("有3个苹果", {"numbers": 1}),
        ("from -5 to (-3), 7-4 and x - 2", {"negatives": 2, "numbers": 5, "op_minus": 4}),
        ("1/2 of 3 / 4", {"fractions": 2, "op_slash": 2}),
        ("10,000,000", {"numbers": 1, "number_magnitude": 7}),
        ("0.5 and 000", {"number_magnitude": 0, "decimals": 1}),
        ("2 x 3 \u00d7 4 \\times 5 max", {"op_times": 3}),
        ("2^3 ** 4 % 5 < 6 > 1", {"op_caret": 2, "op_star": 2, "op_percent": 1, "op_less": 1, "op_greater": 1}),
        ("Is $x+1$ or $\\frac{1}{2}$ right?", {"dollar_maths": 2, "latex_commands": 1, "op_plus": 1}),
        ("It costs $5 and sells for $6.", {"dollar_maths": 0}),
        ("Answer in \\boxed{}.", {"boxed": 1}),
        ("```python\ndef f():\n    return 1;\n```", {"code_fences": 2, "indented_lines": 1, "semicolons": 1}),
        ("don't; it isn’t", {"words_negation": 2}),  # noqa: RUF001 - the typographic apostrophe
        ("Pick: A) red B) green C) blue", {"choices": 3, "do_classify": 1}),
        ("(a) one\n(b) two", {"choices": 2}),
        ("Plan a. Then f(a) and f(b).", {"choices": 0}),
        ("12 + 7 = ?", {"ends_question": 1, "ends_equals": 1}),
        ("12 + 7 =", {"ends_question": 0, "ends_equals": 1}),
        ("Twice a week, every Monday, each has the largest half left", {
            "words_times": 1, "words_time": 1, "words_calendar": 1, "words_each": 2, "words_extreme": 1,
            "words_half": 1, "words_left": 1,
        }),
        ("How many letters are in the first word?", {"words_letters": 2, "words_order": 1}),
        ("Please compute 3. Then explain why.", {"do_compute": 1, "do_explain": 1, "do_find": 0}),
        ("She can compute it.", {"do_compute": 0}),
        ("ABc!", {"upper_share": 2 / 3, "punctuation_share": 1 / 4, "digit_share": 0}),
        ("Привет", {"cyrillic_share": 1, "non_ascii_share": 1, "latin_share": 0}),
        ("日本語ですか", {"cjk_share": 1, "latin_share": 0}),
        ("مرحبا", {"arabic_share": 1}),
        ("été ab ก", {"latin_share": 5 / 6, "other_script_share": 1 / 6}),
        ("", {"log_chars": 0, "log_words": 0, "numbers": 0, "upper_share": 0}),
    ],
)  # fmt: skip
def test_text_of_the_question(text: str, expected: dict[str, float]) -> None:
    found = values(text)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("If Tom has 3 apples and eats one, how many are left?", "form_how_many"),
        ("How much is it?", "form_how_much"),
        ("How many 2.5 kg bags\nare that?", "form_how_many"),
        ("What is the remainder when 17 is divided by 5?", "form_what"),
        ("Here is a list. Which one is prime? Think first.", "form_which"),
        ("Why is the sky blue?", "form_why"),
        ("Who wrote it?", "form_who"),
        ("How is it made?", "form_how"),
        ("Is 91 prime?", "form_yes_no"),
        ("When did it end?", "form_when"),
        ("Translate the sentence.", None),
    ],
)
def test_one_form_at_most(text: str, form: str | None) -> None:
    found = values(text)
    assert [name for name in FEATURE_NAMES if name.startswith("form_") and found[name]] == ([form] if form else [])


def test_the_last_user_message_is_the_question() -> None:
    found = values(
        {"role": "system", "content": "Think step by step, only in JSON."},
        "What is 1 + 1?",
        {"role": "assistant", "content": "The answer is 2."},
        "Why",
    )
    assert found["log_chars"] == pytest.approx(math.log1p(3))
    assert found["numbers"] == 0
    assert (found["turns"], found["system_prompt"], found["assistant_turns"]) == (4, 1, 1)
    assert found["log_assistant_words"] == found["log_last_assistant_words"] == pytest.approx(math.log1p(4))
    assert (found["last_assistant_digits"], found["last_assistant_answer"]) == (1, 1)
    assert (found["words_steps"], found["words_brief"], found["words_format"]) == (3, 1, 1)


def test_what_was_asked_of_the_engine() -> None:
    sampling = {
        "temperature": 0.5,
        "stop": ["\n"],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {}},
    }
    found = values("hi", sampling=sampling, max_tokens=99, tools=[{"type": "function", "function": {"name": "f"}}])
    expected = {
        "temperature": 0.5, "temperature_absent": 0, "log_max_tokens": math.log(100), "max_tokens_absent": 0,
        "stop_given": 1, "tool_forced": 1, "json_output": 1, "tools": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    absent = values("hi")
    assert (absent["temperature"], absent["temperature_absent"], absent["max_tokens_absent"]) == (0, 1, 1)


def test_parts_are_read_and_pictures_counted() -> None:
    parts = [
        {"type": "text", "text": "What is in"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}},
        {"type": "text", "text": "this picture?"},
    ]
    found = values({"role": "user", "content": parts})
    assert (found["images"], found["form_what"], found["ends_question"]) == (1, 1, 1)
    assert IMAGE_TOKENS < found["prompt_tokens"] < IMAGE_TOKENS + 50


def test_prompt_tokens_are_near_a_tokenizer() -> None:
    """English prose runs at four to five characters a token, whatever its length; tools are part of the prompt."""
    sentence = "The quick brown fox jumps over the lazy dog and runs away. "
    for times in (10, 2000):
        tokens = values(sentence * times)["prompt_tokens"]
        assert tokens / times == pytest.approx(13, rel=0.2)
    schema = {"type": "function", "function": {"name": "search", "description": "x" * 3500}}
    assert values("hi", tools=[schema])["prompt_tokens"] - values("hi")["prompt_tokens"] == pytest.approx(1000, rel=0.1)


def test_long_texts_are_read_at_their_edges_only() -> None:
    middle = "7 " * EDGE
    found = values("Solve. " + "a " * EDGE + middle + "a " * EDGE + "is it?")
    assert (found["numbers"], found["do_solve"], found["ends_question"]) == (0, 1, 1)
    assert found["log_words"] == pytest.approx(math.log1p(3 * EDGE), rel=0.01)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": 7, "content": 7}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": ["a", None, 3, {}, {"type": "text"}, {"type": "text", "text": None}]}],
        [{"role": "critic", "content": "hm"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        [{"role": "user", "content": "\ud800 lone surrogate \x00"}],
        [{"role": "user", "content": "9" * 50_000}],
        [{"role": "user", "content": "$" * 20_000 + "\\" * 20_000}],
    ],
)
def test_weird_messages_are_described_all_the_same(messages: list[Any]) -> None:
    assert all(map(math.isfinite, extract(query(*messages)).vector()))


def test_weird_parameters_count_as_absent() -> None:
    sampling = {"temperature": math.nan, "response_format": "json", "tool_choice": 3, "stop": None}
    found = values("hi", sampling=sampling)
    assert (found["temperature"], found["temperature_absent"]) == (0, 1)
    assert (found["json_output"], found["tool_forced"], found["stop_given"]) == (0, 0, 0)


def test_tools_that_contain_themselves_do_no_harm() -> None:
    tool: dict[str, Any] = {"name": "f"}
    tool["self"] = tool
    assert math.isfinite(values("hi", tools=[tool])["prompt_tokens"])


def test_notable_shows_what_is_there_and_tells_something() -> None:
    features = extract(query("Compute $\\frac{1}{2} + \\frac{1}{3}$ and put the answer in \\boxed{}."))
    rows = notable(features)
    assert len(rows) == 6
    assert {"do_compute", "latex_commands", "boxed"} <= {name for name, _, _ in rows}
    assert all(value == features.values[name] != 0 and note == FEATURE_NOTES[name] for name, value, note in rows)
    assert rows == notable(features)
    assert notable(features, 2) == rows[:2]
    assert notable(features, 0) == []
    assert not {"temperature_absent", "latin_share"} & {name for name, _, _ in notable(features, 999)}
