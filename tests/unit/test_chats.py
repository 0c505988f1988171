"""Questions from a user's own traffic: what a line may be, what is one question twice, and what is a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from router.chats import read_chats
from router.questions import Question, form_of, verify


def chat(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def batch(name: str, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body, **fields}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


def read(file: Path, *rows: object, **options: Any) -> tuple[Question, ...]:
    file.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    return read_chats(file, max_tokens=256, **options).questions


def test_a_chat_with_all_it_can_say(file: Path) -> None:
    schema = {"type": "json_object"}
    (asked,) = read(
        file,
        chat(
            "2 + 2, as JSON?", id=7, family="sums", reference={"sum": 4}, max_tokens=20, response_format=schema, seed=3
        ),
    )
    assert (asked.id, asked.family, asked.max_tokens, asked.label) == ("7", "sums", 20, "reference")
    assert asked.sampling == {"response_format": schema}
    assert form_of(asked) == "json"
    assert verify(asked, '```json\n{"sum": 4.0}\n```') == 1.0
    assert verify(asked, '{"sum": 5}') == 0.0


def test_batch_requests_and_chats_may_be_mixed(file: Path) -> None:
    """What is sniffed line by line; the chat is a batch request's body."""
    tools = [{"type": "function", "function": {"name": "add"}}]
    asked = read(
        file,
        chat("1 + 1?", reference="2"),
        batch("b-1", chat("1 + 2?", max_completion_tokens=9, model="m", tools=tools), reference="3"),
    )
    assert [q.label for q in asked] == ["reference", "reference"]
    assert (asked[1].id, asked[1].max_tokens, asked[1].tools) == ("b-1", 9, tuple(tools))
    assert asked[0].max_tokens == 256


def test_who_judges_follows_from_what_is_there(file: Path) -> None:
    lines = [chat("a?", reference="x"), chat("b?")]
    assert [q.label for q in read(file, *lines)] == ["reference", "agreement"]
    assert [q.label for q in read(file, *lines, has_verifier=True)] == ["verifier", "verifier"]


@pytest.mark.parametrize(
    ("reference", "text", "verdict"),
    [
        ("So 6 * 7 is it. #### 42", "I get \\boxed{42.0}", 1.0),
        ("42", "The answer is 43.", 0.0),
        ("Friday", "friday.", 1.0),
        ("B", "The answer is B.", 1.0),
    ],
)
def test_answers_are_compared_as_the_gateway_reads_them(reference: str, text: str, verdict: float, file: Path) -> None:
    content = "Which? A) red B) blue" if reference == "B" else "How much, or when?"
    assert verify(read(file, chat(content, reference=reference))[0], text) == verdict


def test_one_question_twice_is_asked_once(file: Path) -> None:
    """The same messages with other tools or another format are another question."""
    file.write_bytes(
        b"\n".join(
            orjson.dumps(row)
            for row in [
                chat("a?", temperature=0.2),
                chat("a?", seed=9, id="again"),
                chat("a?", response_format={"type": "json_object"}),
            ]
        )
    )
    chats = read_chats(file, max_tokens=9)
    assert len(chats.questions) == 2
    assert chats.duplicates == 1


def test_a_template_filled_in_again_is_of_the_same_group(file: Path) -> None:
    """Splitting by group keeps what a model could have learned by heart out of its test."""
    asked = read(
        file,
        chat("What is 12 + 3.50?"),
        chat("what is  7 + 1,200? "),
        chat([{"type": "text", "text": "What is 1 + 1?"}]),  # type: ignore[arg-type]
        chat("What is 12 - 3.50?"),
    )
    assert asked[0].group == asked[1].group
    assert asked[0].group != asked[3].group
    assert len({q.id for q in asked}) == 4


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "line 2: not JSON"),
        (b"[]", "line 2: not a JSON object"),
        (orjson.dumps({"prompt": "a"}), "line 2: messages: a list"),
        (orjson.dumps({"messages": ["a"]}), "line 2: messages: not a list of JSON objects"),
        (orjson.dumps({"messages": [{"content": "a"}]}), "line 2: messages: .* each with a role"),
        (orjson.dumps({"messages": [{"role": "assistant", "content": "a"}]}), "line 2: .* assistant's; leave it out"),
        (orjson.dumps(chat("b?", max_tokens=0)), "line 2: max_tokens"),
        (orjson.dumps(chat("b?", tools={})), "line 2: tools"),
        (
            orjson.dumps(chat("Which? A) red B) blue", reference="the red one")),
            "line 2: .* holds no answer of .* 'choice'",
        ),
        (orjson.dumps(batch("b", chat("b?")) | {"url": "/v1/embeddings"}), "line 2: url: '/v1/embeddings'"),
        (orjson.dumps(chat("b?", id="one")), "line 2: another question has the id 'one'"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: bytes, complaint: str, file: Path) -> None:
    file.write_bytes(orjson.dumps(chat("a?", id="one")) + b"\n" + line)
    with pytest.raises(ValueError, match=complaint):
        read_chats(file, max_tokens=9)


def test_an_empty_file_is_named(file: Path) -> None:
    file.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl holds no chats"):
        read_chats(file, max_tokens=9)
