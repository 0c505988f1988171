"""The settings of one configured scorer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from server.section import Section, http_url
from strategies.scorers import SCORERS
from strategies.spec import RESERVED, VERIFIER

Kind = Literal["process_reward", "outcome_reward", "judge", "http", "python"]
Aggregation = Literal["last", "min", "product", "mean"]

_NAME = re.compile(r"(?!.*__)[a-z][a-z0-9_-]{0,39}")
_ANYWHERE = ("kind", "timeout_seconds", "concurrency")
_TAKES: Mapping[Kind, tuple[str, ...]] = {
    "process_reward": ("url", "api_key", "model", "aggregation", "step_mark"),
    "outcome_reward": ("url", "api_key", "model", "good_class"),
    "judge": ("url", "api_key", "model", "compare", "max_tokens"),
    "http": ("url", "api_key", "together"),
    "python": ("function", "together"),
}
_NEEDS: Mapping[Kind, str] = {
    "process_reward": "url",
    "outcome_reward": "url",
    "http": "url",
    "python": "function",
}


def _function(value: str) -> str:
    path, _, name = value.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ValueError("should be a file and a function in it, such as verify.py:score")
    if not Path(path).expanduser().is_file():
        raise ValueError(f"there is no file {path}")
    return value


class ScorerSettings(Section):
    """A scorer under a name, for `best_of_n@8:NAME` and `beam_search@4x4:NAME`."""

    kind: Kind = Field(
        description="`process_reward`: a process reward model on vLLM's `/pooling`, a score for every step. "
        "`outcome_reward`: a classifier on vLLM's `/classify`. `judge`: a chat model that is asked for a verdict. "
        "`http`: an endpoint of your own. `python`: a function of your own.",
    )
    url: Annotated[str, AfterValidator(http_url)] | None = Field(
        default=None,
        description="Address of the server, with or without `/v1`; of `http`: the endpoint itself. A `judge` without "
        "one is the engine.",
    )
    api_key: SecretStr | None = Field(default=None, min_length=1, description="Key sent to `url` as a bearer token.")
    model: str | None = Field(
        default=None,
        min_length=1,
        description="Model asked for at `url`; of a `judge` on the engine: instead of the request's own.",
    )
    timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Longest wait for a score, time in the queue included; then the vote decides.",
    )
    concurrency: int = Field(
        default=8, ge=1, le=1024, description="Calls in work at once, over all requests; of `python`: processes."
    )
    aggregation: Aggregation = Field(
        default="last", description="Of `process_reward`: how the scores of the steps become one."
    )
    step_mark: str = Field(
        default="<extra_0>",
        min_length=1,
        description="Of `process_reward`: the model's own mark for the end of a step; blank lines become it.",
    )
    good_class: int = Field(
        default=-1,
        ge=-1,
        le=10_000,
        description="Of `outcome_reward`: the class whose probability is the score; -1 for the last.",
    )
    compare: Literal["pointwise", "pairwise"] = Field(
        default="pointwise",
        description="Of a `judge`: marks for each candidate, or a knockout of two at a time when all have come.",
    )
    max_tokens: int = Field(
        default=256,
        ge=1,
        le=32_768,
        description="Of a `judge`: completion tokens of one verdict, which the request's budget pays for.",
    )
    together: bool = Field(
        default=False,
        description="Of `http` and `python`: one call with all candidates when the last has come, instead of one each.",
    )
    function: Annotated[str, AfterValidator(_function)] | None = Field(
        default=None, description="Of `python`: a file and a function in it, `path.py:function`."
    )


def conflicts(scorers: Mapping[str, ScorerSettings]) -> Iterator[str]:
    """What is wrong with them, each led by the setting's full path."""
    for name, scorer in scorers.items():
        path = f"scorers.{name[:60]}"
        if not _NAME.fullmatch(name) or name in RESERVED:
            yield (
                f"{path}: not a name for a scorer; accepted: a letter, then up to 39 of a-z, 0-9, - and single _; not "
                f"{', '.join(sorted(RESERVED))}"
            )
        if name in SCORERS:
            yield f"{path}: is built in; choose another name"
        takes = _TAKES[scorer.kind]
        needs = _NEEDS.get(scorer.kind)
        if needs is not None and getattr(scorer, needs) is None:
            yield f"{path}.{needs}: needed, because its kind is {scorer.kind}"
        for setting in sorted(scorer.model_fields_set - {*takes, *_ANYWHERE}):
            if getattr(scorer, setting) is not None:
                yield f"{path}.{setting}: not for the kind {scorer.kind}, which takes {', '.join(takes)}"
        if name == VERIFIER and scorer.together:
            yield f"{path}.together: not for the {VERIFIER}, which ends the drawing with the first that is right"
        if name == VERIFIER and scorer.compare == "pairwise":
            yield f"{path}.compare: not pairwise for the {VERIFIER}, which tells of each whether it is right"
        if scorer.kind == "judge" and scorer.url is not None and scorer.model is None:
            yield f"{path}.model: needed, because it has a url of its own"
        if scorer.kind == "judge" and scorer.url is None and scorer.api_key is not None:
            yield f"{path}.api_key: not used without a url"
