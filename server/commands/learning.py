"""`apportion train` and `apportion evaluate`: what is learned from recorded outcomes, and what that is worth."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click

from server.commands import Clear, config_option, configured, pools_option, say

_MODELS = Path("configs/models")


@click.command()
@config_option
@pools_option
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

    config = configured(path)
    try:
        recorded = [pool for file in pools for pool in read_pools(file)]
        say(f"{len(recorded)} questions, {sum(len(pool.samples) for pool in recorded)} samples")
        trained = fit(
            recorded,
            config.menu,
            step_tokens=config.strategies.beam_step_tokens,
            level=config.budgets.quantile,
            borda_power=config.strategies.borda_power,
        )
    except (ImportError, ValueError) as error:
        raise Clear(str(error)) from None
    out = out or _MODELS / pools[0].name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    version = trained.model.save(out)
    write_card(out / "CARD.md", trained, version=version, source=", ".join(file.name for file in pools))
    click.echo(f"{out}: model {version}")


@click.command()
@config_option
@pools_option
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

    config = configured(path)
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
        raise Clear(str(error)) from None
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
