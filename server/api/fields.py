"""Every field of a chat completion request that has a name somewhere, and what becomes of it.

Parsing decides by this table, and `docs/fields.md` is generated from it:

    python -m server.api.fields > docs/fields.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from server.passthrough import steering

# honoured: the gateway acts on it. translated: rewritten into other fields, which are. forwarded: sent to the engine
# as it came. refused: a 400 that names the field.
Does = Literal["honoured", "translated", "forwarded", "refused"]
Source = Literal["OpenAI", "vLLM", "llama.cpp", "Apportion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    does: Does
    why: str  # or how, in a line
    source: Source
    sent_on: bool = False  # honoured, and sent to the engine as well
    harmless: tuple[Any, ...] = ()  # refused, but for values that ask for nothing: those are left out


def _of(source: Source, does: Does, fields: Mapping[str, str]) -> Iterator[tuple[str, Field]]:
    for name, why in fields.items():
        yield name, Field(does=does, why=why, source=source)


def _both(source: Source, fields: Mapping[str, str]) -> Iterator[tuple[str, Field]]:
    for name, why in fields.items():
        yield name, Field(does="honoured", why=why, source=source, sent_on=True)


def _refused(source: Source, fields: Mapping[str, tuple[str, tuple[Any, ...]]]) -> Iterator[tuple[str, Field]]:
    for name, (why, harmless) in fields.items():
        yield name, Field(does="refused", why=why, source=source, harmless=harmless)


MOST_TOOLS = 1024  # OpenAI takes 128; a body full of them would hold up every other request for a second
_STRUCTURED = "vLLM ignores it by now: rewritten as `structured_outputs.{}`"

FIELDS: Mapping[str, Field] = dict(
    (
        *_of(
            "OpenAI",
            "honoured",
            {
                "messages": "the engine's to read, images and audio too; `developer` becomes `engine.developer_role`",
                "model": "the engine's model, with an optional suffix: `my-model:quality`, `my-model:best_of_n@8`",
                "n": "answers that come back, best first; not the number of candidates",
                "stream": "the engine is always streamed, the client if it asks",
                "stream_options": "`include_usage`, `include_obfuscation`; others are refused; only with `stream`",
                "max_tokens": "bounds one candidate; `apportion.max_total_tokens` bounds their sum",
                "max_completion_tokens": "the same, and goes over `max_tokens`",
                "logprobs": "the returned answers', whatever the strategy asked the engine for",
                "top_logprobs": "up to 20; only with `logprobs`",
                "tools": "candidates' calls are voted on; an empty list is left out; 1,024 at most",
            },
        ),
        *_both(
            "OpenAI",
            {
                "temperature": "0 makes all candidates the same, so it gets `single`; without one, several get "
                "`strategies.sampling_temperature`",
                "seed": "candidate i gets seed + i",
                "stop": "beam search adds the ends of its steps for its own calls",
                "tool_choice": "candidates that do otherwise never win while one complies; needs `tools`",
                "parallel_tool_calls": "false: candidates with more than one call never win while one complies",
                "response_format": "candidates that are not the JSON asked for never win while one is",
                "reasoning_effort": "picks the profile (`reasoning_effort` in the configuration) unless one was named",
            },
        ),
        *_of(
            "OpenAI",
            "translated",
            {
                "functions": "the old name of `tools`: rewritten, and answered as `function_call`",
                "function_call": "the old name of `tool_choice`: rewritten",
            },
        ),
        *_of(
            "OpenAI",
            "forwarded",
            {
                "frequency_penalty": "the engine's sampling",
                "presence_penalty": "the engine's sampling",
                "top_p": "the engine's sampling",
                "logit_bias": "the engine's sampling; the tokens are the engine's too",
                "user": "the engine's to heed; never logged, never a label",
                "safety_identifier": "the engine's to heed; never logged, never a label",
                "metadata": "the engine's to keep",
                "store": "the engine's to keep: the gateway itself stores no request and no answer",
                "service_tier": "the engine's to heed",
                "prediction": "a hint for speed, which changes no answer",
                "prompt_cache_key": "the engine's cache",
                "prompt_cache_options": "the engine's cache",
                "prompt_cache_retention": "the engine's cache",
                "verbosity": "the engine's to heed",
            },
        ),
        *_refused(
            "OpenAI",
            {
                "audio": ("answers are text: spoken ones can't be compared", ()),
                "modalities": ('answers are text: only `["text"]`', (["text"], [])),
                "moderation": ("nothing here moderates", ()),
                "web_search_options": ("nothing here searches the web", ()),
            },
        ),
        *_both(
            "vLLM",
            {
                "structured_outputs": "candidates that break its `json` or `choice` never win while one does not",
                "continue_final_message": "beam search goes on with the client's unfinished message",
            },
        ),
        *_of(
            "vLLM",
            "translated",
            {
                "guided_json": _STRUCTURED.format("json"),
                "guided_regex": _STRUCTURED.format("regex"),
                "guided_choice": _STRUCTURED.format("choice"),
                "guided_grammar": _STRUCTURED.format("grammar"),
                "guided_whitespace_pattern": _STRUCTURED.format("whitespace_pattern"),
            },
        ),
        *_of(
            "vLLM",
            "forwarded",
            {
                "add_generation_prompt": "the engine's template",
                "add_special_tokens": "the engine's template",
                "allowed_token_ids": "the engine's sampling",
                "bad_words": "the engine's sampling",
                "cache_salt": "the engine's cache",
                "chat_template": "the engine's template; vLLM takes it only where its operator allows",
                "chat_template_kwargs": "the engine's template",
                "documents": "the engine's template",
                "ignore_eos": "the engine's sampling; such candidates are cut, and never vote",
                "include_reasoning": "false: the engine sends no reasoning",
                "include_stop_str_in_output": "the engine's text",
                "media_io_kwargs": "how the engine reads images and audio",
                "min_p": "the engine's sampling",
                "min_tokens": "the engine's sampling",
                "mm_processor_kwargs": "how the engine reads images and audio",
                "repetition_detection": "the engine's sampling; what it breaks off never votes",
                "repetition_penalty": "the engine's sampling",
                "return_tokens_as_token_ids": "how the engine writes the tokens in `logprobs`",
                "session_id": "where the engine's router sends it",
                "skip_special_tokens": "the engine's text",
                "spaces_between_special_tokens": "the engine's text",
                "stop_token_ids": "the engine's sampling",
                "stream_interval": "tokens in one of the engine's chunks",
                "thinking_token_budget": "the engine's bound on reasoning, within `max_tokens`",
                "top_k": "the engine's sampling",
                "truncate_prompt_tokens": "the engine's prompt",
                "truncation_side": "the engine's prompt",
                "vllm_xargs": "the engine's extensions",
                "watermarking": "the engine's sampling",
            },
        ),
        *_refused(
            "vLLM",
            {
                **steering.VLLM,
                "early_stopping": ("only for the engine's own beam search", (False,)),
                "echo": ("the answer alone is voted on, and returned", (False,)),
                "guided_decoding_backend": ("vLLM ignores it by now, and chooses the backend when it starts", ()),
                "length_penalty": ("only for the engine's own beam search", (1, 1.0)),
                "logprob_token_ids": ("`logprobs` have the most likely tokens only", ()),
                "prompt_logprobs": ("the prompt's are not carried through", ()),
                "request_id": ("the gateway's own names the calls; it is in `x-request-id`", ()),
                "return_mm_kwargs": ("only for the engine's render endpoints", (True,)),
                "return_prompt_text": ("not carried through", (False,)),
                "return_token_ids": ("not carried through", (False,)),
                "return_token_offsets": ("only for the engine's render endpoints", (False,)),
                "routed_experts_prompt_start": ("not carried through", (0,)),
                "use_beam_search": (
                    "the engine's own is not streamed: `apportion.strategy` has `beam_search@4x4`",
                    (False,),
                ),
            },
        ),
        *_of(
            "llama.cpp",
            "honoured",
            {
                "n_predict": "its name for `max_tokens`, which there goes over it; here it comes after",
            },
        ),
        *_refused(
            "llama.cpp",
            {
                **steering.LLAMA_CPP,
                "n_cmpl": ("its name for `n`, with which there would be more tokens than are counted", (1,)),
            },
        ),
        *_of(
            "Apportion",
            "honoured",
            {
                "apportion": "what to spend and how: see [api.md](api.md)",
                "best_of": "from OpenAI's older API: that many candidates, as `best_of_n@N`, when no strategy is named",
            },
        ),
    )
)
SENT_ON = frozenset(name for name, field in FIELDS.items() if field.sent_on)


_HEADINGS: Mapping[Source, str] = {
    "OpenAI": "OpenAI's",
    "vLLM": "vLLM's beside them",
    "llama.cpp": "llama.cpp's beside them",
    "Apportion": "The gateway's own",
}
_INTRODUCTION = """\
# Every request field

<!-- Generated: python -m server.api.fields > docs/fields.md -->

What becomes of the fields of `POST /v1/chat/completions`. *Honoured*: the gateway acts on it. *Translated*: it is
rewritten into fields that are. *Forwarded*: it goes to the engine as it came, with every candidate. *Refused*: a 400
that names the field, because the request would not mean what it says; values that ask for nothing (false, null) pass.

A null counts as not given. A field that is not listed is forwarded: the engine knows whether it is one.
"""


def wanted(name: str, value: Any, fields: Mapping[str, Field] = FIELDS) -> bool:
    """False for what asks for nothing. Raises InvalidRequest for what is refused."""
    field = fields.get(name)
    if value is None or field is None or field.does != "refused":
        return value is not None
    steering.refuse(name, value, field.why, field.harmless)
    return False


def reference(fields: Mapping[str, Field] = FIELDS, introduction: str = _INTRODUCTION) -> str:
    """The text of a page of docs/."""
    lines = [introduction]
    for source, heading in _HEADINGS.items():
        rows = sorted((name, field) for name, field in fields.items() if field.source == source)
        if rows:
            lines += [f"## {heading}", "", "| field | what becomes of it | |", "|---|---|---|"]
            lines += [f"| `{name}` | {_said(field)} | {field.why} |" for name, field in rows]
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _said(field: Field) -> str:
    if field.does == "honoured" and field.sent_on:
        return "honoured, and forwarded"
    return field.does


if __name__ == "__main__":
    sys.stdout.write(reference())
