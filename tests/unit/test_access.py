"""API keys: what is kept of them, whose they are, what they may ask for, and what is counted for them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.datastructures import Headers

from server.access.caller import ANYONE, Account, Caller, account, paying
from server.access.keys import Keyring, digest, hashed, new_key
from server.access.middleware import Gate
from server.access.quota import Limits, LimitsUnavailable, Quota, duration
from server.config import Config, ConfigError, load_config
from server.errors import RateLimited, Unauthorized

pytestmark = pytest.mark.anyio
ONE = "sk-test-0123456789abcdef"
OTHER = "sk-test-fedcba9876543210"


class Clock:
    """Stands in for time.time in the quota and in what counts for it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def configured(keys: Mapping[str, Any], **access: Any) -> Config:
    return Config.model_validate({"keys": keys, "access": access})


def gate_of(config: Config) -> Gate:
    return Gate.of(config.keys, config.access)


# --- keys


def test_a_key_is_random_and_passes_as_one() -> None:
    assert new_key() != new_key()
    assert len(new_key()) > 40
    assert hashed(new_key()).startswith("sha256:")


def test_only_the_hash_of_a_key_is_kept() -> None:
    """Also when the configuration holds the key itself."""
    kept = f"sha256:{hashlib.sha256(ONE.encode()).hexdigest()}"
    for given in (ONE, kept, kept.upper().replace("SHA256", "sha256")):
        config = configured({"a": {"key": given}})
        assert config.keys["a"].key.get_secret_value() == kept
        assert ONE not in f"{config!r} {config.model_dump()}"
        assert kept not in f"{config!r} {config.model_dump_json()}"


def test_a_key_may_come_from_a_variable() -> None:
    environ = {"APPORTION_KEYS__TEAM_A__KEY": ONE, "APPORTION_KEYS__TEAM_A__PROFILES": "fast, balanced"}
    config = load_config(None, environ=environ)
    assert gate_of(config).identify("/v1/models", Headers({"x-api-key": ONE})).profiles == ("fast", "balanced")


@pytest.mark.parametrize(
    "key",
    ["", "short", "sha256:1234", "x" * 600, "with a space in it", "ümlaut-0123456789abc", 12345678901234567, True],
)
def test_what_is_no_key_is_refused_without_being_repeated(key: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides={"keys": {"a": {"key": key}}}, environ={})
    assert str(caught.value).startswith("keys.a.key: ")
    assert str(key) not in str(caught.value) or not key


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"A b": {"key": ONE}}, "keys.A b: not a name for a key"),
        ({"a": {"key": ONE}, "b": {"key": ONE}}, "keys.b.key: is the key of 'a' too"),
        ({"a": {"key": ONE, "profiles": ["none"]}}, "keys.a.profiles: no profile 'none'; accepted: fast"),
        ({"a": {}}, "keys.a.key: needed"),
        ({"a": {"key": ONE, "tokens_per_minit": 4}}, "did you mean keys.a.tokens_per_minute?"),
    ],
)
def test_keys_that_can_not_be_are_configuration_errors(keys: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match="keys") as caught:
        load_config(None, overrides={"keys": keys}, environ={})
    assert problem in str(caught.value)
    assert ONE not in str(caught.value)


@pytest.mark.parametrize(
    ("access", "problem"),
    [
        ({"limits_storage": "redis:secret"}, "access.limits_storage: should begin with one of redis://"),
        ({"cors_origins": ["https://a.example/path"]}, "access.cors_origins: should be origins"),
    ],
)
def test_access_settings_that_can_not_be_are_configuration_errors(access: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides={"access": access}, environ={})
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_keyring_knows_every_key_by_its_owner() -> None:
    ring = Keyring({"one": digest(ONE), "other": digest(OTHER)})
    assert (ring.owner(ONE), ring.owner(OTHER)) == ("one", "other")
    assert ring.owner(ONE[:-1]) is None
    assert ring.owner(digest(ONE)) is None, "the hash is no key"
    assert ring.owner(ONE + "x" * 10_000) is None
    assert ring.owner("\udcff") is None


# --- the gate


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": f"Bearer {ONE}"}, "one"),
        ({"authorization": f"bearer  {ONE} "}, "one"),
        ({"x-api-key": OTHER}, "other"),
        ({"authorization": "Bearer unused", "x-api-key": OTHER}, "other"),
    ],
)
def test_a_key_comes_as_openais_or_as_anthropics_clients_send_it(headers: dict[str, str], name: str) -> None:
    gate = gate_of(configured({"one": {"key": ONE}, "other": {"key": OTHER, "max_total_tokens": 7}}))
    caller = gate.identify("/v1/chat/completions", Headers(headers))
    assert (caller.name, caller.max_total_tokens) == (name, 7 if name == "other" else None)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"authorization": f"Basic {ONE}"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Bearer wrong"}, "invalid_api_key"),
        ({"x-api-key": f"Bearer {ONE}"}, "invalid_api_key"),
    ],
)
def test_without_a_key_of_ours_nothing_is_answered(headers: dict[str, str], code: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        gate_of(configured({"one": {"key": ONE}})).identify("/v1/models", Headers(headers))
    assert caught.value.code == code
    assert "wrong" not in caught.value.message


@pytest.mark.parametrize(("need_key", "open_paths"), [(False, 3), (True, 2)])
def test_health_is_open_and_metrics_as_configured(need_key: bool, open_paths: int) -> None:
    gate = gate_of(configured({"one": {"key": ONE}}, metrics_need_key=need_key))
    for path in ("/health", "/ready", "/metrics")[:open_paths]:
        assert gate.identify(path, Headers()) == ANYONE
    for path in ("/openapi.json", "/health/", "/v1/models", "/metrics")[: 3 + need_key]:
        with pytest.raises(Unauthorized):
            gate.identify(path, Headers())


def test_without_keys_everyone_may_ask() -> None:
    assert gate_of(Config()).identify("/v1/models", Headers({"authorization": "Bearer anything"})) == ANYONE


# --- what a caller may ask for


def test_a_caller_gets_the_default_profile_or_the_first_of_its_own() -> None:
    assert ANYONE.default_profile("balanced") == "balanced"
    assert Caller(profiles=("fast", "balanced")).default_profile("balanced") == "balanced"
    assert Caller(profiles=("fast", "quality")).default_profile("balanced") == "fast"


def test_a_caller_may_ask_for_its_own_profiles() -> None:
    assert ANYONE.may("quality")
    assert Caller(profiles=("fast",)).may("fast")
    assert Caller(profiles=("fast",)).may(None)
    assert not Caller(profiles=("fast",)).may("quality")


def test_a_callers_caps_only_lower() -> None:
    caller = Caller(max_total_tokens=100, deadline_ms=1000)
    assert (caller.capped_tokens(50), caller.capped_tokens(500)) == (50, 100)
    assert (caller.capped_deadline(500), caller.capped_deadline(5000)) == (500, 1000)
    assert (ANYONE.capped_tokens(500), ANYONE.capped_deadline(500)) == (500, 500)


# --- limits


async def test_requests_over_the_limit_wait_for_the_next_minute(clock: Clock) -> None:
    quota = Quota({"a": Limits(requests=2), "b": Limits(requests=2)})
    await quota.admit("a")
    clock.now += 20
    await quota.admit("a")
    with pytest.raises(RateLimited) as caught:
        await quota.admit("a")
    error = caught.value
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.headers["retry-after"] == "40"
    await quota.admit("b")
    assert await quota.headers("a") == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "40s",
    }
    clock.now += 41
    await quota.admit("a")


async def test_a_refused_request_is_not_counted(clock: Clock) -> None:
    quota = Quota({"a": Limits(tokens=100)})
    await quota.reserve("a", 90)
    with pytest.raises(RateLimited, match="limit 100, requested 20"):
        await quota.reserve("a", 20)
    await quota.reserve("a", 10)


async def test_reserved_tokens_become_those_that_were_spent(clock: Clock) -> None:
    quota = Quota({"a": Limits(tokens=100)})
    reserved = await quota.reserve("a", 90)
    assert reserved is not None
    await quota.settle("a", [reserved], 30)
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "70"
    more = await quota.reserve("a", 40)
    assert more is not None
    await quota.settle("a", [more], 60)
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "10"


async def test_tokens_of_a_minute_that_has_passed_are_not_given_back_to_the_next(clock: Clock) -> None:
    quota = Quota({"a": Limits(tokens=100)})
    reserved = await quota.reserve("a", 90)
    assert reserved is not None
    clock.now += 61
    await quota.settle("a", [reserved], 30)
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "70", (
        "spent in this minute, as far as it shows"
    )


async def test_one_request_may_have_the_whole_minute_and_no_more(clock: Clock) -> None:
    """Otherwise a limit below a request's budget would let nothing through, ever."""
    quota = Quota({"a": Limits(tokens=100)})
    reserved = await quota.reserve("a", 5000)
    assert reserved is not None
    assert reserved.tokens == 100
    await quota.settle("a", [reserved], 20)
    with pytest.raises(RateLimited):
        await quota.reserve("a", 5000)


async def test_what_is_left_is_taken_where_that_is_likely_to_be_enough(clock: Clock) -> None:
    """Otherwise a client that bounds nothing could ask once a minute."""
    quota = Quota({"a": Limits(tokens=100)})
    for left in (100, 80):
        reserved = await quota.reserve("a", 5000, likely=30)
        assert reserved is not None
        assert reserved.tokens == left
        with pytest.raises(RateLimited, match="requested 30"):
            await quota.reserve("a", 5000, likely=30)
        await quota.settle("a", [reserved], 20)
    with pytest.raises(RateLimited, match="requested 61"):
        await quota.reserve("a", 5000, likely=61)
    with pytest.raises(RateLimited, match="requested 100"):
        await quota.reserve("a", 5000, likely=300)
    await quota.reserve("a", 10, likely=50)
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "50"


async def test_without_limits_nothing_is_counted_or_told() -> None:
    quota = Quota({"a": Limits()})
    await quota.admit("a")
    assert await quota.reserve("a", 10**9) is None
    assert await quota.headers("a") == {}
    assert await quota.headers("nobody") == {}


async def test_the_counters_are_as_many_as_the_keys(clock: Clock) -> None:
    """Whatever comes in: nothing in memory grows with requests or with time."""
    quota = Quota({"a": Limits(requests=1000, tokens=100_000)})
    memory: Any = quota._counters.storage  # pyright: ignore[reportPrivateUsage]
    for _ in range(300):
        await quota.admit("a")
        reserved = await quota.reserve("a", 100)
        assert reserved is not None
        await quota.settle("a", [reserved], 90)
        clock.now += 7
    assert len(memory.storage) <= 2
    assert len(memory.expirations) <= 2
    assert not memory.events


class Down:
    """Counters of a storage that fails, or that never answers."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.asked = 0

    async def hit(self, *_: Any, **__: Any) -> bool:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        raise ConnectionError

    get_window_stats = hit


@pytest.mark.parametrize(("silent", "asked"), [(False, 9), (True, 1)])
async def test_a_storage_that_does_not_answer_lets_requests_pass(
    silent: bool, asked: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once; and only one request has to wait."""
    monkeypatch.setattr("server.access.quota._PATIENCE", 0.01)
    quota = Quota({"a": Limits(requests=1, tokens=1)})
    down = Down(silent=silent)
    quota._counters = down  # type: ignore[assignment]  # pyright: ignore
    for _ in range(3):
        await quota.admit("a")
        assert await quota.headers("a")
    assert (await quota.headers("a"))["x-ratelimit-remaining-requests"] == "1"
    assert down.asked == asked + 5 * (not silent)
    assert [record.message for record in caplog.records].count(caplog.records[0].message) == len(caplog.records) == 1


def test_a_storage_that_can_not_be_is_one_sentence() -> None:
    with pytest.raises(LimitsUnavailable, match=r"access\.limits_storage can't be used"):
        Quota({}, storage="nonsense://x")


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, "0ms"), (0.012, "12ms"), (1, "1s"), (59.26, "59.3s"), (60, "1m0s"), (360.2, "6m0s"), (61.6, "1m2s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert duration(seconds) == written


# --- accounts


async def test_an_account_settles_once_at_the_end_and_tasks_inherit_it(clock: Clock) -> None:
    quota = Quota({"a": Limits(tokens=100)})

    async def work() -> None:
        await account().reserve(50)
        await account().reserve(20)
        account().spend(25)

    async with paying(Account(quota, "a")):
        await asyncio.create_task(work())
        assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "30"
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "75"
    await work()  # nobody pays for what is done outside
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "75"


async def test_an_account_settles_when_its_request_is_cancelled(clock: Clock) -> None:
    quota = Quota({"a": Limits(tokens=100)})
    begun = asyncio.Event()

    async def request() -> None:
        async with paying(Account(quota, "a")):
            await account().reserve(60)
            account().spend(10)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await quota.headers("a"))["x-ratelimit-remaining-tokens"] == "90"
