"""`apportion calibrate`, `apportion import` and `apportion outcomes`: recorded outcomes, to learn from."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from router.chats import read_chats
from router.families import builtin_questions
from router.logs import Imported, Reading, read_logs
from router.logs.recorded import pools_of
from router.pools import write_pools
from router.questions import Question
from server.backends.embedded import EmbeddedEngineError
from server.backends.launch import LaunchError
from server.commands import DEMO_POOLS, Clear, config_option, configured, say
from server.config import Config
from server.store import reading
from server.store.database import StoreError
from server.store.settings import store_url
from server.store.sqlite import is_sqlite
from strategies.types import EngineError


@click.command()
@config_option
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

    config = configured(path)
    options = calibration.Options(
        out=out or (Path("pools") / f"{questions.stem}.parquet" if questions else DEMO_POOLS),
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
            say(f"{len(asked)} questions" + (f", {chats.duplicates} asked twice" if chats.duplicates else ""))
        if dry_run:
            click.echo(calibration.dry_run(config, asked, options))
            return
    except (ImportError, ValueError) as error:
        raise Clear(str(error)) from None
    try:
        asyncio.run(_cleanly(calibration.calibrate(config, asked, options, say)))
    except KeyboardInterrupt:
        say(calibration.interrupted(options))
        sys.exit(130)
    click.echo(options.out)


async def _cleanly(work: Any) -> None:
    try:
        await work
    except (EngineError, EmbeddedEngineError, LaunchError, ImportError, OSError, ValueError) as error:
        raise Clear(str(error)) from None


@click.command("import")
@click.argument("logs", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@config_option
@click.option(
    "--store", "url", metavar="URL",
    help="An outcome store, instead of logs: postgresql://... or sqlite:///PATH.  [default: without logs, store.url]",
)  # fmt: skip
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
    url: str | None,
    out: Path | None,
    questions: Path | None,
    model: str | None,
    score: str | None,
) -> None:
    """Make pools of logs that are there already, or of a store of outcomes, without asking an engine.

    \b
      apportion import samples_gsm8k_*.jsonl                 # lm-evaluation-harness, --log_samples
      apportion import logs/*.eval                           # inspect_ai; epochs are samples
      apportion import output.jsonl --questions input.jsonl  # OpenAI batch
      apportion import var/outcomes.db                       # what a gateway has kept, with store.keep: texts
      apportion import --store postgresql://host/apportion

    Logs teach accuracy and lengths, not seconds, and best-of-N by logprobs only where the log has them.
    """
    from server.calibration.collect import check_new

    config = configured(path)
    limit = config.budgets.max_tokens_per_candidate
    how = Reading(max_tokens=limit, model=model, score=score, questions=questions)
    out = out or Path("pools") / f"{logs[0].stem if logs else 'outcomes'}.parquet"
    try:
        check_new(out)
        stored = _stored(logs, url, config)
        found = read_logs(logs, how) if stored is None else _read_store(stored, how)
        write_pools(out, found.pools)
    except (ImportError, OSError, StoreError, ValueError) as error:
        raise Clear(str(error)) from None
    say(f"{len(found.pools)} questions, {sum(len(pool.samples) for pool in found.pools)} samples")
    for note in found.notes:
        say(note)
    click.echo(out)


def _stored(logs: Sequence[Path], url: str | None, config: Config) -> str | None:
    """The address of the store that is meant; None: logs are. Raises ValueError."""
    files = [log for log in logs if is_sqlite(log)]
    if len(logs) > 1 and files:
        raise ValueError(f"{files[0]} is a store of outcomes: import it alone, and give both pools to train")
    if files:
        return f"sqlite:///{files[0].absolute()}"
    if logs:
        return None
    if url is None and config.store.url is not None:
        url = config.store.url.get_secret_value()
    if url is None:
        raise ValueError("nothing to import: name logs, or a store of outcomes by --store")
    try:
        return store_url(url)
    except ValueError as error:
        raise ValueError(f"--store {error}") from None


def _read_store(url: str, how: Reading) -> Imported:
    """Raises StoreError, ValueError."""
    with reading.opened(url) as database:
        return pools_of(reading.outcomes(database), how, calls=reading.calls(database))


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@config_option
@click.option("--store", "url", metavar="URL", help="postgresql://... or sqlite:///PATH.  [default: store.url]")
def outcomes(file: Path | None, path: Path | None, url: str | None) -> None:
    """Show what a store of outcomes holds: by strategy, what was predicted and what it came to.

    \b
      apportion outcomes var/outcomes.db
      apportion outcomes --store postgresql://host/apportion
    """
    try:
        stored = _stored([file] if file is not None else [], url, configured(path))
        if stored is None:
            raise ValueError(f"{file}: not a store of outcomes")
        with reading.opened(stored) as database:
            rows = reading.summary(database)
    except (OSError, StoreError, ValueError) as error:
        raise Clear(str(error)) from None
    columns = ("strategy", "answered", "expected", "confidence", "judged", "score", "tokens", "of", "seconds", "of")
    table = [columns, *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        cells = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int | str) else f"{float(value):.3g}"  # PostgreSQL's means are decimals
