"""Every field of a request for a response, and what becomes of it.

Parsing decides by this table, and `docs/responses-fields.md` is generated from it:

    python -m server.api.responses.fields > docs/responses-fields.md
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from server.api.fields import Field, reference

_STATELESS = "no response is kept here: send the whole conversation as `input`"
_HONOURED: Mapping[str, str] = {
    "include": "`message.output_text.logprobs`, `reasoning.encrypted_content`; the others concern built-in tools",
    "max_output_tokens": "bounds one candidate; `apportion.max_total_tokens` bounds their sum",
    "max_tool_calls": "of the built-in tools, of which there are none",
    "model": "the engine's model, with an optional suffix: `my-model:quality`, `my-model:best_of_n@8`",
    "store": "nothing is kept either way, and the response says `false`",
    "stream": "the engine is always streamed, the client if it asks",
    "stream_options": "`include_obfuscation`; only with `stream`",
    "top_logprobs": "up to 20; only with `message.output_text.logprobs` in `include`",
    "truncation": "`disabled`; `auto` is refused: the input is never shortened",
}
_TRANSLATED: Mapping[str, str] = {
    "input": "a text, or items: messages, calls and their outputs, reasoning. They become the chat's messages",
    "instructions": "the chat's first message, of the role `system`",
    "reasoning": "`effort` is a chat's `reasoning_effort`; `summary`: the engine's reasoning stands there, in full",
    "text": "`format` is a chat's `response_format`, `verbosity` its `verbosity`",
    "tool_choice": "a chat's; `allowed_tools` leaves out the other tools",
    "tools": "functions are a chat's tools; others are refused",
}
_BOTH: Mapping[str, str] = {
    "parallel_tool_calls": "as in a chat",
    "temperature": "as in a chat: 0 gets `single`",
}
_FORWARDED: Mapping[str, str] = {
    "metadata": "the engine's to keep; it comes back in the response",
    "prompt_cache_key": "the engine's cache",
    "prompt_cache_options": "the engine's cache",
    "prompt_cache_retention": "the engine's cache",
    "safety_identifier": "the engine's to heed; never logged, never a label",
    "service_tier": "the engine's to heed",
    "top_p": "the engine's sampling",
    "user": "the engine's to heed; never logged, never a label",
}
_REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "access_programs": ("they are OpenAI's own", ()),
    "background": ("a response lives as long as its connection", (False,)),
    "background_options": ("a response lives as long as its connection", ()),
    "context_management": ("the input is never shortened", ([],)),
    "conversation": (_STATELESS, ()),
    "image": ("images go to the engine as they are", ()),
    "moderation": ("nothing here moderates", ()),
    "previous_response_id": (_STATELESS, ()),
    "prompt": ("no prompts are kept here: send `instructions` and `input`", ()),
    # a chat's, which this API has elsewhere
    "function_call": ("here it is `tool_choice`", ()),
    "functions": ("here they are `tools`", ()),
    "logprobs": ("here they are `message.output_text.logprobs` in `include`", (False,)),
    "max_completion_tokens": ("here it is `max_output_tokens`", ()),
    "max_tokens": ("here it is `max_output_tokens`", ()),
    "messages": ("here they are `input`", ()),
    "n": ("a request has one response", (1,)),
    "n_predict": ("here it is `max_output_tokens`", ()),
    "reasoning_effort": ("here it is `reasoning.effort`", ()),
    "response_format": ("here it is `text.format`", ()),
    "verbosity": ("here it is `text.verbosity`", ()),
}
FIELDS: Mapping[str, Field] = {
    **{name: Field(does="honoured", why=why, source="OpenAI") for name, why in _HONOURED.items()},
    **{name: Field(does="translated", why=why, source="OpenAI") for name, why in _TRANSLATED.items()},
    **{name: Field(does="honoured", why=why, source="OpenAI", sent_on=True) for name, why in _BOTH.items()},
    **{name: Field(does="forwarded", why=why, source="OpenAI") for name, why in _FORWARDED.items()},
    **{
        name: Field(does="refused", why=why, source="OpenAI", harmless=harmless)
        for name, (why, harmless) in _REFUSED.items()
    },
    "apportion": Field(does="honoured", why="what to spend and how: see [api.md](api.md)", source="Apportion"),
}
# sent on under their own names
SENT_ON = frozenset(name for name, field in FIELDS.items() if field.sent_on or field.does == "forwarded")
INTRODUCTION = """\
# Every field of a request for a response

<!-- Generated: python -m server.api.responses.fields > docs/responses-fields.md -->

What becomes of the fields of `POST /v1/responses`. *Honoured*: the gateway acts on it. *Translated*: it is rewritten
into a chat's fields, which [fields.md](fields.md) describes. *Forwarded*: it goes to the engine as it came, with every
candidate. *Refused*: a 400 that names the field; values that ask for nothing (false, null) pass.

A null counts as not given. A field that is not listed is treated as in a chat: `seed`, `stop` and vLLM's own work here
too.
"""


if __name__ == "__main__":
    sys.stdout.write(reference(FIELDS, INTRODUCTION))
