"""The command line: its commands, and those that serve."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from router.boosted import ModelError
from server.access.keys import hashed, new_key
from server.access.quota import LimitsUnavailable
from server.access.settings import NAMES, is_name
from server.backends.embedded import EmbeddedEngineError
from server.backends.launch import LaunchError
from server.commands import Clear, config_option, configured, learning, recording, say
from server.serving import PortTaken, run, serve_forever
from server.store.database import Unusable

_EPILOG = "Configuration: a YAML file (--config or APPORTION_CONFIG), overridden by APPORTION_* variables and by flags."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_EPILOG)
@click.version_option(package_name="apportion")
def main() -> None:
    """Apportion: an OpenAI-compatible proxy that decides, per query, which test-time strategy to run and how much.

    Point your OpenAI client at it instead of at your vLLM server:

    \b
      apportion serve --engine-url http://127.0.0.1:8001     # in front of vLLM or llama.cpp
      apportion demo                                         # everything on this machine, with a small real model
    """


class _Serve(click.Command):
    """Knows where the flags belong that it doesn't know."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        launching = any(arg.partition("=")[0] == "--launch" for arg in args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not launching:
                raise
            raise click.UsageError(f"no option {error.option_name}: vLLM's own flags go behind --", ctx) from None


@main.command(cls=_Serve)
@config_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--engine-url", help="The OpenAI-compatible server behind, e.g. http://127.0.0.1:8001.")
@click.option("--embedded", is_flag=True, help="Start llama.cpp with a small model as the engine.")
@click.option("--launch", type=click.Choice(["vllm"]), help="Start vLLM as the engine, and end it with the gateway.")
@click.option("--model", help="What the launched vLLM serves: a name on the hub or a folder.")
@click.option(
    "--vllm-executable", type=click.Path(path_type=Path), help="vLLM's program, if it is in another environment."
)
@click.option(
    "--models-dir", type=click.Path(path_type=Path), help="A trained allocator; without one the prior decides."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least severe message logged."
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM'S OWN FLAGS]")
def serve(
    path: Path | None,
    host: str | None,
    port: int | None,
    engine_url: str | None,
    embedded: bool,
    launch: str | None,
    model: str | None,
    vllm_executable: Path | None,
    models_dir: Path | None,
    log_level: str | None,
    flags: tuple[str, ...],
) -> None:
    """Serve the OpenAI API in front of an engine.

    \b
      apportion serve --engine-url http://127.0.0.1:8001                   # one that is already there
      apportion serve --launch vllm --model Qwen/Qwen3-8B -- --max-model-len 16384

    A launched vLLM lives as long as the gateway, and the gateway as long as it: when vLLM ends, the gateway says how
    and ends with exit status 1. Nothing is started again. What follows -- goes to vLLM.
    """
    chosen = [
        name for name, given in (("--engine-url", engine_url), ("--embedded", embedded), ("--launch", launch)) if given
    ]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other: there is one engine")
    for name, given in (("--model", model), ("--vllm-executable", vllm_executable), (" ".join(flags[:1]), flags)):
        if given and not launch:
            raise click.UsageError(f"{name} goes with --launch vllm")
    kind = "embedded" if embedded else ("openai" if engine_url else launch)
    config = configured(
        path, server__host=host, server__port=port, engine__url=engine_url, engine__kind=kind,
        engine__vllm__model=model, engine__vllm__executable=vllm_executable, engine__vllm__flags=flags or None,
        allocator__models_dir=models_dir, server__log_level=log_level,
        allocator__predictor="lightgbm" if models_dir else None,  # a folder that was asked for has to be there
    )  # fmt: skip
    logging.basicConfig(level=config.server.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "stamina", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        run(serve_forever(config))
    except (PortTaken, ModelError, EmbeddedEngineError, LaunchError, LimitsUnavailable, Unusable) as error:
        raise Clear(str(error)) from None


@main.command()
@click.argument("name", default="default")
@click.option("--given", is_flag=True, help="Read a key from standard input instead of making one.")
def key(name: str, given: bool) -> None:
    """Make an API key, and print the lines of the configuration that let it in.

    The key is shown this once; the configuration holds its hash.
    """
    if not is_name(name):
        raise Clear(f"not a name for a key; accepted: {NAMES}")
    secret = sys.stdin.readline().strip() if given else new_key()
    try:
        kept = hashed(secret)
    except ValueError as error:
        raise Clear(f"the key {error}") from None
    if not given:
        say(f"{secret}\n")
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
        raise Clear(f"the demo needs the package {error.name}: pip install 'apportion[demo]'") from None
    sys.exit(tour(configured(path, server__port=port), once=once))


for command in (recording.calibrate, recording.import_logs, recording.outcomes, learning.train, learning.evaluate):
    main.add_command(command)
