"""Keeps a Python program on this machine: Python imports this file at its start when it is on PYTHONPATH.

Other hosts are refused and written down, since a program may try one, fail, and say nothing.
"""

import os
import sys
from pathlib import Path

_LOG = os.environ.get("OUTSIDE_LOG")
_HERE = ("127.", "localhost", "::1")


def _watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[-1]
        host = address[0] if isinstance(address, tuple) else None  # a path is a socket of this machine
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host.startswith(_HERE):
        return
    with Path(_LOG).open("a") as log:
        log.write(f"{host}\n")
    raise OSError(f"tests stay on this machine: {host}")


if _LOG:
    sys.addaudithook(_watch)
