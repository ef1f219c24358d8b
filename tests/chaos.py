"""Annotators at work on a real server while its worker is killed and its disk cache abused.

    python tests/chaos.py --seconds 300 --annotators 8 --images 40 --kills 5 --disk full

Prints figures, and exits with 1 if a request hung, got an answer other than its own mask or a 503 that says why, or
if a file on disk is damaged at the end. ``--disk full`` and ``readonly`` mount a small tmpfs, which takes root.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from label_studio_fakes import CONFIG
from label_studio_sdk.converter.brush import decode_rle

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click, pixel_from_percent
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.disk import unpack

WIDTH, HEIGHT = 854, 480
CLICKS = 4


def photographs(folder: Path, count: int) -> list[Path]:
    """Parts of the sample photograph, each another file with other pixels."""
    rgb = decode_image(sample_photograph().read_bytes(), max_pixels=10**8)
    generator = random.Random(0)
    paths = []
    for index in range(count):
        side = generator.randint(260, 500)
        x, y = generator.randint(0, 512 - side), generator.randint(0, 512 - side)
        part = cv2.resize(rgb[y : y + side, x : x + side], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        paths.append(folder / f"{index:03d}.jpg")
        cv2.imwrite(str(paths[-1]), part[..., ::-1])
    return paths


def clicks_of(index: int) -> list[tuple[float, float, bool]]:
    """The same clicks on an image in every run: percent x, percent y, positive."""
    generator = random.Random(index)
    return [(generator.uniform(5, 95), generator.uniform(5, 95), number != 2) for number in range(CLICKS)]


def body(index: int, count: int) -> dict[str, Any]:
    items = [
        {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {"x": x, "y": y, "width": 0.2, "keypointlabels": ["Cat"]},
            "is_positive": positive,
            "id": f"p{index}-{number}",
            "from_name": "kp",
            "to_name": "image",
            "type": "keypointlabels",
        }
        for number, (x, y, positive) in enumerate(clicks_of(index)[:count])
    ]
    # A project of its own for each request: nothing here is to be superseded.
    return {
        "tasks": [{"id": index, "data": {"image": f"/data/local-files/?d={index:03d}.jpg"}}],
        "project": str(random.randrange(10**9)),
        "label_config": CONFIG,
        "params": {"context": {"result": items}},
    }


@contextlib.contextmanager
def server(options: list[str], environment: dict[str, str]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 180
        while ask(port, "GET", "/health")[2].get("state") != "ready":
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, method: str, path: str, content: dict[str, Any] | None = None) -> tuple[int, str, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    try:
        sent = None if content is None else json.dumps(content)
        connection.request(method, path, sent, {"Content-Type": "application/json", "Accept": "application/json"})
        response = connection.getresponse()
        raw = response.read()
        return response.status, response.reason, json.loads(raw) if raw[:1] == b"{" else {"text": raw.decode()}
    except OSError:
        return 0, "no connection", {}
    finally:
        connection.close()


def mask_of(answer: dict[str, Any]) -> np.ndarray:
    result = answer["results"][0]["result"]
    if not result:
        return np.zeros((HEIGHT, WIDTH), bool)
    return decode_rle(result[0]["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3] > 0


def children(pid: int) -> list[int]:
    """Processes below one that hold the model: those that multiprocessing spawned."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            number, parent = int(path.parent.name), int(fields[1])
            if parent == pid:
                found += [number, *children(number)]
    return found


def worker_of(server_pid: int) -> int | None:
    for pid in children(server_pid):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


class Load:
    """Annotators who click image after image, one request at a time each."""

    def __init__(self, port: int, images: int, expected: dict[tuple[int, int], bytes]) -> None:
        self.port, self.images, self.expected = port, images, expected
        self.stop = threading.Event()
        self.seconds: list[float] = []
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()

    def annotate(self, number: int) -> None:
        generator = random.Random(number)
        while not self.stop.is_set():
            image = generator.randrange(self.images)
            for count in range(1, CLICKS + 1):
                started = time.monotonic()
                status, reason, answer = ask(self.port, "POST", "/predict", body(image, count))
                seconds = time.monotonic() - started
                if status == 200:
                    right = hashlib.sha256(mask_of(answer)).digest() == self.expected[image, count]
                    outcome = "right" if right else "WRONG MASK"
                elif status == 503 and reason:
                    outcome = "503 " + re.sub(r"\d+", "N", reason)
                else:
                    outcome = f"BAD {status} {reason}"
                with self.lock:
                    self.seconds.append(seconds)
                    self.outcomes[outcome] += 1


def expected_masks(paths: list[Path], settings: Any) -> dict[tuple[int, int], bytes]:
    segmenter = Segmenter(backbone_loader(settings)(), settings.method())
    found = {}
    for index, path in enumerate(paths):
        state = segmenter.encode(decode_image(path.read_bytes(), max_pixels=10**8))
        clicks = [
            Click(pixel_from_percent(x, WIDTH), pixel_from_percent(y, HEIGHT), positive)
            for x, y, positive in clicks_of(index)
        ]
        for count in range(1, CLICKS + 1):
            mask = segmenter.segment(state, clicks[:count]).mask
            found[index, count] = hashlib.sha256(mask).digest()
    return found


def abuse(disk: str, cache: Path) -> None:
    files = sorted(cache.rglob("*.safetensors"))
    if disk == "damaged":
        for number, path in enumerate(files[:10]):
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] if number % 2 else os.urandom(len(data)))
    elif disk == "readonly":
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seconds", 60), ("annotators", 8), ("images", 40), ("kills", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--disk", choices=["good", "full", "readonly", "damaged"], default="good")
    parser.add_argument("--backbone", default="color")
    parser.add_argument("--model")
    parser.add_argument("--layers")
    parser.add_argument("--grid", type=int, default=40)
    given = parser.parse_args()
    chosen = {"backbone": given.backbone, "model": given.model, "layers": given.layers, "grid": given.grid}
    options = [text for name, value in chosen.items() if value is not None for text in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        cache, images = Path(folder, "cache"), Path(folder, "images")
        cache.mkdir()
        images.mkdir()
        if given.disk in ("full", "readonly"):
            size = "20m" if given.disk == "full" else "500m"
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(cache)], check=True)
            undo.callback(subprocess.run, ["umount", "-l", str(cache)], check=True)
        paths = photographs(images, given.images)
        expected = expected_masks(paths, load_settings(device="cpu", cache_dir=Path(folder), **chosen))
        environment = {
            "M2N2_CACHE_DIR": str(cache),
            "M2N2_LOCAL_FILES_ROOT": str(images),
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        }
        with server(options, environment) as (port, process):
            return run(given, port, process.pid, cache, expected)


def run(given: argparse.Namespace, port: int, pid: int, cache: Path, expected: dict[tuple[int, int], bytes]) -> int:
    load = Load(port, given.images, expected)
    threads = [threading.Thread(target=load.annotate, args=(number,)) for number in range(given.annotators)]
    for thread in threads:
        thread.start()
    started, kills, states = time.monotonic(), 0, collections.Counter[str]()
    abused = False
    while (elapsed := time.monotonic() - started) < given.seconds:
        time.sleep(1)
        status, _, health = ask(port, "GET", "/health")
        states[f"{status} {health.get('state')}"] += 1
        if not abused and elapsed > given.seconds / 4:
            abuse(given.disk, cache)
            abused = True
        if kills < given.kills and elapsed > (kills + 1) * given.seconds / (given.kills + 1):
            worker = worker_of(pid)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                kills += 1
        if int(elapsed) % 30 == 0:
            worker = worker_of(pid)
            memory = [f"{resident(each):.0f} MB" for each in (*children(pid)[:1], worker) if each]
            print(f"{elapsed:4.0f} s: {sum(load.outcomes.values())} requests, resident {memory}", flush=True)
    load.stop.set()
    for thread in threads:
        thread.join(120)
    hanging = sum(thread.is_alive() for thread in threads)
    metrics = ask(port, "GET", "/metrics")[2]["text"]
    damaged = 0
    for path in cache.rglob("*.safetensors"):
        try:
            fingerprint = json.loads(
                json.loads(path.read_bytes()[8:].split(b"}}", 1)[0] + b"}}")["__metadata__"]["header"]
            )
            unpack(path.read_bytes(), path.stem, fingerprint["fingerprint"])
        except ValueError as error:
            damaged += 1
            print(path.name, error)
    times = np.percentile(load.seconds, [50, 95, 99, 100])
    print(
        f"{sum(load.outcomes.values())} requests in {given.seconds} s by {given.annotators} annotators, {kills} kills"
    )
    print("seconds p50 {:.3f} p95 {:.3f} p99 {:.3f} most {:.3f}".format(*times))
    print(f"outcomes {dict(load.outcomes)}\n/health {dict(states)}\nhanging {hanging}, damaged files {damaged}")
    print("\n".join(line for line in metrics.splitlines() if re.match(r"m2n2_(worker|cache)_", line)))
    bad = [name for name in load.outcomes if not name.startswith(("right", "503 "))]
    return 1 if bad or hanging or (damaged and given.disk != "damaged") else 0


if __name__ == "__main__":
    sys.exit(main())
