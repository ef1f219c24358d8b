"""Servers in processes of their own: a free port, waiting until one answers, and whether a process still runs."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waiting import soon


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: subprocess.Popen[Any], is_ready: Callable[[], object]) -> None:
    """Wait until ``is_ready`` returns something true; fail at once if the process ends before.

    A connection that is refused, or any other ``OSError``, means that the server is not ready yet.
    """
    end = soon()
    while True:
        try:
            if is_ready():
                return
        except OSError:
            pass
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        assert time.monotonic() < end, "the server does not answer"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie, which remains if its parent does not wait for it, does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
