"""Serve: HTTP, engines, configuration, telemetry and the command line."""

from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("apportion")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "unknown"


VERSION = _version()
