"""Configuration: precedence, and errors a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from server.config import Config, ConfigError, load_config, reference, settings
from strategies.spec import StrategySpec

ROOT = Path(__file__).parents[2]


def problems(
    tmp_path: Path,
    text: str = "",
    *,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    environ: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    file = tmp_path / "apportion.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides=overrides, environ=environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert "pydantic" not in str(caught.value)
    return list(caught.value.problems)


def test_without_file_or_variables_the_defaults_hold() -> None:
    """Nothing but what is passed is looked at."""
    assert load_config(None, environ={}) == Config()


def test_flags_go_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """Each layer keeps what the next does not set."""
    file = tmp_path / "a.yaml"
    file.write_text("server: {host: a, port: 1, max_in_flight: 1}\n")
    environ = {"APPORTION_SERVER__PORT": "2", "APPORTION_SERVER__MAX_IN_FLIGHT": "2"}
    server = load_config(file, overrides={"server.port": 3, "server.host": None}, environ=environ).server
    assert (server.host, server.max_in_flight, server.port) == ("a", 2, 3)
    assert load_config(file, overrides={"server": {"port": 4}}, environ=environ).server.port == 4


def test_the_file_is_named_by_argument_or_else_by_variable(tmp_path: Path) -> None:
    """The argument wins."""
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("server: {port: 1}")
    two.write_text("server: {port: 2}")
    assert load_config(None, environ={"APPORTION_CONFIG": str(one)}).server.port == 1
    assert load_config(two, environ={"APPORTION_CONFIG": str(one)}).server.port == 2


def test_the_environment_can_hold_lists_and_profiles() -> None:
    """One price of a built-in profile can be changed alone; an empty variable is not set."""
    config = load_config(
        None,
        environ={
            "APPORTION_MENU": "single, best_of_n@8:mean_logprob:weighted",
            "APPORTION_PROFILES__FAST__TOKEN_PRICE": "2",
            "APPORTION_ENGINE__API_KEY": "",
            "APPORTION_ENGINE__MAX_N": "4",
            "UNRELATED": "x",
        },
    )
    assert [str(spec) for spec in config.menu] == ["single", "best_of_n@8:weighted"]
    assert config.profiles["fast"].token_price == 2
    assert config.profiles["fast"].latency_price == Config().profiles["fast"].latency_price
    assert config.engine.api_key is None
    assert config.engine.max_n == 4


def test_the_menu_may_name_a_configured_scorer_and_the_environment_may_hold_its_key() -> None:
    environ = {
        "APPORTION_SCORERS__MY_PRM__KIND": "process_reward",
        "APPORTION_SCORERS__MY_PRM__URL": "http://host:1/v1",
        "APPORTION_SCORERS__MY_PRM__API_KEY": "hush",
        "APPORTION_MENU": "single, best_of_n@8:my_prm:borda",
    }
    config = load_config(None, environ=environ)
    assert [str(spec) for spec in config.menu] == ["single", "best_of_n@8:my_prm:borda"]
    assert config.scorer_names[-1] == "my_prm"
    assert "hush" not in f"{config!r} {config.model_dump_json()}"


def test_kubernetes_service_links_are_not_settings() -> None:
    """A Service called apportion must not keep its own pods from starting."""
    links = {
        "APPORTION_PORT": "tcp://10.0.0.1:80",
        "APPORTION_SERVICE_HOST": "10.0.0.1",
        "APPORTION_SERVICE_PORT_HTTP": "80",
        "APPORTION_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load_config(None, environ=links) == Config()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("engine: {ulr: x}", "engine.ulr: unknown setting; did you mean engine.url?"),
        ("engin: {}", "engin: unknown setting; did you mean engine?"),
        ("port: 1", "port: unknown setting; did you mean server.port?"),
        ("metrics: {xyz: 1}", "metrics.xyz: unknown setting; known here: metrics.enabled"),
        (
            "profiles: {mine: {token_prize: 1}}",
            "profiles.mine.token_prize: unknown setting; did you mean profiles.mine.token_price?",
        ),
        ("_env_file: x", "_env_file: unknown setting; known here: server"),
        (
            "server: {port: 70000}",
            "server.port: 70000 is not accepted; accepted: whole number, at least 0, at most 65535",
        ),
        ("server: {port: yes}", "server.port: is read as true or false; write a number"),
        ("server: {log_level: loud}", "server.log_level: 'loud' is not accepted; accepted: debug, info"),
        ("server: {body_timeout_seconds: .nan}", "server.body_timeout_seconds: nan is not accepted; accepted: number"),
        ("server: 4", "server: 4 is not accepted; accepted: a section with host, port"),
        ("profiles: {mine: 4}", "profiles.mine: 4 is not accepted; accepted: a section with token_price"),
        ("profiles: {single: {}}", "profiles.single: not a name for a profile"),
        ("profiles: {fast: {menu: [majority_vote@7]}}", "profiles.fast.menu: majority_vote@7 is not on the menu"),
        ("profiles: {fast: {deadline_ms: 700000}}", "profiles.fast.deadline_ms: more than budgets.cap_deadline_ms"),
        ("menu: [single, singel]", "menu[1]: unknown method 'singel': known are single"),
        ("menu: [single, 4]", "menu[1]: should be a strategy written as text"),
        ("menu: [single, single]", "menu: named twice: single"),
        ("menu: []", "menu: [] is not accepted; accepted: strategies"),
        ("budgets: {max_candidates: 15, max_answers: 15}", "menu: majority_vote@16 draws 16 sequences at once"),
        ("budgets: {cap_total_tokens: 10}", "budgets.default_max_total_tokens: 8192 is more than"),
        ("budgets: {default_deadline_ms: 30}", "budgets.deadline_margin_ms: leaves nothing"),
        ("default_profile: none", "default_profile: no profile 'none'; accepted: fast, balanced, quality"),
        ("allocator: {predictor: lightgbm}", "allocator.models_dir: needed"),
        (
            "menu: [single, 'best_of_n@8:oracle']",
            "menu: best_of_n@8:oracle: unknown scorer 'oracle': known are mean_lo",
        ),
        ("scorers: {a: {}}", "scorers.a.kind: needed; accepted: process_reward, outcome_reward, judge, http, python"),
        ("scorers: {a: {kind: oracle}}", "scorers.a.kind: 'oracle' is not accepted; accepted: process_reward"),
        ("scorers: {a: {kind: http}}", "scorers.a.url: needed, because its kind is http"),
        ("scorers: {a: {kind: python}}", "scorers.a.function: needed, because its kind is python"),
        ("scorers: {a: {kind: judge, together: true}}", "scorers.a.together: not for the kind judge, which takes url"),
        ("scorers: {a: {kind: judge, url: 'http://x'}}", "scorers.a.model: needed, because it has a url of its own"),
        ("scorers: {a: {kind: judge, api_key: hush}}", "scorers.a.api_key: not used without a url"),
        (
            "scorers: {verifier: {kind: http, url: 'http://x', together: true}}",
            "scorers.verifier.together: not for the",
        ),
        ("scorers: {verifier: {kind: judge, compare: pairwise}}", "scorers.verifier.compare: not pairwise for the"),
        ("scorers: {a: {kind: http, url: 'http://me:hush@x'}}", "scorers.a.url: takes no user, password"),
        ("scorers: {a: {kind: http, api_key: [hush]}}", "scorers.a.api_key: what is given is not accepted"),
        ("scorers: {a: {kind: http, ulr: x}}", "scorers.a.ulr: unknown setting; did you mean scorers.a.url?"),
        ("scorers: {a: {api_key: hush}}", "scorers.a.kind: needed"),
        ("scorers: {a: {kind: python, function: none.py:f}}", "scorers.a.function: there is no file none.py"),
        ("scorers: {a: {kind: python, function: f}}", "scorers.a.function: should be a file and a function in it"),
        ("scorers: {borda: {kind: judge}}", "scorers.borda: not a name for a scorer"),
        ("scorers: {self_certainty: {kind: judge}}", "scorers.self_certainty: is built in"),
        ("engine: {url: 'ftp://x'}", "engine.url: should be a URL such as http://127.0.0.1:8001"),
        ("engine: {url: 'http://me:hush@x'}", "engine.url: takes no user, password"),
        ("1: 2", "[1]: Keys should be strings"),
        ("server: {port: 1}\nserver: {host: x}", "apportion.yaml, line 2: not YAML: 'server' is set twice"),
        ("a: [", "apportion.yaml, line 1: not YAML: "),
        ("- server", "apportion.yaml: holds no settings"),
    ],
)
def test_an_error_names_the_path_and_what_is_accepted(tmp_path: Path, text: str, problem: str) -> None:
    """One line a problem, the path first."""
    found = problems(tmp_path, text)
    assert any(problem in line.removeprefix(f"{tmp_path}/") for line in found), found
    assert "hush" not in str(found)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("APPORTION_ENGINE__ULR", "x", "APPORTION_ENGINE__ULR: unknown setting; did you mean APPORTION_ENGINE__URL?"),
        ("APPORTION_ENGINE_URL", "x", "APPORTION_ENGINE_URL: unknown setting; did you mean APPORTION_ENGINE__URL?"),
        ("APPORTION_PORT", "1", "APPORTION_PORT: unknown setting; did you mean APPORTION_SERVER__PORT?"),
        ("APPORTION_", "1", "APPORTION_: unknown setting; known here: "),
        ("APPORTION_SERVER__PORT", "x", "server.port (APPORTION_SERVER__PORT): 'x' is not accepted"),
        ("APPORTION_MENU", "single,bork@2", "menu[1] (APPORTION_MENU): unknown method 'bork'"),
        ("APPORTION_ENGINE", "{}", "engine (APPORTION_ENGINE): '{}' is not accepted; accepted: a section"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(
    tmp_path: Path, variable: str, value: str, problem: str
) -> None:
    """A variable that names nothing is refused like a line of the file."""
    assert problems(tmp_path, environ={variable: value})[0].startswith(problem)


def test_a_variable_below_a_setting_is_refused(tmp_path: Path) -> None:
    """pydantic-settings itself drops it when the setting has a value."""
    found = problems(tmp_path, environ={"APPORTION_SERVER__PORT": "1", "APPORTION_SERVER__PORT__X": "2"})
    assert found == ["APPORTION_SERVER__PORT__X: unknown setting; did you mean APPORTION_SERVER__PORT?"]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """File, environment and flags together."""
    found = problems(tmp_path, "engine: {ulr: x}", overrides={"server.port": -1}, environ={"APPORTION_ZZZ": "1"})
    assert [line.split(":")[0] for line in found] == ["APPORTION_ZZZ", "server.port", "engine.ulr"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is what to mend."""
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", environ={})


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    """Neither when printed nor in an error about it."""
    config = load_config(None, environ={"APPORTION_ENGINE__API_KEY": "hush"})
    assert config.engine.api_key is not None
    assert config.engine.api_key.get_secret_value() == "hush"
    assert "hush" not in f"{config!r} {config.model_dump_json()}"
    assert problems(tmp_path, "engine: {api_key: [hush]}") == [
        "engine.api_key: what is given is not accepted; accepted: text"
    ]


@pytest.mark.parametrize("url", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"])
def test_the_engines_url_may_end_in_v1(url: str) -> None:
    """Other tools' manuals write it so."""
    assert load_config(None, overrides={"engine.url": url}, environ={}).engine.url == "http://host:1"


def test_empty_sections_are_defaults(tmp_path: Path) -> None:
    """All lines of a section commented out."""
    file = tmp_path / "a.yaml"
    file.write_text("server:\nprofiles:\n  fast:\nengine:\n  embedded:\n")
    assert load_config(file, environ={}) == Config()


def test_the_configuration_is_immutable() -> None:
    """Requests share it."""
    config = Config()
    with pytest.raises(ValidationError):
        config.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.server = config.server  # type: ignore[misc]
    assert isinstance(config.menu, tuple)


def test_every_setting_is_described() -> None:
    """A sentence, and so a row of the reference."""
    for path, field in settings():
        assert field.description, path
        assert field.description.endswith("."), path
        assert f"`{path}" in reference(), path


def test_the_reference_is_up_to_date() -> None:
    """python -m server.config > docs/configuration.md"""
    assert (ROOT / "docs/configuration.md").read_text(encoding="utf-8") == reference()


def test_the_default_file_holds_every_default() -> None:
    """And names every setting, the unset ones in a comment."""
    text = (ROOT / "configs/default.yaml").read_text(encoding="utf-8")
    assert load_config(ROOT / "configs/default.yaml", environ={}) == Config()
    for path, _ in settings():
        assert f"{path.rpartition('.')[2]}:" in text, path


@pytest.mark.parametrize("name", ["default", "demo", "vllm"])
def test_the_shipped_files_are_valid(name: str) -> None:
    """Whatever the defaults become."""
    path = ROOT / f"configs/{name}.yaml"
    assert isinstance(load_config(path, environ={}), Config)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_demo_is_embedded_and_trained() -> None:
    """`make demo` needs no second server."""
    config = load_config(ROOT / "configs/demo.yaml", environ={})
    assert config.engine.kind == "embedded"
    assert config.allocator.models_dir == Path("configs/models/smollm2-135m")
    assert StrategySpec.parse("beam_search@4x4") in config.menu


@pytest.mark.parametrize(
    ("written", "marks"),
    [
        (r'"\n"', ("\n",)),
        (r'["\n\n", "## Step"]', ("\n\n", "## Step")),
        ("[]", ()),
    ],
)
def test_a_step_ends_at_one_text_or_any_of_several(tmp_path: Path, written: str, marks: tuple[str, ...]) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text(f"strategies: {{beam_step_stop: {written}}}\n")
    assert load_config(file, environ={}).strategies.beam_step_stop == marks
    variable = {"APPORTION_STRATEGIES__BEAM_STEP_STOP": "Step, then"}
    assert load_config(None, environ=variable).strategies.beam_step_stop == ("Step, then",)


@pytest.mark.parametrize("written", ["7", '""', '["\\n", ""]', "{}"])
def test_a_text_that_ends_no_step_is_an_error(tmp_path: Path, written: str) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text(f"strategies: {{beam_step_stop: {written}}}\n")
    with pytest.raises(ConfigError, match=r"strategies.beam_step_stop.*a list of texts"):
        load_config(file, environ={})
