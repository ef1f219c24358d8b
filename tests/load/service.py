"""A real server under open-loop load, with faults on demand, and every mask beside the one computed alone.

`python tests/load/service.py --rate 3 --seconds 600 --kill-every 250 --backbone color --json out.json`; the exit
status is 1 where a mask was wrong. What `M2N2_` variables say holds for the server too.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from arrivals import Abuse, Answer, Arrival, Load, arrivals_of, drive, figures_of, percentiles, warm_latencies
from masks import check_masks, count_damaged, faults_of
from rich.console import Console
from served import Server, ask, child_processes, server

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.bench import describe_machine, model_threads, parse_size, show
from m2n2_backend.commands.bench.photographs import Size, center, jpeg, new_clicks, photograph
from m2n2_backend.errors import SettingsError
from m2n2_backend.files import replace_file
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.replica.steps import resident_bytes

_SINGLES = 5
_SAMPLE_SECONDS = 2.0  # between two looks at the memory
_DAMAGED = 10  # files
_FULL_MB, _READONLY_MB = 20, 500  # of the small file system that stands for a disk


def main() -> None:
    """Measure, print, and write the figures."""
    given = _options()
    settings = load_settings(
        backbone=given.backbone, model=given.model, layers=given.layers, grid=given.grid, device=given.device
    )
    load = Load(given.rate, given.seconds, given.images, given.kill_every, given.abuse_disk)
    figures = run(settings, parse_size(given.size), load)
    show(Console(), "service: ms", figures["service"])
    if given.json:
        replace_file(given.json, (json.dumps(figures, indent=1) + "\n").encode())
    for fault in figures["service"]["faults"]:
        print(f"fault: {fault}", file=sys.stderr)
    sys.exit(1 if figures["service"]["faults"] else 0)


def run(settings: Settings, size: Size, load: Load) -> dict[str, Any]:
    """`machine`, `size` and `service` (see `measure_service`)."""
    with model_threads(settings), tempfile.TemporaryDirectory(prefix="m2n2-load-") as folder:
        backbone = backbone_loader(settings)()
        # By name: the server has a new cache folder, and less free memory to choose a grid by.
        same = settings.model_copy(update={"grid": getattr(backbone, "grid", None)})
        figures = {"machine": describe_machine(backbone), "size": list(size)}
        alone = Segmenter(backbone, settings.method())
        return {**figures, "service": measure_service(alone, same, Path(folder), size, load)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--size", default="854x480", help="width and height of the photographs, in pixels")
    parser.add_argument("--rate", type=float, default=2.0, help="mean number of requests per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds for which requests arrive")
    parser.add_argument("--images", type=int, default=40, help="number of photographs that requests ask about")
    parser.add_argument("--kill-every", type=float, help="seconds between two kills of a worker process")
    parser.add_argument("--abuse-disk", choices=["damaged", "removed", "full", "readonly"])
    for name in ("backbone", "model", "layers", "device"):
        parser.add_argument(f"--{name}", help="as for m2n2-backend")
    parser.add_argument("--grid", type=int, help="as for m2n2-backend")
    return parser.parse_args()


def measure_service(segmenter: Segmenter, settings: Settings, folder: Path, size: Size, load: Load) -> dict[str, Any]:
    """Measure a server with these settings: one request at a time, then open-loop.

    Args:
        segmenter: With the same backbone and method, to compute every mask once more, alone.
        settings: The server's.
        folder: Empty, for images and cache.
        size: Width and height of the photographs.
        load: How many requests, and which faults.

    Returns:
        ``start_seconds``; ``one_at_a_time`` (ms by kind); ``load`` (see :func:`figures_of`; also ``kills``,
        ``restarts``, ``model_runs``, ``resident_mb``); ``masks`` (see :func:`check_masks`); ``damaged_files`` left in
        the cache; ``faults``, a sentence for whatever must not happen.

    Raises:
        StudioError: The server did not become ready.
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
    pids = {running.pid, *child_processes(running.pid), *running.workers()}
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


if __name__ == "__main__":
    main()
