"""A real server under attack, and a bystander who goes on to label: how long /health and a warm click take meanwhile.

The scripts beside this file are attacks. Each runs by itself, on a machine that does nothing else:
`python tests/load/strokes.py`. They import nothing of the package, so that the same attack runs against an older
tree, whose folder is then named in `PYTHONPATH`.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (640, 480)
CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image" smart="false"><Label value="Object"/></BrushLabels>
  <KeyPointLabels name="keypoint" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
  <RectangleLabels name="rectangle" toName="image" smart="true"><Label value="Object"/></RectangleLabels>
  <PolygonLabels name="polygon" toName="image" smart="true"><Label value="Object"/></PolygonLabels>
  <Brush name="brush" toName="image" smart="true"/>
  <Bitmask name="bitmask" toName="image" smart="true"/></View>"""

_EVERY_SECONDS = 0.25
_PATIENCE = 120.0


def picture(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """The JPEG of a photograph that no other seed gives: smooth blobs of color."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def key_point(
    x: float, y: float, name: str = "p1", size: tuple[int, int] = SIZE, *, positive: bool = True
) -> dict[str, Any]:
    """A click at percent of the image, as Label Studio sends it."""
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": ["Object"]}
    return {**item("keypointlabels", "keypoint", value, name, size), "is_positive": positive}


def item(
    kind: str, control: str, value: Mapping[str, Any], name: str = "p1", size: tuple[int, int] = SIZE
) -> dict[str, Any]:
    """A prompt drawn with one of the controls of `CONFIG`."""
    return {
        "id": name, "type": kind, "from_name": control, "to_name": "image", "is_positive": True,
        "original_width": size[0], "original_height": size[1], "image_rotation": 0, "value": dict(value),
    }  # fmt: skip


def question(image: str, result: list[dict[str, Any]], *, task: int = 1, project: str = "1") -> bytes:
    """The body of a /predict."""
    return json.dumps(
        {
            "tasks": [{"id": task, "data": {"image": image}}],
            "project": f"{project}.1700000000",
            "label_config": CONFIG,
            "params": {"context": {"result": result}},
        }
    ).encode()


@dataclass
class Running:
    """A server that answers.

    Attributes:
        pid: The number of gunicorn's master process.
        port: On this machine.
        folder: Its local files; `local_address` names one of them in a task.
        log: File that it writes to.
        credentials: What to send as `Authorization`; empty where the server is open.
    """

    pid: int
    port: int
    folder: Path
    log: Path
    credentials: str = ""

    def call(self, method: str, path: str, body: bytes | None = None, timeout: float = _PATIENCE) -> tuple[int, str]:
        """Status, and reason phrase or body of a success; (0, error) where the connection broke."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.credentials:
            headers["Authorization"] = self.credentials
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
            return response.status, data.decode() if response.status == 200 else response.reason
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def put(self, name: str, data: bytes) -> str:
        """Add a local file; its address for a task."""
        (self.folder / name).write_bytes(data)
        return local_address(name)

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE)

    def processes(self) -> list[int]:
        """The serving process first, then those below it, the model's among them."""
        found, below = list[int](), [self.pid]
        while below:
            pid = below.pop(0)
            try:
                children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
                tasks = [path.name for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
                for task in tasks:
                    text = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    children += [int(each) for each in text.split()]
            except OSError:
                continue
            found += children
            below += children
        return found

    def resident(self) -> dict[str, float]:
        """Resident megabytes of the web process and of the model's (the largest process below it)."""
        sizes = [_resident(pid) for pid in self.processes()]
        return {"web": sizes[0] if sizes else 0.0, "model": max(sizes[1:], default=0.0)}


def local_address(name: str) -> str:
    """The address of a local file in a task."""
    return f"/data/local-files/?d={name}"


@contextmanager
def running(**settings: object) -> Iterator[Running]:
    """A server with the color backbone until the body ends; settings by their name without `M2N2_`, in lower case."""
    with tempfile.TemporaryDirectory() as place, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        images, log = Path(place) / "images", Path(place) / "server.log"
        images.mkdir()
        own = {
            "backbone": "color", "device": "cpu", "local_files_root": images, "cache_dir": Path(place) / "cache",
            "log_level": "WARNING", **settings,
        }  # fmt: skip
        environment = {**os.environ, **{f"M2N2_{name.upper()}": str(value) for name, value in own.items()}}
        environment.setdefault("LABEL_STUDIO_URL", "http://127.0.0.1:9")
        credentials = ""
        if "basic_auth_user" in settings:
            pair = f"{settings['basic_auth_user']}:{settings['basic_auth_password']}"
            credentials = f"Basic {base64.b64encode(pair.encode()).decode()}"
        command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, cwd=place, env=environment, stdout=sink, stderr=sink)
        server = Running(process.pid, port, images, log, credentials)
        try:
            until = time.monotonic() + _PATIENCE
            while '"ready"' not in server.call("GET", "/health", timeout=5.0)[1].replace(" ", ""):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server did not become ready: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Bystander:
    """Asks /health and clicks on a prepared image four times a second, each over a new connection.

    Attributes:
        health: Seconds that each /health took.
        clicks: Seconds that each warm click took.
        refused: What was said instead of a mask, or of a health.
        memory: Megabytes of the web and the model process, looked at as often.
    """

    health: list[float] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Worst seconds, number of refusals, megabytes at first, at most and in the end."""
        return {
            "health_worst_s": round(max(self.health, default=0.0), 3),
            "warm_click_worst_s": round(max(self.clicks, default=0.0), 3),
            "asked": len(self.health) + len(self.clicks),
            "refused": len(self.refused),
            "said": sorted(set(self.refused))[:5],
            **{
                f"{name}_mb": [round(pick(each[name] for each in self.memory)) for pick in (_first, max, _last)]
                for name in ("web", "model")
            },
        }


@contextmanager
def bystander(server: Running, *, project: str = "7", settle: float = 2.0) -> Iterator[Bystander]:
    """Watch while the body attacks, and `settle` seconds longer."""
    body = question(server.put("bystander.jpg", picture(1)), [key_point(40, 40)], task=70, project=project)
    status, said = server.call("POST", "/predict", body)
    assert status == 200, said
    seen, stop = Bystander(memory=[server.resident()]), threading.Event()

    def watch(times: list[float], ask: Callable[[], tuple[int, str]]) -> None:
        while not stop.is_set():
            started = time.monotonic()
            status, said = ask()
            times.append(time.monotonic() - started)
            if status != 200:
                seen.refused.append(f"{status} {said}")
            stop.wait(_EVERY_SECONDS)

    def look() -> None:
        while not stop.wait(_EVERY_SECONDS):
            seen.memory.append(server.resident())

    threads = [
        threading.Thread(target=watch, args=(seen.health, lambda: server.call("GET", "/health"))),
        threading.Thread(target=watch, args=(seen.clicks, lambda: server.call("POST", "/predict", body))),
        threading.Thread(target=look),
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
        time.sleep(settle)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def at_once(number: int, attack: Callable[[int], Any]) -> list[Any]:
    """What `attack(0)`, `attack(1)`, … give, all begun at the same time."""
    results: list[Any] = [None] * number

    def run(index: int) -> None:
        results[index] = attack(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def report(name: str, figures: Mapping[str, Any]) -> None:
    """Print the figures of an attack as one line of JSON."""
    print(json.dumps({"attack": name, **figures}), flush=True)


def _first(values: Iterator[float]) -> float:
    return next(iter(values))


def _last(values: Iterator[float]) -> float:
    return list(values)[-1]


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
