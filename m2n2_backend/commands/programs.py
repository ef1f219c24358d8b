"""Programs that run until they are stopped, the backend among them, without one of them left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import httpx

from m2n2_backend.errors import StudioError

LOAD_SECONDS = 600.0
"""Weights of 2.6 GB come from a slow disk in less; a named backbone never downloads any."""

_LOG_LINES = 15
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0
_BURIAL_SECONDS = 5.0


class Stopped(Exception):
    """The user wants to stop while something is waited for."""


class Program:
    """One program in a process group of its own, so that all it starts can be stopped with it.

    As a context manager it is stopped at the end.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path | None, environment: Mapping[str, str]
    ) -> None:
        """Start it.

        Args:
            log: File that its output is appended to; None leaves it where this process writes.
            environment: Variables beside those of this process.

        Raises:
            StudioError: It cannot be started.
        """
        self.name = name
        self.log = log
        try:
            with _output(log) as output:
                self._process = subprocess.Popen(
                    [str(part) for part in command],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output and subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise StudioError(f"{name} cannot be started: {command[0]}: {error.strerror}") from error

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The number of the process, and of its group."""
        return self._process.pid

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            StudioError: It ended; the message holds the last lines it printed.
        """
        status = self._process.poll()
        if status is not None:
            raise StudioError(f"{self.name} ended with status {status}{self._last_lines()}")

    def wait_until(self, ready: Callable[[], bool], seconds: float, stopping: threading.Event | None = None) -> None:
        """Ask ``ready`` again and again.

        Raises:
            StudioError: The program ended, or ``seconds`` passed.
            Stopped: ``stopping`` was set.
        """
        stopping = stopping or threading.Event()
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise StudioError(f"{self.name} was not ready within {seconds:.0f} s{self._last_lines()}")
            if stopping.wait(_POLL_SECONDS):
                raise Stopped

    def stop(self) -> None:
        """Ask it to end, and end by force whatever of its group is still there after ten seconds."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the whole group by force, and return when nothing of it is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        # The rest of the group dies a moment later, and its new parent reaps it; the first process of a container may
        # never do so, so this has an end.
        deadline = time.monotonic() + _BURIAL_SECONDS
        while self._group_exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _group_exists(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except OSError:  # on macOS "not permitted" once only zombies are left
            return False
        return True

    def _last_lines(self) -> str:
        """The end of a message that quotes the log."""
        if self.log is None:
            return "; its reason stands above"
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"; the end of {self.log}:", *lines])


@contextmanager
def _output(log: Path | None) -> Iterator[IO[bytes] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        yield file


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(name: str, port: int, option: str) -> None:
    """Check that a port of this machine can be bound.

    Args:
        port: On 127.0.0.1.
        option: The option that names another port.

    Raises:
        StudioError: Another program listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StudioError(
                f"{name} cannot use port {port} ({error.strerror}): stop the program that listens there, or choose "
                f"another port with {option}"
            ) from error


def start_backend(
    port: int, log: Path | None, environment: Mapping[str, str], options: Sequence[str] = ()
) -> Program:
    """Start ``m2n2-backend serve`` on a port of 127.0.0.1; it is not ready yet.

    Args:
        log: File for its output; None shows it where this process writes.
        environment: Variables beside those of this process.
        options: Further ones of the command.
    """
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port), *options]
    return Program("the backend", command, log, environment)


def wait_for_backend(program: Program, url: str, stopping: threading.Event | None = None) -> dict[str, Any]:
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
