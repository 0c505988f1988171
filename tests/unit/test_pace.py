"""A limit on requests per second needs a package of the extra."""

from __future__ import annotations

import sys

import pytest

from server.calibration.pace import limiter


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiolimiter", None)
    with pytest.raises(ImportError, match=r"install apportion\[calibrate\]"):
        limiter(2)
