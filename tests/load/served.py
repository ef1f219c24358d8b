"""A real server of this machine, its processes, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from arrivals import Arrival
from pydantic import SecretStr
from under_attack import key_point, local_address, question

from m2n2_backend.commands.bench.photographs import Size
from m2n2_backend.commands.programs import free_port, start_backend, wait_for_backend
from m2n2_backend.settings import Settings

_REQUEST_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A server that answers: its process (the serving one may be a child), port, and how long it took to start."""

    pid: int
    port: int
    start_seconds: float = 0.0

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """Status, reason phrase and body, over a connection of its own as Label Studio's requests have."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.reason, response.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Sum of a metric over all workers; 0 where there is none of that name."""
        text = self.call("GET", "/metrics")[2].decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def workers(self) -> list[int]:
        """Processes below it that hold the model, those that multiprocessing spawned, the oldest first."""
        found, below = [], child_processes(self.pid)
        while below:
            pid = below.pop()
            below += child_processes(pid)
            with suppress(OSError):
                found += [pid] if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
        return sorted(found, key=_started)


def ask(running: Server, size: Size, arrival: Arrival) -> tuple[int, str, bytes]:
    """One /predict: status, reason phrase, RLE; never raises for what the server or the connection does."""
    try:
        status, reason, data = running.call("POST", "/predict", _body(arrival, size))
    except (OSError, http.client.HTTPException) as error:
        return 0, type(error).__name__, b""
    regions = json.loads(data)["results"][0]["result"] if status == 200 else []
    return status, reason, bytes(regions[0]["value"]["rle"]) if regions else b""


@contextmanager
def server(settings: Settings, images: Path, cache: Path, log: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """``m2n2-backend serve`` on a free port of this machine until the body ends.

    Args:
        settings: The server gets all that was set in them, but for addresses, credentials and folders.
        images: The folder of its local files.
        cache: Its cache folder.
        log: File for what it writes.
        options: Further ones of the command.

    Raises:
        StudioError: It ended or did not become ready; the message holds its last lines.
    """
    port, started = free_port(), time.monotonic()
    with start_backend(port, log, environment(settings, images, cache), options) as program:
        wait_for_backend(program, f"http://127.0.0.1:{port}")
        yield Server(program.pid, port, time.monotonic() - started)


def environment(settings: Settings, images: Path, cache: Path) -> Mapping[str, str]:
    """This process's environment with the settings as variables; what stands in both is the settings'."""
    given = {
        f"M2N2_{name.upper()}": _text(getattr(settings, name))
        for name in settings.model_fields_set
        if not type(settings).model_fields[name].validation_alias and getattr(settings, name) is not None
    }
    own = {"LOCAL_FILES_ROOT": images, "CACHE_DIR": cache, "LOG_LEVEL": "WARNING"}
    own |= {"BASIC_AUTH_USER": "", "BASIC_AUTH_PASSWORD": ""}
    # Nobody listens at that address, and nobody is asked: all images are local files.
    studio = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": ""}
    return {**os.environ, **given, **{f"M2N2_{name}": str(value) for name, value in own.items()}, **studio}


def _body(arrival: Arrival, size: Size) -> bytes:
    clicks = [
        key_point(
            100 * (click.x + 0.5) / size[0],
            100 * (click.y + 0.5) / size[1],
            f"p{number}",
            size,
            positive=click.positive,
        )
        for number, click in enumerate(arrival.clicks)
    ]
    # A project of its own for each request: none is to be superseded by a newer one.
    project = str(int.from_bytes(os.urandom(6), "big"))
    task = int(arrival.image.partition(".")[0])
    return question(local_address(arrival.image), clicks, task=task, project=project)


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _started(pid: int) -> int:
    """When a process was started, in ticks of the machine's clock; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def child_processes(pid: int) -> list[int]:
    """Child processes, whichever thread started them; none where the system does not tell."""
    found: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found
