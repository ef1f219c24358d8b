"""A real server in a process of its own."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from m2n2_backend.commands.bench.client import Client
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.settings import Settings
from m2n2_backend.worker.process import resident_bytes

_LOAD_SECONDS = 600
_STOP_SECONDS = 60
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        pid: Of the process that was started; the serving one is its child.
        client: To ask it.
        start_seconds: From the start of the process until its model answered.
    """

    pid: int
    client: Client
    start_seconds: float

    def metric(self, name: str) -> float:
        """Sum of a metric over all workers; 0 where there is none of that name."""
        text = self.client.call("GET", "/metrics")[2].decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def resident_mb(self) -> dict[str, float | None]:
        """Resident memory in MB of the serving process (None where the system does not tell) and of the workers."""
        web = [resident_bytes(child) / 1024**2 for child in children(self.pid)]
        return {"web": sum(web) if web else None, "worker": self.metric("m2n2_worker_rss") / 1024**2}


@contextmanager
def server(settings: Settings, images: Path, cache: Path, log: Path, size: tuple[int, int]) -> Iterator[Server]:
    """``m2n2-backend serve`` on a free port of this machine until the body ends.

    Args:
        settings: Whatever was set in them, the server gets, but for addresses, credentials and folders.
        images: Its local files.
        cache: Its cache folder.
        log: File for what it writes.
        size: Width and height of the images.

    Raises:
        BackboneUnavailable: It ended or did not become ready; the message holds its last line.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port)]
    started = time.monotonic()
    with log.open("ab") as sink:
        process = subprocess.Popen(command, env=environment(settings, images, cache), stdout=sink, stderr=sink)
    try:
        client = Client(port, size)
        _await_ready(process, client, log)
        yield Server(process.pid, client, time.monotonic() - started)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(settings: Settings, images: Path, cache: Path) -> Mapping[str, str]:
    """This process's environment with the settings as variables; what stands in both is the settings'."""
    given = {
        f"M2N2_{name.upper()}": _text(getattr(settings, name))
        for name in settings.model_fields_set
        if not type(settings).model_fields[name].validation_alias and getattr(settings, name) is not None
    }
    own = {
        "M2N2_LOCAL_FILES_ROOT": str(images),
        "M2N2_CACHE_DIR": str(cache),
        "M2N2_LOG_LEVEL": "WARNING",
        "M2N2_BASIC_AUTH_USER": "",
        "M2N2_BASIC_AUTH_PASSWORD": "",
        # Nobody listens there, and nobody is asked: all images are local files.
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "LABEL_STUDIO_API_KEY": "",
    }
    return {**os.environ, **given, **own}


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _await_ready(process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    deadline = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BackboneUnavailable(f"the server ended with status {process.returncode}: {_last_line(log)}")
        with suppress(OSError, http.client.HTTPException):  # not listening yet
            status, reason, data = client.call("GET", "/health")
            if status != 200:
                raise BackboneUnavailable(f"the server cannot answer: {status} {reason}")
            if b'"ready"' in data:
                return
        time.sleep(_POLL_SECONDS)
    raise BackboneUnavailable(f"the server was not ready within {_LOAD_SECONDS} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it wrote nothing")


def children(pid: int) -> list[int]:
    """Child processes, whichever thread started them; none where the system does not tell."""
    found: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found
