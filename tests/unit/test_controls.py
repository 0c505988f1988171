"""Where strategy, profile and limits may be named, and which place wins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from server.api.controls import KEEP_ALIVE, Options, keep_alive
from server.api.request import parse, to_query
from server.config import Config
from server.errors import InvalidRequest
from strategies.types import Query

CONFIG = Config.model_validate({"profiles": {name: {} for name in "abcdef"}, "reasoning_effort": {"low": "e"}})
MESSAGES = [{"role": "user", "content": "?"}]


def settled(config: Config = CONFIG, **request: Any) -> tuple[Query, Options]:
    """body: fields of the request; headers, path: as they come; own: the `apportion` object."""
    headers, path = request.pop("headers", {}), request.pop("path", None)
    body = {"model": "m", "messages": MESSAGES, **request.pop("body", {}), "apportion": request.pop("own", {})}
    assert not request
    return to_query(parse(body), headers, config, id="q", models=["m", "llama3:fast"], arrived=100.0, path=path)


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    together = {**one}
    for key, value in other.items():
        together[key] = {**one.get(key, {}), **value} if isinstance(value, dict) else value
    return together


# The places that can name a profile, the most exact first; each names another.
PROFILES: list[dict[str, Any]] = [
    {"own": {"profile": "a"}},
    {"headers": {"x-apportion-profile": "b"}},
    {"path": "c"},
    {"body": {"model": "m:d"}},
    {"body": {"reasoning_effort": "low"}},
]
STRATEGIES: list[dict[str, Any]] = [
    {"own": {"strategy": "best_of_n@2"}},
    {"headers": {"x-apportion-strategy": "best_of_n@3"}},
    {"path": "best_of_n@4"},
    {"body": {"model": "m:best_of_n@5"}},
    {"body": {"best_of": 6}},
    {"body": {"reasoning_effort": "none"}},
]
MEANT = ["best_of_n@2", "best_of_n@3", "best_of_n@4", "best_of_n@5", "best_of_n@6", "single"]


@pytest.mark.parametrize(("place", "profile"), list(zip(PROFILES, "abcde", strict=True)))
def test_every_place_can_name_a_profile(place: dict[str, Any], profile: str) -> None:
    query, _ = settled(**place)
    assert (query.profile, query.requested, query.model) == (profile, None, "m")


@pytest.mark.parametrize(("place", "strategy"), list(zip(STRATEGIES, MEANT, strict=True)))
def test_every_place_can_name_a_strategy(place: dict[str, Any], strategy: str) -> None:
    query, _ = settled(**place)
    assert (str(query.requested), query.profile, query.model) == (strategy, "balanced", "m")


def test_best_of_1_is_one_candidate() -> None:
    query, _ = settled(body={"best_of": 1})
    assert str(query.requested) == "single"


@pytest.mark.parametrize(("stronger", "weaker"), list(itertools.combinations(range(5), 2)))
def test_of_every_two_places_the_more_exact_names_the_profile(stronger: int, weaker: int) -> None:
    query, _ = settled(**merged(PROFILES[weaker], PROFILES[stronger]))
    assert query.profile == "abcde"[stronger]


@pytest.mark.parametrize(("stronger", "weaker"), list(itertools.combinations(range(6), 2)))
def test_of_every_two_places_the_more_exact_names_the_strategy(stronger: int, weaker: int) -> None:
    query, _ = settled(**merged(STRATEGIES[weaker], STRATEGIES[stronger]))
    assert str(query.requested) == MEANT[stronger]


# not where one word would have to be both
APART = [(p, s) for p, s in itertools.product(range(4), range(5)) if (p, s) not in ((2, 2), (3, 3))]


@pytest.mark.parametrize(("profile", "strategy"), APART)
def test_a_strategy_and_a_profile_are_named_apart(profile: int, strategy: int) -> None:
    """The prices of one place and the strategy of another."""
    both = merged(PROFILES[profile], STRATEGIES[strategy])
    query, _ = settled(**both)
    assert query.profile == "abcd"[profile]
    assert str(query.requested) == MEANT[strategy]


@pytest.mark.parametrize("place", [*PROFILES[:4], *STRATEGIES[:5], {"own": {"strategy": "auto"}}])
@pytest.mark.parametrize("effort", ["none", "low"])
def test_an_effort_says_nothing_once_anything_is_named(place: dict[str, Any], effort: str) -> None:
    named, _ = settled(**place)
    query, _ = settled(**merged(place, {"body": {"reasoning_effort": effort, **place.get("body", {})}}))
    assert (query.profile, query.requested) == (named.profile, named.requested)
    assert query.sampling["reasoning_effort"] == effort


@pytest.mark.parametrize("place", STRATEGIES[1:])
def test_auto_in_the_body_takes_back_what_any_other_place_names(place: dict[str, Any]) -> None:
    query, _ = settled(**merged(place, {"own": {"strategy": "auto"}}))
    assert query.requested is None


@pytest.mark.parametrize("place", ["path", "suffix"])
def test_auto_can_stand_where_a_profile_can(place: str) -> None:
    query, _ = settled(**({"path": "auto"} if place == "path" else {"body": {"model": "m:auto"}}))
    assert (query.profile, query.requested, query.model) == ("balanced", None, "m")


@pytest.mark.parametrize(
    ("effort", "profile", "strategy"),
    [
        ("none", "balanced", "single"), ("minimal", "fast", "None"), ("low", "fast", "None"),
        ("medium", "balanced", "None"), ("high", "quality", "None"), ("xhigh", "quality", "None"),
        ("max", "quality", "None"), ("the engine's own", "balanced", "None"),
    ],
)  # fmt: skip
def test_an_effort_is_a_profile_and_goes_on_to_the_engine(effort: str, profile: str, strategy: str) -> None:
    query, _ = settled(Config(), body={"reasoning_effort": effort})
    assert (query.profile, str(query.requested)) == (profile, strategy)
    assert query.sampling == {"reasoning_effort": effort}


def test_the_operator_says_what_an_effort_means() -> None:
    config = Config.model_validate({"reasoning_effort": {"high": "majority_vote@5", "low": "auto"}})
    high, _ = settled(config, body={"reasoning_effort": "high"})
    low, _ = settled(config, body={"reasoning_effort": "low"})
    assert (str(high.requested), low.requested, low.profile) == ("majority_vote@5", None, "balanced")
    with pytest.raises(ValueError, match=r"reasoning_effort\.max: no profile"):
        Config.model_validate({"reasoning_effort": {"max": "ultra"}})


OPTIONS: list[tuple[str, str, Any]] = [
    ("strategy", "single", "single"), ("profile", "fast", "fast"), ("max_total_tokens", "70", 70),
    ("deadline_ms", "900", 900), ("token_price", "0.5", 0.5), ("latency_price", "0", 0.0), ("strict", "true", True),
    ("answer_pattern", "= (.)", "= (.)"), ("include", "features, candidates", ["features", "candidates"]),
    ("progress", "1", True),
]  # fmt: skip


def test_every_option_has_its_header() -> None:
    assert {name for name, _, _ in OPTIONS} == set(Options.model_fields)


@pytest.mark.parametrize(("name", "text", "value"), OPTIONS)
def test_a_header_means_what_the_body_does(name: str, text: str, value: Any) -> None:
    header = {f"x-apportion-{name.replace('_', '-')}": text}
    assert settled(headers=header) == settled(own={name: value})


@pytest.mark.parametrize(("name", "text", "value"), OPTIONS)
def test_the_body_goes_over_the_header_but_for_nulls(name: str, text: str, value: Any) -> None:
    header = {f"x-apportion-{name.replace('_', '-')}": text}
    assert settled(headers=header, own={name: None}) == settled(own={name: value})
    for other in (1, "single", "fast", ["predictions"]):
        try:
            alone = settled(own={name: other})
        except InvalidRequest:
            continue
        assert settled(headers=header, own={name: other}) == alone


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("x-apportion-max-tokens", "5"), ("x-apportion-", "5"), ("x-apportion-deadline-ms", "soon"),
        ("x-apportion-deadline-ms", "0"), ("x-apportion-max-total-tokens", "1.5"), ("x-apportion-max-total-tokens", ""),
        ("x-apportion-token-price", "-1"), ("x-apportion-token-price", "nan"), ("x-apportion-token-price", "inf"),
        ("x-apportion-strict", "perhaps"), ("x-apportion-include", "everything"),
        ("x-apportion-strategy", "magic"), ("x-apportion-strategy", "best_of_n@999"), ("x-apportion-profile", "none"),
    ],
)  # fmt: skip
def test_a_header_that_can_not_be_is_refused_by_name(header: str, text: str) -> None:
    """A typing error in a limit must not mean no limit."""
    with pytest.raises(InvalidRequest) as refused:
        settled(headers={header: text})
    assert refused.value.param is not None
    assert refused.value.param.startswith(header)


def test_a_model_of_the_engines_keeps_its_colon() -> None:
    query, _ = settled(body={"model": "llama3:fast"})
    assert (query.model, query.profile) == ("llama3:fast", "balanced")
    query, _ = settled(body={"model": "llama3:fast:quality"})
    assert (query.model, query.profile) == ("llama3:fast", "quality")


@pytest.mark.parametrize("name", ["llama3:8b", "ft:gpt:org::id", ":fast", "m:", "m:best_of_n"])
def test_what_is_no_suffix_is_the_models_name(name: str) -> None:
    query, _ = settled(body={"model": name})
    assert (query.model, query.profile, query.requested) == (name, "balanced", None)


def test_a_suffix_can_have_options() -> None:
    query, _ = settled(body={"model": "org/m:best_of_n@8:self_certainty:weighted"})
    assert (query.model, str(query.requested)) == ("org/m", "best_of_n@8:self_certainty:weighted")


@pytest.mark.parametrize("word", ["best_of_n@65", "best_of_n@4:nobody", "magic@3"])
@pytest.mark.parametrize("place", ["path", "model", "apportion.strategy", "best_of"])
def test_no_place_gets_past_what_the_operator_allows(word: str, place: str) -> None:
    request: dict[str, Any] = {
        "path": {"path": word},
        "model": {"body": {"model": f"m:{word}"}},
        "apportion.strategy": {"own": {"strategy": word}},
        "best_of": {"body": {"best_of": 65}},
    }[place]
    with pytest.raises(InvalidRequest) as refused:
        settled(**request)
    assert refused.value.param == place


CAPS = {
    "budgets": {
        "cap_total_tokens": 50,
        "default_max_total_tokens": 40,
        "cap_deadline_ms": 500,
        "default_deadline_ms": 400,
    },
    "profiles": {"mine": {"max_total_tokens": 45, "deadline_ms": 450}},
}


@pytest.mark.parametrize(
    ("request_", "tokens", "seconds"),
    [
        ({}, 40, 0.4),
        ({"own": {"profile": "mine"}}, 45, 0.45),
        ({"own": {"profile": "mine", "max_total_tokens": 9, "deadline_ms": 90}}, 9, 0.09),
        ({"own": {"max_total_tokens": 10**6, "deadline_ms": 10**7}}, 50, 0.5),
        ({"headers": {"x-apportion-max-total-tokens": "51", "x-apportion-deadline-ms": "501"}}, 50, 0.5),
    ],
)
def test_the_operators_caps_hold_over_all_of_it(request_: dict[str, Any], tokens: int, seconds: float) -> None:
    query, _ = settled(Config.model_validate(CAPS), **request_)
    assert query.budget.max_total_tokens == tokens
    assert query.budget.deadline == pytest.approx(100 + seconds)


@pytest.mark.parametrize("header", ["x-stainless-read-timeout", "x-stainless-timeout"])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("0.25", 0.25), ("600", 60), ("0", 60), ("-1", 60), ("nan", 60), ("inf", 60), ("None", 60), ("", 60)],
)
def test_the_clients_patience_bounds_the_deadline(header: str, text: str, seconds: float) -> None:
    """Of the Python SDK and of the Node one. In a stream it is for the gap between two signs of life."""
    query, _ = settled(Config(), headers={header: text})
    assert query.budget.deadline == pytest.approx(100 + seconds)
    streamed, _ = settled(Config(), headers={header: text}, body={"stream": True})
    assert streamed.budget.deadline == pytest.approx(160)
    assert keep_alive({header: text}) == min(KEEP_ALIVE, seconds / 2)
