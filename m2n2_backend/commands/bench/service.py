"""A real server under open-loop load, with faults on demand, and every mask beside the one computed alone.

Requests arrive when a Poisson process says, not when an earlier answer is there, and a latency counts from the
intended arrival: a server that stands still for a second delays everything that should have come meanwhile, which a
loop of clients that wait would hide.
"""

from __future__ import annotations

import heapq
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from pydantic import SecretStr

from m2n2_backend.commands.bench.model import Size, center, jpeg, new_clicks, photograph
from m2n2_backend.errors import BackboneUnavailable, SettingsError
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click
from m2n2_backend.resources import label_config
from m2n2_backend.settings import Settings
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.steps import resident_bytes

Abuse = Literal["damaged", "removed", "full", "readonly"]

SENDERS = 128  # requests under way at once; more wait, and their waiting counts
OBJECTS, CLICKS = 5, 4  # of an image, and of an object
_LOAD_SECONDS, _REQUEST_SECONDS, _STOP_SECONDS = 600.0, 120.0, 60.0
_SINGLES = 5
_SAMPLE_SECONDS = 2.0  # between two looks at the memory
_DAMAGED = 10  # files
_FULL_MB, _READONLY_MB = 20, 500  # of the small file system that stands for a disk


@dataclass(frozen=True)
class Load:
    """What the server has to bear.

    Attributes:
        rate: Mean arrivals per second.
        seconds: In which they arrive.
        images: Photographs; the k-th most popular one is asked about 1/k as often as the first (Zipf).
        kill_every: Seconds between two kills of a worker process, each of the one that has lived longest, so that
            several are killed in turn; None kills none.
        abuse: What happens to the cache folder after a quarter of the time, or from the start where it is full.
    """

    rate: float = 2.0
    seconds: float = 30.0
    images: int = 40
    kill_every: float | None = None
    abuse: Abuse | None = None


@dataclass(frozen=True)
class Arrival:
    """A request that is to be sent ``at`` seconds after the start: all clicks of an object so far."""

    at: float
    image: str
    clicks: tuple[Click, ...]


@dataclass(frozen=True)
class Answer:
    """What came of an arrival: HTTP status (0: the connection broke), reason phrase, brush RLE, times in ms."""

    arrival: Arrival
    status: int
    reason: str
    rle: bytes
    latency: float  # from the intended arrival
    sent: float  # from when it was really sent


def measure_service(segmenter: Segmenter, settings: Settings, folder: Path, size: Size, load: Load) -> dict[str, Any]:
    """Measure a server with these settings: one request at a time, then open-loop.

    Args:
        segmenter: Of the same backbone and method, to compute every mask once more, alone.
        settings: Of the server.
        folder: Empty, for images and cache.
        size: Of the photographs.
        load: How many requests, and which faults.

    Returns:
        ``start_seconds``; ``one_at_a_time`` (ms by kind); ``load`` (see :func:`figures_of`; also ``kills``,
        ``restarts``, ``model_runs``, ``resident_mb``); ``masks`` (see :func:`check_masks`); ``damaged_files`` left in
        the cache; ``faults``, a sentence for whatever must not happen.

    Raises:
        BackboneUnavailable: The server did not become ready.
        SettingsError: The disk cannot be abused like that here.
    """
    images, cache = folder / "images", folder / "cache"
    for path in (images, cache):
        path.mkdir()
    names = [f"{number}.jpg" for number in range(_SINGLES + load.images)]
    for number, name in enumerate(names):
        (images / name).write_bytes(jpeg(photograph(size, number)))
    start = partial(server, settings, images, cache, folder / "server.log")
    with ExitStack() as undo:
        if load.abuse in ("full", "readonly"):
            _mount(cache, _FULL_MB if load.abuse == "full" else _READONLY_MB, undo)
        with start() as running:
            seconds = running.start_seconds
            singles, kinds = _one_at_a_time(partial(ask, running, size), names[:_SINGLES], size)
        with start() as running:  # with an empty memory
            first = [Arrival(0.0, name, (center(size),)) for name in names[:_SINGLES]]
            returned = [_now(partial(ask, running, size), each) for each in first]
            kinds["first_click_from_disk"] = [each.sent for each in returned]
            under_load, figures = _under_load(running, names[_SINGLES:], size, cache, load)
        damaged = count_damaged(segmenter, settings, cache)
    answers = [*singles, *returned, *under_load]
    masks = check_masks(segmenter, answers, images, size)
    return {
        "start_seconds": seconds,
        "one_at_a_time": {kind: percentiles(times, 50, 95) for kind, times in kinds.items()},
        "load": figures,
        "masks": masks,
        "damaged_files": damaged,
        "faults": faults_of(answers, masks, 0 if load.abuse == "damaged" else damaged),
    }


def arrivals_of(load: Load, images: Sequence[str], size: Size) -> list[Arrival]:
    """Poisson arrivals on images of Zipf popularity; the same in every run."""
    generator = np.random.default_rng(0)
    popularity = 1 / np.arange(1, len(images) + 1)
    popularity /= popularity.sum()
    found, at = list[Arrival](), 0.0
    while (at := at + generator.exponential(1 / load.rate)) < load.seconds:
        image = int(generator.choice(len(images), p=popularity))
        clicks = new_clicks(size, CLICKS, seed=image * OBJECTS + int(generator.integers(OBJECTS)))
        found.append(Arrival(at, images[image], tuple(clicks[: int(generator.integers(1, CLICKS + 1))])))
    return found


def drive(
    arrivals: Iterable[Arrival],
    send: Callable[[Arrival], tuple[int, str, bytes]],
    *,
    senders: int = SENDERS,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Answer]:
    """Send each request when it is due, whatever became of those before, and wait for all answers."""
    start = now()

    def one(arrival: Arrival) -> Answer:
        sent = now()
        status, reason, rle = send(arrival)
        end = now()
        return Answer(arrival, status, reason, rle, (end - start - arrival.at) * 1e3, (end - sent) * 1e3)

    with ThreadPoolExecutor(senders) as pool:
        pending = []
        for arrival in arrivals:
            sleep(max(0.0, start + arrival.at - now()))
            pending.append(pool.submit(one, arrival))
        return [each.result() for each in pending]


def figures_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts and latencies of a load.

    Returns:
        ``requests``, ``answered``, ``images_asked``, ``refused`` (number by status and reason), and of those answered
        ``latency_ms`` (from the intended arrival) and ``sent_ms`` (from the sending): p50, p95, p99, p100.
    """
    answered = [each for each in answers if each.status == 200]
    refused = Counter(
        f"{each.status} {re.sub(r'[0-9]+', 'N', each.reason)}" for each in answers if each.status != 200
    )
    return {
        "requests": len(answers),
        "answered": len(answered),
        "images_asked": len({each.arrival.image for each in answers}),
        "refused": dict(refused),
        "latency_ms": percentiles([each.latency for each in answered], 50, 95, 99, 100),
        "sent_ms": percentiles([each.sent for each in answered], 50, 95, 99, 100),
    }


def warm_latencies(answers: Iterable[Answer], kills: Sequence[float]) -> list[float]:
    """Ms of those requests whose image was answered before they were due, with no kill between that and their end.

    Args:
        answers: Of a load.
        kills: Seconds after its start.
    """
    answered = [(each, each.arrival.at + each.latency / 1e3) for each in answers if each.status == 200]
    first: dict[tuple[str, int], float] = {}  # by image and number of kills before: end of the first answer
    for each, end in sorted(answered, key=lambda pair: pair[1]):
        first.setdefault((each.arrival.image, sum(kill < end for kill in kills)), end)
    return [
        each.latency
        for each, end in answered
        if first[each.arrival.image, sum(kill < end for kill in kills)] < each.arrival.at
    ]


def check_masks(segmenter: Segmenter, answers: Iterable[Answer], folder: Path, size: Size) -> dict[str, Any]:
    """Compute each mask again, one image after the other, and compare.

    Returns:
        ``checked``, ``mismatches`` (answers with any other pixel), ``largest_difference`` (share of a mask's pixels).
    """
    by_image: dict[str, dict[tuple[Click, ...], list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for each in answers:
        if each.status == 200:
            by_image[each.arrival.image][each.arrival.clicks].append(each.rle)
    differences: list[float] = []
    for image, by_clicks in by_image.items():
        state = segmenter.encode(decode_image((folder / image).read_bytes(), max_pixels=10**9))
        for clicks, given in by_clicks.items():
            mask = segmenter.segment(state, clicks).mask
            found = {rle: float((decode_mask(rle, size) != mask).mean()) for rle in set(given)}
            differences += [found[rle] for rle in given]
    return {
        "checked": len(differences),
        "mismatches": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=0.0),
    }


def faults_of(answers: Iterable[Answer], masks: Mapping[str, Any], damaged: int) -> list[str]:
    """Sentences for what must not happen: even while workers die, a request gets its mask or a 503 that says why."""
    bad = Counter((each.status, each.reason) for each in answers if each.status not in (200, 503) or not each.reason)
    found = [f"{number} requests ended with {status} {reason!r}" for (status, reason), number in bad.items()]
    if masks["mismatches"]:
        found.append(f"{masks['mismatches']} masks of {masks['checked']} differ from those computed alone")
    if damaged:
        found.append(f"{damaged} files in the cache are damaged")
    return found


def percentiles(times: Sequence[float], *ranks: int) -> dict[str, float]:
    """``p50`` and so on; empty where there are no times."""
    return {f"p{rank}": float(np.percentile(times, rank)) for rank in ranks} if times else {}


def decode_mask(rle: bytes, size: Size) -> NDArray[np.bool_]:
    """Brush RLE → bool [H, W]; no RLE is an empty mask."""
    if not rle:
        return np.zeros(size[::-1], np.bool_)
    return np.asarray(decode_rle(list(rle))).reshape(size[1], size[0], 4)[..., 3] > 0


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
        found, below = [], _children(self.pid)
        while below:
            pid = below.pop()
            below += _children(pid)
            with suppress(OSError):
                found += [pid] if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
        return sorted(found, key=_started)


def ask(running: Server, size: Size, arrival: Arrival) -> tuple[int, str, bytes]:
    """One /predict: status, reason phrase, RLE; never raises for what the server or the connection does."""
    try:
        status, reason, data = running.call("POST", "/predict", json.dumps(_body(arrival, size)).encode())
    except (OSError, http.client.HTTPException) as error:
        return 0, type(error).__name__, b""
    regions = json.loads(data)["results"][0]["result"] if status == 200 else []
    return status, reason, bytes(regions[0]["value"]["rle"]) if regions else b""


@contextmanager
def server(settings: Settings, images: Path, cache: Path, log: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """``m2n2-backend serve`` on a free port of this machine until the body ends.

    Args:
        settings: Whatever was set in them, the server gets, but for addresses, credentials and folders.
        images: Its local files.
        cache: Its cache folder.
        log: File for what it writes.
        options: Further ones of the command.

    Raises:
        BackboneUnavailable: It ended or did not become ready; the message holds its last line.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "m2n2_backend", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += options
    started = time.monotonic()
    with log.open("ab") as sink:
        process = subprocess.Popen(command, env=environment(settings, images, cache), stdout=sink, stderr=sink)
    try:
        _await_ready(process, Server(process.pid, port), log)
        yield Server(process.pid, port, time.monotonic() - started)
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
    own = {"LOCAL_FILES_ROOT": images, "CACHE_DIR": cache, "LOG_LEVEL": "WARNING"}
    own |= {"BASIC_AUTH_USER": "", "BASIC_AUTH_PASSWORD": ""}
    # Nobody listens at that address, and nobody is asked: all images are local files.
    studio = {"LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": ""}
    return {**os.environ, **given, **{f"M2N2_{name}": str(value) for name, value in own.items()}, **studio}


def count_damaged(segmenter: Segmenter, settings: Settings, cache: Path) -> int:
    """Files of a cache folder that cannot be used; they are removed."""
    disk = Engine(segmenter.backbone, settings.model_copy(update={"cache_dir": cache})).disk
    for path in cache.rglob("*.safetensors"):
        disk.get(path.stem)
    return disk.health.damaged


def abuse_disk(kind: Abuse, cache: Path) -> None:
    """Damage files, remove the folder, or make its file system read-only; a full one is full from the start."""
    if kind == "damaged":
        for number, path in enumerate(sorted(cache.rglob("*.safetensors"))[:_DAMAGED]):
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2] if number % 2 else os.urandom(len(data)))
    elif kind == "removed":
        shutil.rmtree(cache, ignore_errors=True)  # the server may be writing into it
    elif kind == "readonly":
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)


def _mount(cache: Path, megabytes: int, undo: ExitStack) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(cache)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SettingsError("a full or read-only disk is a small one that is mounted, which takes root") from error
    undo.callback(subprocess.run, ["umount", "-l", str(cache)], check=True)


def _under_load(
    running: Server, images: Sequence[str], size: Size, cache: Path, load: Load
) -> tuple[list[Answer], dict[str, Any]]:
    before, stop, killed, memory = _state(running), threading.Event(), list[float](), list[float]()
    watching = [
        threading.Thread(target=_make_faults, args=(running, cache, load, stop, killed)),
        threading.Thread(target=_sample_memory, args=(running, stop, memory)),
    ]
    for thread in watching:
        thread.start()
    try:
        answers = drive(arrivals_of(load, images, size), partial(ask, running, size))
    finally:
        stop.set()
        for thread in watching:
            thread.join()
    after = _state(running)
    return answers, {
        **figures_of(answers),
        "rate": load.rate,
        "seconds": load.seconds,
        "images": load.images,
        "abuse": load.abuse,
        "kills": len(killed),
        # The counters begin again with each worker, but the number of its starts is the pool's.
        "restarts": after["restarts"] - before["restarts"],
        "model_runs": None if killed else after["encoded"] - before["encoded"],
        "warm_ms": percentiles(warm_latencies(answers, killed), 50, 95, 99, 100),
        "resident_mb": {
            "before": before["resident_mb"],
            "after": after["resident_mb"],
            "first_minute": max(memory[: round(60 / _SAMPLE_SECONDS)], default=0.0),
            "last_minute": max(memory[-round(60 / _SAMPLE_SECONDS) :], default=0.0),
        },
    }


def _make_faults(running: Server, cache: Path, load: Load, stop: threading.Event, killed: list[float]) -> None:
    """What is due, in its order, until the load ends; notes when it killed."""
    due: list[tuple[float, str]] = [(load.seconds / 4, "abuse")] if load.abuse else []
    every = load.kill_every
    due += [(every * n, "kill") for n in range(1, int(load.seconds / every) + 1)] if every else []
    heapq.heapify(due)
    start = time.monotonic()
    while due:
        at, kind = heapq.heappop(due)
        if stop.wait(max(0.0, start + at - time.monotonic())):
            return
        if kind == "abuse" and load.abuse:
            abuse_disk(load.abuse, cache)
        for pid in running.workers()[:1] if kind == "kill" else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(time.monotonic() - start)


def _sample_memory(running: Server, stop: threading.Event, found: list[float]) -> None:
    """Resident MB of all processes again and again, until the load ends."""
    while not stop.wait(_SAMPLE_SECONDS):
        found.append(_resident_mb(running))


def _resident_mb(running: Server) -> float:
    pids = {running.pid, *_children(running.pid), *running.workers()}
    return sum(resident_bytes(pid) for pid in pids) / 2**20


def _state(running: Server) -> dict[str, float]:
    return {
        "restarts": running.metric("m2n2_worker_restarts_total"),
        "encoded": running.metric("m2n2_worker_encoded_total"),
        "resident_mb": _resident_mb(running),
    }


def _one_at_a_time(
    send: Callable[[Arrival], tuple[int, str, bytes]], names: Sequence[str], size: Size
) -> tuple[list[Answer], dict[str, list[float]]]:
    """First clicks on new images, then pairs of a new click and the same request again; times by kind."""
    answers = {"first_click": [_now(send, Arrival(0.0, name, (center(size),))) for name in names]}
    pairs = [Arrival(0.0, names[-1], (center(size), click)) for click in new_clicks(size, 2 * _SINGLES)]
    both = [(_now(send, pair), _now(send, pair)) for pair in pairs]
    answers |= {"new_click": [first for first, _ in both], "repeated_request": [again for _, again in both]}
    return [each for of in answers.values() for each in of], {
        kind: [each.sent for each in of] for kind, of in answers.items()
    }


def _now(send: Callable[[Arrival], tuple[int, str, bytes]], arrival: Arrival) -> Answer:
    return drive([arrival], send, senders=1)[0]


def _body(arrival: Arrival, size: Size) -> dict[str, Any]:
    task = {"id": int(arrival.image.partition(".")[0]), "data": {"image": f"/data/local-files/?d={arrival.image}"}}
    return {
        "tasks": [{**task, "drafts": [], "annotations": [], "predictions": []}],
        # A project of its own for each request: none is to be superseded by a newer one.
        "project": f"{int.from_bytes(os.urandom(6), 'big')}.1700000000",
        "label_config": label_config("brush").read_text(encoding="utf-8"),
        "params": {
            "context": {"result": [_item(click, number, size) for number, click in enumerate(arrival.clicks)]}
        },
    }


def _item(click: Click, number: int, size: Size) -> dict[str, Any]:
    place = {"x": 100 * (click.x + 0.5) / size[0], "y": 100 * (click.y + 0.5) / size[1], "width": 0.3}
    return {
        "id": f"p{number}",
        "type": "keypointlabels",
        "from_name": "keypoint",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "is_positive": click.positive,
        "value": {**place, "labels": ["Object"], "keypointlabels": ["Object"]},
    }


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _await_ready(process: subprocess.Popen[bytes], running: Server, log: Path) -> None:
    deadline = time.monotonic() + _LOAD_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BackboneUnavailable(f"the server ended with status {process.returncode}: {_last_line(log)}")
        with suppress(OSError, http.client.HTTPException):  # not listening yet
            status, reason, data = running.call("GET", "/health")
            if status != 200:
                raise BackboneUnavailable(f"the server cannot answer: {status} {reason}")
            if b'"ready"' in data:
                return
        time.sleep(0.05)
    raise BackboneUnavailable(f"the server was not ready within {_LOAD_SECONDS:.0f} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it wrote nothing")


def _started(pid: int) -> int:
    """When a process was started, in ticks of the machine's clock; 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _children(pid: int) -> list[int]:
    """Child processes, whichever thread started them; none where the system does not tell."""
    found: list[int] = []
    with suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in path.read_text(encoding="ascii").split()]
    return found
