"""The table of request fields: complete, true, and what parsing goes by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from openai.types.chat import completion_create_params as openai_params

from server.api.fields import FIELDS, reference
from server.api.request import ChatRequest, parse, to_query
from server.config import Config
from server.errors import InvalidRequest

ROOT = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": "?"}]

# The names of vLLM 0.33's ChatCompletionRequest beside OpenAI's, and those of its older versions that it ignores now.
VLLM = """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs
    continue_final_message documents early_stopping ec_transfer_params echo guided_choice guided_decoding_backend
    guided_grammar guided_json guided_regex guided_whitespace_pattern ignore_eos include_reasoning
    include_stop_str_in_output kv_transfer_params length_penalty logprob_token_ids media_io_kwargs min_p min_tokens
    mm_processor_kwargs priority prompt_logprobs repetition_detection repetition_penalty request_id return_mm_kwargs
    return_prompt_text return_token_ids return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start
    session_id skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval structured_outputs
    thinking_token_budget top_k truncate_prompt_tokens truncation_side use_beam_search vllm_xargs watermarking
"""


def named(source: str) -> set[str]:
    return {name for name, field in FIELDS.items() if field.source == source}


def does(what: str) -> list[str]:
    return sorted(name for name, field in FIELDS.items() if field.does == what)


def test_the_table_has_every_field_of_openais_and_no_other() -> None:
    """Of the installed package: a new one in OpenAI's API fails here until it is decided."""
    assert named("OpenAI") == {*get_type_hints(openai_params.CompletionCreateParamsBase), "stream"}


def test_the_table_has_every_field_of_vllms_and_no_other() -> None:
    assert named("vLLM") == set(VLLM.split())


def test_what_is_honoured_is_what_is_parsed() -> None:
    assert set(does("honoured")) == set(ChatRequest.model_fields)


def test_the_page_is_the_tables() -> None:
    assert (ROOT / "docs/fields.md").read_text(encoding="utf-8") == reference()


def test_every_setting_and_page_that_a_line_names_is_there() -> None:
    settings = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    text = "\n".join(field.why for field in FIELDS.values())
    for setting in ("engine.developer_role", "strategies.sampling_temperature", "reasoning_effort"):
        assert f"`{setting}`" in text
        assert f"`{setting}" in settings
    for page in re.findall(r"\]\((\S+)\)", text):
        assert (ROOT / "docs" / page).is_file()


ASKING = (True, 3, "yes", ["audio"], {"a": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in does("refused") for value in ASKING if value not in FIELDS[name].harmless],
)
def test_what_is_refused_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"messages": MESSAGES, name: value})
    assert refused.value.param == name
    assert FIELDS[name].why in refused.value.message


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in does("refused") for value in (None, *FIELDS[name].harmless)]
)
def test_what_asks_for_nothing_is_left_out(name: str, value: Any) -> None:
    """Clients that send every default are no worse off."""
    assert not parse({"messages": MESSAGES, name: value}).model_extra


def test_a_truth_value_is_no_number() -> None:
    """`false` is no priority of 0."""
    with pytest.raises(InvalidRequest):
        parse({"messages": MESSAGES, "priority": False})


def sampling(**fields: Any) -> dict[str, Any]:
    query, _ = to_query(parse({"messages": MESSAGES, **fields}), {}, Config(), id="q", models=["m"], arrived=0.0)
    return dict(query.sampling)


@pytest.mark.parametrize("name", [*does("forwarded"), "a_field_of_tomorrow"])
@pytest.mark.parametrize("value", [True, 0, 2.5, "text", [1, None], {"a": {"b": None}}], ids=str)
def test_what_is_forwarded_goes_on_as_it_came(name: str, value: Any) -> None:
    assert sampling(**{name: value}) == {name: value}


SENT_ON: dict[str, Any] = {
    "temperature": 0.5,
    "seed": 7,
    "stop": ["a", "b"],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"default": None}}},
    "reasoning_effort": "low",
    "structured_outputs": {"choice": ["a", None]},
    "continue_final_message": True,
}


def test_what_is_honoured_and_forwarded_is_both() -> None:
    assert set(SENT_ON) == {name for name, field in FIELDS.items() if field.sent_on}
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert sampling(tools=tools, **SENT_ON) == SENT_ON


@pytest.mark.parametrize("name", sorted(set(does("honoured")) - set(SENT_ON) - {"messages"}))
def test_what_is_only_honoured_stays_here(name: str) -> None:
    """The gateway says its own to the engine."""
    values: dict[str, Any] = {
        "model": "m", "stream_options": {"include_usage": True}, "stream": True, "tools": [], "apportion": {},
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    also = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}.get(name, {})
    assert sampling(**also, **{name: values.get(name, 1)}) == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": []},
        {"tool_choice": "f", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {
            "tool_choice": {"type": "function", "function": {"name": "g"}},
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        {"tool_choice": {"type": "function"}, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": 7},
    ],
)
def test_a_tool_choice_that_can_not_be_met_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"messages": MESSAGES, **fields})
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_a_choice_among_no_tools_is_tidied_away(choice: str) -> None:
    """vLLM answers 400 to it; clients that build both in code send it."""
    assert sampling(tools=[], tool_choice=choice, parallel_tool_calls=True) == {}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"include_everything": True}, "stream_options.include_everything"),
        ({"continuous_usage_stats": True}, "stream_options.continuous_usage_stats"),
        ({"include_usage": "perhaps"}, "stream_options.include_usage"),
    ],
)
def test_stream_options_are_honoured_or_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"messages": MESSAGES, "stream": True, "stream_options": options})
    assert refused.value.param == param


def test_best_of_is_no_less_than_n() -> None:
    with pytest.raises(InvalidRequest, match="best_of is 2, but n is 3"):
        parse({"messages": MESSAGES, "n": 3, "best_of": 2})


def test_developer_messages_are_sent_under_the_role_that_the_operator_says() -> None:
    """Many templates drop them without a word."""
    messages = [{"role": "developer", "content": "Be brief.", "name": "d"}, *MESSAGES]
    for role in ("system", "developer", "user"):
        config = Config.model_validate({"engine": {"developer_role": role}})
        query, _ = to_query(parse({"messages": messages}), {}, config, id="q", models=["m"], arrived=0.0)
        assert query.messages == [{"role": role, "content": "Be brief.", "name": "d"}, *MESSAGES]
