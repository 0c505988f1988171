"""The commands, and what they share: options, and how they speak.

Standard output is for results, standard error for progress and problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from server.config import Config, ConfigError, load_config

DEMO_POOLS = Path("configs/pools/smollm2-135m.jsonl.gz")


class Clear(click.ClickException):
    """One sentence on standard error, exit status 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"apportion: {self.message}", err=True)


def say(text: str) -> None:
    click.echo(text, err=True)


def configured(path: Path | None, **overrides: Any) -> Config:
    try:
        return load_config(path, overrides={name.replace("__", "."): value for name, value in overrides.items()})
    except ConfigError as error:
        raise Clear("the configuration is not usable:\n  " + "\n  ".join(error.problems)) from None


config_option = click.option(
    "--config", "-c", "path", type=click.Path(path_type=Path, dir_okay=False), help="YAML file, e.g. configs/vllm.yaml."
)

pools_option = click.option(
    "--pools", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True, default=(DEMO_POOLS,),
    show_default=True, help="Recorded or imported pools; may be repeated.",
)  # fmt: skip
