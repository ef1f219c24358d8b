"""The backend as a program beside Label Studio."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import httpx

from m2n2_backend.commands.studio.processes import Program
from m2n2_backend.errors import StudioError

LOAD_SECONDS = 600.0
"""Weights of 2.6 GB come from a slow disk in less; a named backbone never downloads any."""


def start(port: int, label_studio: str, token: str, log: Path, **variables: str) -> Program:
    """Start ``m2n2-backend serve`` on 127.0.0.1; it is not ready yet.

    Args:
        port: To listen at.
        label_studio: Address of Label Studio.
        token: Of a user of it.
        log: File for its output.
        variables: Further settings from the environment.
    """
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LABEL_STUDIO_URL": label_studio, "LABEL_STUDIO_API_KEY": token, **variables}
    return Program("the backend", command, log, environment)


def wait(process: Program, url: str, stopping: threading.Event | None = None) -> str:
    """Wait until the model is loaded.

    Returns:
        What the backbone says about itself.

    Raises:
        StudioError: The backend ended, its model cannot be loaded, or it took longer than ten minutes.
        Stopped: ``stopping`` was set.
    """
    backbone = ""

    def ready() -> bool:
        nonlocal backbone
        try:
            answer = httpx.get(f"{url}/health", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        if answer.is_error:
            raise StudioError(f"the backend cannot answer: {answer.status_code} {answer.reason_phrase}")
        health = answer.json()
        backbone = str(health["backbone"])
        return bool(health["state"] == "ready")

    process.wait_until(ready, LOAD_SECONDS, stopping)
    return backbone
