"""The command line. Standard output is for results, standard error for progress and problems."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from router.boosted import ModelError
from router.chats import read_chats
from router.families import builtin_questions
from router.questions import Question
from server.access.keys import hashed, new_key
from server.access.quota import LimitsUnavailable
from server.access.settings import NAMES, is_name
from server.backends.embedded import EmbeddedEngineError
from server.config import Config, ConfigError, load_config
from server.serving import PortTaken, run, serve_forever
from strategies.types import EngineError

_EPILOG = "Configuration: a YAML file (--config or APPORTION_CONFIG), overridden by APPORTION_* variables and by flags."
_POOLS = Path("configs/pools/smollm2-135m.jsonl.gz")
_MODELS = Path("configs/models")


class _Clear(click.ClickException):
    """One sentence on standard error, exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"apportion: {self.message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_EPILOG)
@click.version_option(package_name="apportion")
def main() -> None:
    """Apportion: an OpenAI-compatible proxy that decides, per query, which test-time strategy to run and how much.

    Point your OpenAI client at it instead of at your vLLM server:

    \b
      apportion serve --engine-url http://127.0.0.1:8001     # in front of vLLM or llama.cpp
      apportion demo                                         # everything on this machine, with a small real model
    """


def _config(path: Path | None, **overrides: Any) -> Config:
    try:
        return load_config(path, overrides={name.replace("__", "."): value for name, value in overrides.items()})
    except ConfigError as error:
        raise _Clear("the configuration is not usable:\n  " + "\n  ".join(error.problems)) from None


_config_option = click.option(
    "--config", "-c", "path", type=click.Path(path_type=Path, dir_okay=False), help="YAML file, e.g. configs/vllm.yaml."
)

_pools_option = click.option(
    "--pools", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True, default=(_POOLS,),
    show_default=True, help="Recorded or imported pools; may be repeated.",
)  # fmt: skip


@main.command()
@_config_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--engine-url", help="The OpenAI-compatible server behind, e.g. http://127.0.0.1:8001.")
@click.option("--embedded", is_flag=True, help="Start llama.cpp with a small model as the engine.")
@click.option(
    "--models-dir", type=click.Path(path_type=Path), help="A trained allocator; without one the prior decides."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least severe message logged."
)
def serve(
    path: Path | None,
    host: str | None,
    port: int | None,
    engine_url: str | None,
    embedded: bool,
    models_dir: Path | None,
    log_level: str | None,
) -> None:
    """Serve the OpenAI API in front of an engine."""
    kind = "embedded" if embedded else ("openai" if engine_url else None)
    config = _config(
        path, server__host=host, server__port=port, engine__url=engine_url, engine__kind=kind,
        allocator__models_dir=models_dir, server__log_level=log_level,
        allocator__predictor="lightgbm" if models_dir else None,  # a folder that was asked for has to be there
    )  # fmt: skip
    logging.basicConfig(level=config.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "stamina", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        run(serve_forever(config))
    except (PortTaken, ModelError, EmbeddedEngineError, LimitsUnavailable) as error:
        raise _Clear(str(error)) from None


@main.command()
@click.argument("name", default="default")
@click.option("--given", is_flag=True, help="Read a key from standard input instead of making one.")
def key(name: str, given: bool) -> None:
    """Make an API key, and print the lines of the configuration that let it in.

    The key is shown this once; the configuration holds its hash.
    """
    if not is_name(name):
        raise _Clear(f"not a name for a key; accepted: {NAMES}")
    secret = sys.stdin.readline().strip() if given else new_key()
    try:
        kept = hashed(secret)
    except ValueError as error:
        raise _Clear(f"the key {error}") from None
    if not given:
        _say(f"{secret}\n")
    click.echo(f"keys:\n  {name}:\n    key: {kept}")


@main.command()
@click.option("--once", is_flag=True, help="End after the tour instead of serving until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option(
    "--config", "-c", "path", type=click.Path(path_type=Path, dir_okay=False), default=Path("configs/demo.yaml"),
    show_default=True, help="YAML file.",
)  # fmt: skip
def demo(once: bool, port: int, path: Path) -> None:
    """Start a small real model and the gateway, and walk through six questions, showing every decision."""
    try:
        from server.demo import tour
    except ImportError as error:
        raise _Clear(f"the demo needs the package {error.name}: pip install 'apportion[demo]'") from None
    sys.exit(tour(_config(path, server__port=port), once=once))


@main.command()
@_config_option
@click.option(
    "--questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Your own: JSONL of chats or of OpenAI batch requests. Without it the built-in questions are asked.",
)
@click.option(
    "--verifier",
    metavar="FILE.py[:FUNCTION]",
    help="Judge by your function(messages, candidates), 0 to 1 each. Without it by the references; without those by "
    "agreement with the vote.",
)
@click.option(
    "--verifier-timeout",
    type=click.FloatRange(0.001),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For one sample; a later verdict counts as wrong.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Pools file to write, .parquet, .jsonl.gz or .jsonl; one that is there already is not overwritten.  "
    "[default: pools/<name of the questions>.parquet, or the demo's]",
)
@click.option("--samples", type=click.IntRange(1, 1024), default=16, show_default=True, help="Most samples a question.")
@click.option(
    "--budget",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Completion tokens that are never passed: 4 samples a question first, then more where answers disagree.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be recorded and what it costs; ask nobody.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1024), default=1, show_default=True, help="Questions asked at once."
)
@click.option("--rate", type=click.FloatRange(0.001), help="Most requests a second to the engine.")
@click.option(
    "--runs",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="How often beam search is run on a question: one run says little of how often it is right.",
)
@click.option(
    "--runner", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="Ask from this process, or from workers on Ray, for engines that answer faster than one process reads.",
)  # fmt: skip
@click.option(
    "--ray-address", metavar="ADDRESS",
    help="A Ray cluster: auto, or host:port.  [default: RAY_ADDRESS, else Ray is started on this machine]",
)  # fmt: skip
@click.option(
    "--ray-workers", type=click.IntRange(1), metavar="N",
    help="Processes, of a CPU each, that share --concurrency.  [default: the CPUs there are]",
)  # fmt: skip
@click.option("--no-sweep", is_flag=True, help="Leave out the load sweep that the speed model learns from.")
@click.option(
    "--per-family", type=click.IntRange(1, 1000), default=15, show_default=True, help="Built-in questions a family."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the built-in questions.")
@click.option("--family", "families", multiple=True, help="Ask this built-in family only; may be repeated.")
def calibrate(
    path: Path | None,
    questions: Path | None,
    verifier: str | None,
    verifier_timeout: float,
    out: Path | None,
    samples: int,
    budget: int | None,
    dry_run: bool,
    concurrency: int,
    rate: float | None,
    runs: int,
    runner: Literal["local", "ray"],
    ray_address: str | None,
    ray_workers: int | None,
    no_sweep: bool,
    per_family: int,
    seed: int,
    families: tuple[str, ...],
) -> None:
    """Record what the engine achieves: every question many times, each sample judged. `train` learns from it.

    \b
      apportion calibrate -c my.yaml --questions chats.jsonl --budget 2000000
      apportion calibrate -c my.yaml --questions chats.jsonl --verifier check.py --dry-run
      apportion calibrate -c my.yaml --out pools/builtin.parquet     # the built-in questions

    A line of chats.jsonl is {"messages": [...]}, with "reference" if the right answer is known. See docs/calibrate.md.

    Interrupt it whenever you like: the next call goes on where this one stopped.
    """
    from server.calibration import run as calibration

    config = _config(path)
    options = calibration.Options(
        out=out or (Path("pools") / f"{questions.stem}.parquet" if questions else _POOLS),
        samples=samples,
        budget=budget,
        concurrency=concurrency,
        rate=rate,
        verifier=verifier,
        verifier_seconds=verifier_timeout,
        sweep=not no_sweep,
        runs_each=runs,
        runner=runner,
        ray_address=ray_address,
        ray_workers=ray_workers,
    )
    try:
        calibration.check(config, options)
        if questions is None:
            asked: Sequence[Question] = builtin_questions(per_family=per_family, seed=seed, families=families)
        else:
            limit = config.budgets.max_tokens_per_candidate
            chats = read_chats(questions, max_tokens=limit, has_verifier=verifier is not None)
            asked = chats.questions
            _say(f"{len(asked)} questions" + (f", {chats.duplicates} asked twice" if chats.duplicates else ""))
        if dry_run:
            click.echo(calibration.dry_run(config, asked, options))
            return
    except (ImportError, ValueError) as error:
        raise _Clear(str(error)) from None
    try:
        asyncio.run(_cleanly(calibration.calibrate(config, asked, options, _say)))
    except KeyboardInterrupt:
        _say(calibration.interrupted(options))
        sys.exit(130)
    click.echo(options.out)


@main.command("import")
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_config_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Pools file to write, .parquet, .jsonl.gz or .jsonl; one that is there already is not overwritten.  "
    "[default: pools/<name of the first log>.parquet]",
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Of batch outputs: their input, or chats with references under the same ids.",
)
@click.option("--model", help="Take this model's samples only; of lm-evaluation-harness: its name.")
@click.option("--score", help="The log's score that says what is right.  [default: its first]")
def import_logs(
    logs: tuple[Path, ...],
    path: Path | None,
    out: Path | None,
    questions: Path | None,
    model: str | None,
    score: str | None,
) -> None:
    """Make pools of logs that are there already, without asking an engine.

    \b
      apportion import samples_gsm8k_*.jsonl                 # lm-evaluation-harness, --log_samples
      apportion import logs/*.eval                           # inspect_ai; epochs are samples
      apportion import output.jsonl --questions input.jsonl  # OpenAI batch

    They teach accuracy and lengths, not seconds, and best-of-N by logprobs only where the log has them.
    """
    from router.logs import Reading, read_logs
    from router.pools import write_pools
    from server.calibration.collect import check_new

    limit = _config(path).budgets.max_tokens_per_candidate
    out = out or Path("pools") / f"{logs[0].stem}.parquet"
    try:
        check_new(out)
        found = read_logs(logs, Reading(max_tokens=limit, model=model, score=score, questions=questions))
        write_pools(out, found.pools)
    except (ImportError, OSError, ValueError) as error:
        raise _Clear(str(error)) from None
    _say(f"{len(found.pools)} questions, {sum(len(pool.samples) for pool in found.pools)} samples")
    for note in found.notes:
        _say(note)
    click.echo(out)


@main.command()
@_config_option
@_pools_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the models.  [default: configs/models/<name of the first pools>]",
)
def train(path: Path | None, pools: tuple[Path, ...], out: Path | None) -> None:
    """Learn the allocator's models from recorded pools. The same pools give the same files.

    Imported logs hold no times: give them together with pools that `calibrate` has recorded on your engine.
    """
    from router.card import write_card
    from router.learning import train as fit
    from router.pools import read_pools

    config = _config(path)
    try:
        recorded = [pool for file in pools for pool in read_pools(file)]
        click.echo(f"{len(recorded)} questions, {sum(len(p.samples) for p in recorded)} samples", err=True)
        trained = fit(
            recorded,
            config.menu,
            step_tokens=config.strategies.beam_step_tokens,
            level=config.budgets.quantile,
            borda_power=config.strategies.borda_power,
        )
    except (ImportError, ValueError) as error:
        raise _Clear(str(error)) from None
    out = out or _MODELS / pools[0].name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    version = trained.model.save(out)
    write_card(out / "CARD.md", trained, version=version, source=", ".join(file.name for file in pools))
    click.echo(f"{out}: model {version}")


@main.command()
@_config_option
@_pools_option
@click.option("--unseen-families", is_flag=True, help="Hold out whole families of questions: how it does off its data.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here too.")
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path),
    help="Write a page with pictures here too, of known and of unseen families: twice the work.",
)  # fmt: skip
def evaluate(
    path: Path | None, pools: tuple[Path, ...], unseen_families: bool, json_path: Path | None, html_path: Path | None
) -> None:
    """Adaptive allocation against every fixed strategy and the oracle, on held-out questions.

    Every question is predicted by a model that has not seen it (cross-fitting). Nothing is written but --json and
    --html.
    """
    import orjson

    from router.evaluation import Evaluation
    from router.evaluation import evaluate as compare
    from router.pools import read_pools
    from router.summary import table

    config = _config(path)
    command = shlex.join(["apportion", *sys.argv[1:]])

    def measured(unseen: bool) -> Evaluation:
        return compare(
            recorded,
            config.menu,
            step_tokens=config.strategies.beam_step_tokens,
            level=config.budgets.quantile,
            borda_power=config.strategies.borda_power,
            unseen_families=unseen,
        )

    try:
        make_page = None if html_path is None else _page_maker()  # what it needs may be missing: say so before the work
        recorded = [pool for file in pools for pool in read_pools(file)]
        result = measured(unseen_families)
        click.echo(table(result))
        several = len({pool.question.family for pool in recorded}) > 1  # of a single one nothing else can be learned
        other = measured(not unseen_families) if make_page and (several or unseen_families) else None
    except (ImportError, ValueError) as error:
        raise _Clear(str(error)) from None
    if json_path is not None:
        figures = {"command": command, **result.to_json()}
        if other is not None:
            figures["other"] = other.to_json()
        _write(json_path, orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    if make_page is not None and html_path is not None:
        known, unseen = (other or result, result) if unseen_families else (result, other)
        _write(
            html_path, make_page(known, unseen, command=command, source=", ".join(file.name for file in pools)).encode()
        )


def _page_maker() -> Callable[..., str]:
    from router.report import report

    return report


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _say(text: str) -> None:
    click.echo(text, err=True)


async def _cleanly(work: Any) -> None:
    try:
        await work
    except (EngineError, EmbeddedEngineError, ImportError, OSError, ValueError) as error:
        raise _Clear(str(error)) from None
