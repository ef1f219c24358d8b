"""The backend as a program of its own: its start, and waiting until its model answers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from m2n2_backend.commands.programs import Program
from m2n2_backend.errors import StudioError

LOAD_SECONDS = 600.0
"""Weights of 2.6 GB come from a slow disk in less; a named backbone never downloads any."""


def start(port: int, log: Path | None, environment: Mapping[str, str], options: Sequence[str] = ()) -> Program:
    """Start ``m2n2-backend serve`` on a port of 127.0.0.1; it is not ready yet.

    Args:
        port: A free one.
        log: File for its output; None shows it where this process writes.
        environment: Variables beside those of this process.
        options: Further ones of the command.
    """
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port), *options]
    return Program("the backend", command, log, environment)


def wait(program: Program, url: str, stopping: threading.Event | None = None) -> dict[str, Any]:
    """Wait until the model is loaded.

    Returns:
        What /health answers then, such as ``backbone`` and ``model_version``.

    Raises:
        StudioError: The backend ended, its model cannot be loaded, or it took longer than ten minutes.
        Stopped: ``stopping`` was set.
    """
    health: dict[str, Any] = {}

    def ready() -> bool:
        try:
            answer = httpx.get(f"{url}/health", timeout=5, trust_env=False)
        except httpx.TransportError:  # not listening yet
            return False
        if answer.is_error:
            raise StudioError(f"the backend cannot answer: {answer.status_code} {answer.reason_phrase}")
        health.update(answer.json())
        return bool(health["state"] == "ready")

    program.wait_until(ready, LOAD_SECONDS, stopping)
    return health
