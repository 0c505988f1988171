"""One process that runs the user's function: a line of JSON in, a line of JSON out. Ends with its standard input.

Started by its own path and on its own, so that it has nothing of the gateway in it: standard library only. What the
function prints goes to standard error. Of a failure only its kind and its line are told: its text may hold a prompt.
"""

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def _load(path: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("apportion_scorer", path)
    if spec is None or spec.loader is None:
        raise ImportError
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    return getattr(module, name)


def _where(error: BaseException, path: str) -> str:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f"{type(error).__name__}" + (f" in line {lines[-1]}" if lines else "")


def main() -> None:
    path, name = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    function: Callable[..., Any] | None = None
    problem = ""
    try:
        function = _load(path, name)
    except BaseException as error:  # noqa: BLE001 - told to the gateway with the first question
        problem = f"its file can't be loaded: {_where(error, path)}"
    for line in sys.stdin.buffer:  # bytes, whatever the locale's encoding is
        try:
            asked = json.loads(line)
            if function is None:
                answer = {"error": problem}
            else:
                scores = function(asked["messages"], asked["candidates"])
                answer = {"scores": [None if score is None else float(score) for score in scores]}
            text = json.dumps(answer, allow_nan=False)
        except Exception as error:  # noqa: BLE001 - whatever the user's code does is told
            text = json.dumps({"error": f"its function failed: {_where(error, path)}"})
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
