"""The command line: what it teaches, and what it says when it can't."""

from __future__ import annotations

import gzip
import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from server.cli import main
from server.config import load_config
from tests.pools import POOLS as ALL

POOLS = ALL[:40]  # the fewest that can be trained on
COMMANDS = ("serve", "demo", "key", "calibrate", "import", "outcomes", "train", "evaluate")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned here only has to come out: pools are played through in the fewest orders there may be."""
    monkeypatch.setattr("router.learning._REPLAYED", 0)


@pytest.fixture
def pools(tmp_path: Path) -> Path:
    """Forty made-up questions as `calibrate` would write them."""
    from router.pools import write_pools

    path = tmp_path / "mine.jsonl.gz"
    write_pools(path, POOLS)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("menu: [single, majority_vote@4, best_of_n@4, beam_search@2x2]\n")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert all(len(line.split("  ")[-1]) > 3 for line in result.output.splitlines() if line.strip().startswith("--"))


def test_the_help_of_the_program_names_every_command_and_the_configuration() -> None:
    for arguments in (("--help",), ("-h",)):
        output = call(*arguments).output
        assert all(command in output for command in COMMANDS)
        assert "APPORTION_CONFIG" in output


def test_python_m_server_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "server", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("apportion") or "version" in done.stdout


def test_train_and_evaluate_on_recorded_pools(pools: Path, config: Path, tmp_path: Path) -> None:
    """train writes a model with its card and says its version; evaluate prints the table."""
    trained = call("train", "-c", str(config), "--pools", str(pools), "--out", str(tmp_path / "a"))
    assert trained.exit_code == 0
    card = (tmp_path / "a" / "CARD.md").read_text()
    assert trained.output.split()[-1] in card
    assert "40 questions of 2 families" in card
    assert "| right is | what a verifier says (40 questions) |" in card

    figures = tmp_path / "figures.json"
    evaluated = call("evaluate", "-c", str(config), "--pools", str(pools), "--json", str(figures))
    assert evaluated.exit_code == 0
    for word in ("single", "majority_vote@4", "adaptive", "lookup", "oracle", "calibration error"):
        assert word in evaluated.output
    assert figures.stat().st_size > 1000


def test_the_strategies_settings_reach_what_is_learned_and_compared(pools: Path, tmp_path: Path) -> None:
    """With a power of 0 the places count nothing, with a large one the best place alone counts."""
    versions: list[str] = []
    accuracies: list[float] = []
    for power in (0, 10):
        config, figures = tmp_path / f"{power}.yaml", tmp_path / f"{power}.json"
        config.write_text(f"menu: [single, 'best_of_n@8:borda']\nstrategies: {{borda_power: {power}}}\n")
        trained = call("train", "-c", str(config), "--pools", str(pools), "--out", str(tmp_path / str(power)))
        assert trained.exit_code == 0
        versions.append(trained.output.split()[-1])
        evaluated = call("evaluate", "-c", str(config), "--pools", str(pools), "--json", str(figures))
        assert evaluated.exit_code == 0
        accuracies += [row["accuracy"] for row in orjson.loads(figures.read_bytes())["fixed"] if "borda" in row["name"]]
    assert versions[0] != versions[1]
    assert accuracies[0] != accuracies[1]


def test_whole_families_can_be_held_out(tmp_path: Path, config: Path) -> None:
    """Then the table is of those; the page and the figures beside it hold known families too."""
    from dataclasses import replace

    from router.pools import write_pools

    five = [replace(p, question=replace(p.question, family=f"f{i % 5}")) for i, p in enumerate(POOLS)]
    pools, page, figures = tmp_path / "five.jsonl.gz", tmp_path / "deep" / "page.html", tmp_path / "figures.json"
    write_pools(pools, five)
    result = call(
        "evaluate", "-c", str(config), "--pools", str(pools), "--unseen-families", "--html", str(page), "--json",
        str(figures),
    )  # fmt: skip
    assert result.exit_code == 0
    assert "has not seen its family" in result.output
    written = orjson.loads(figures.read_bytes())
    assert written["unseen_families"]
    assert not written["other"]["unseen_families"]
    html = page.read_text()
    assert "40 questions of 5 families" in html
    assert "five.jsonl.gz" in html
    known, unseen = (entry["reliability"][0] for entry in (written["other"], written))
    assert "".join(f"<td>{one['error']:.3f}, {one['brier']:.3f}</td>" for one in (known, unseen)) in html


def test_a_broken_pools_file_is_named_with_its_line(pools: Path, config: Path) -> None:
    lines = gzip.decompress(pools.read_bytes()).splitlines(keepends=True)
    pools.write_bytes(gzip.compress(b"".join([*lines[:2], b'{"version": 99}\n'])))
    result = call("train", "-c", str(config), "--pools", str(pools))
    assert result.exit_code == 1
    assert "line 3" in result.output
    assert "pool version 99" in result.output


def test_a_finished_recording_is_not_overwritten(pools: Path) -> None:
    before = pools.read_bytes()
    result = call("calibrate", "--out", str(pools))
    assert result.exit_code == 1
    assert "not overwritten" in result.output
    assert pools.read_bytes() == before


@pytest.mark.parametrize(
    ("engine", "arguments", "complaint"),
    [
        ("{url: 'http://127.0.0.1:1'}", ["--runner", "ray"], "install apportion[ray]"),
        ("{kind: embedded}", ["--runner", "ray"], "--runner ray needs a served engine (engine.url)"),
        ("{url: 'http://127.0.0.1:1'}", ["--ray-workers", "4"], "go with --runner ray"),
        ("{url: 'http://127.0.0.1:1'}", ["--ray-address", "auto"], "go with --runner ray"),
    ],
)
def test_a_recording_that_ray_can_not_run_is_refused_at_once(
    engine: str, arguments: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    config = tmp_path / "config.yaml"
    config.write_text(f"engine: {engine}\n")
    result = call("calibrate", "-c", str(config), "--out", str(tmp_path / "x.parquet"), *arguments)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert complaint in result.output


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    result = call("calibrate", "--out", str(tmp_path / "x.jsonl.gz"), "--family", "algebra")
    assert result.exit_code == 1
    assert "small_sum" in result.output


def test_a_configuration_that_is_not_usable_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("engine:\n  ulr: http://127.0.0.1:1\n")
    result = call("serve", "-c", str(path))
    assert result.exit_code == 1
    assert "did you mean engine.url?" in result.output


def test_serve_on_a_busy_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = call("serve", "--port", str(other.getsockname()[1]))
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "choose another with --port" in result.output


def test_serve_with_a_model_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"allocator:\n  predictor: lightgbm\n  models_dir: {tmp_path / 'none'}\n")
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "-c", str(config), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "apportion train" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_imported_logs_are_trained_on_beside_recorded_times(pools: Path, config: Path, tmp_path: Path) -> None:
    """A log has no times of the engine, and says so when it is alone; several files are one set of examples."""
    from dataclasses import replace

    from router.pools import write_pools

    untimed = tmp_path / "log.parquet"
    renamed = (replace(p, question=replace(p.question, id=f"log-{p.question.id}"), calls=(), runs=()) for p in POOLS)
    write_pools(untimed, renamed)
    alone = call("train", "-c", str(config), "--pools", str(untimed), "--out", str(tmp_path / "a"))
    assert alone.exit_code == 1
    assert "no timed engine calls" in alone.output
    both = call(
        "train", "-c", str(config), "--pools", str(pools), "--pools", str(untimed), "--out", str(tmp_path / "b")
    )
    assert both.exit_code == 0
    card = (tmp_path / "b" / "CARD.md").read_text()
    assert "`mine.jsonl.gz, log.parquet`: 80 questions" in card


# Keys


def test_a_new_key_opens_what_the_printed_configuration_guards(tmp_path: Path) -> None:
    """Its hash is what can be put into a file: the key itself goes to the terminal only."""
    from server.access.keys import Keyring

    result = call("key", "team-a")
    secret = result.stderr.strip()
    assert secret not in result.stdout
    file = tmp_path / "keys.yaml"
    file.write_text(result.stdout)
    kept = load_config(file, environ={}).keys["team-a"].key.get_secret_value()
    assert Keyring({"team-a": kept}).owner(secret) == "team-a"
    assert call("key", "team-a").stderr != result.stderr


def test_a_key_that_is_there_already_is_hashed_from_standard_input() -> None:
    given = "sk-test-0123456789abcdef"
    result = CliRunner().invoke(main, ["key", "--given"], input=f"{given}\n", catch_exceptions=False)
    digest = hashlib.sha256(given.encode()).hexdigest()
    assert result.stdout == f"keys:\n  default:\n    key: sha256:{digest}\n"
    assert given not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("key", "Team A"), "not a name for a key; accepted: a letter"), (("key", "--given"), "the key should be 16 to")],
)
def test_a_key_that_can_not_be_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(main, arguments, input="short\n")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "short" not in result.stderr


def test_limits_that_can_not_be_counted_keep_the_server_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("access: {limits_storage: 'redis+sentinel://secret@nowhere'}\nserver: {port: 0}\n")
    result = call("serve", "-c", str(file))
    assert result.exit_code == 1
    assert "access.limits_storage can't be used" in result.stderr
    assert "secret" not in result.output
