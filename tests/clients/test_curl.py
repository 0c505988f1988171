"""curl, as any HTTP client without an SDK. That it reads a stream is shown in tests/contract."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.clients.programs import KEY
from tests.clients.scripted import ANSWER, MODEL

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(url: str, body: dict[str, Any] | str, *options: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    data = body if isinstance(body, str) else json.dumps(body)
    headers = ["-H", "content-type: application/json", "-H", f"authorization: Bearer {key}"]
    command = ["curl", "-sS", "--noproxy", "*", *headers, "-d", data, *options]
    return subprocess.run([*command, f"{url}/v1/chat/completions"], capture_output=True, text=True, timeout=60)


def asks(content: str = "How much is 3 + 4?", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def test_plain(scripted: str) -> None:
    """Without so much as a model: the engine has one."""
    done = curl(scripted, asks(), "--fail")

    reply = json.loads(done.stdout)
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert reply["model"] == MODEL


def test_options_in_headers_and_what_the_headers_tell(scripted: str) -> None:
    done = curl(scripted, asks(), "--fail", "-i", "-H", "x-apportion-strategy: best_of_n@2")

    head, _, body = done.stdout.replace("\r", "").partition("\n\n")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\n")[1:])
    assert headers["x-apportion-strategy"] == json.loads(body)["apportion"]["strategy"] == "best_of_n@2"
    assert headers["x-request-id"] == json.loads(body)["id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [("{", 400), (asks(temperature=7), 400), (asks(model="gpt-99"), 404), (asks("refuse with 500"), 500)],
)
def test_an_error_is_a_status_and_openais_body(scripted: str, body: dict[str, Any] | str, status: int) -> None:
    done = curl(scripted, body, "--fail-with-body", "-w", "\n%{http_code}")

    shown, _, told = done.stdout.rpartition("\n")
    assert done.returncode == 22  # curl's word for an error of HTTP
    assert int(told) == status
    assert set(json.loads(shown)["error"]) == {"message", "type", "param", "code"}


def test_a_wrong_key_is_refused(scripted: str) -> None:
    done = curl(scripted, asks(), "--fail-with-body", key="sk-wrong")

    assert done.returncode == 22
    assert json.loads(done.stdout)["error"]["code"] == "invalid_api_key"


def test_a_tools_call_comes_whole(scripted: str) -> None:
    function = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    done = curl(scripted, asks(tools=[{"type": "function", "function": function}]), "--fail")

    [call] = json.loads(done.stdout)["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}


def test_retry_asks_an_overloaded_engine_again(scripted: str) -> None:
    done = curl(scripted, asks("busy at first curl"), "--fail", "--retry", "2")

    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == ANSWER
