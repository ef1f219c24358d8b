"""A cluster of one machine under open-loop load, quiet and with faults: `python tests/cluster/load.py out.json`.

Three replicas behind two web processes, sixteen annotators, sixty images. Every mask is compared with the one
computed alone, every run of the model is counted in a file. Exit status 1 if anything happened that must not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "load"))

from arrivals import Answer, Arrival, Load, arrivals_of, drive, figures_of, percentiles
from counted import load_counted, model_runs
from masks import check_masks, faults_of
from ray_machine import ray_machine
from served import Server, ask, child_processes, server

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.bench.photographs import center, jpeg, photograph
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.cluster.board import board
from m2n2_backend.worker.cluster.deployment import Size, deployed
from m2n2_backend.worker.cluster.replica import deploy
from m2n2_backend.worker.replica.steps import resident_bytes

SIZE = (320, 240)
ANNOTATORS, IMAGES, REPLICAS, WEB_PROCESSES = 16, 60, 3, 2
AFTER_KILL_SECONDS = 10.0
PATIENCE = 300.0
WARM_CLICKS = 100


def main() -> None:
    """Run all parts and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two loads")
    parser.add_argument("--rate", type=float, default=1.5, help="requests per second")
    parser.add_argument("--kill-every", type=float, default=20.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_machine(cpus=8) as ray:
        figures = measure(ray, Path(folder), given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["faults"] else 0)


def measure(ray: ModuleType, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    images = folder / "images"
    images.mkdir()
    names = [f"{number}.jpg" for number in range(2 * IMAGES + 1)]
    for number, name in enumerate(names):
        (images / name).write_bytes(jpeg(photograph(SIZE, number)))
    settings = load_settings(
        backbone="color",
        grid=24,
        device="cpu",
        threads=1,
        cache_dir=folder / "replicas",
        store=str(folder / "store"),
        ray_address=ray.get_runtime_context().gcs_address,
    )
    deploy(settings, Size(replicas=REPLICAS), load_counted)
    load = Load(given.rate, given.seconds, IMAGES)
    segmenter = Segmenter(backbone_loader(settings)(), settings.method())
    with ExitStack() as stack:
        webs = [
            stack.enter_context(server(settings, images, folder / f"web{n}", folder / "web.log", ["--cluster"]))
            for n in range(WEB_PROCESSES)
        ]
        await_running(ray, REPLICAS)
        send = partial(ask_in_turn, itertools.cycle(webs))
        quiet, quiet_answers = under_load(settings, send, load, names[:IMAGES], lambda stop: [])
        faults = partial(make_faults, ray, settings, given.kill_every, given.seconds)
        faulty, faulty_answers = under_load(settings, send, load, names[IMAGES : 2 * IMAGES], faults)
        memory = memory_of(ray)
        cluster_ms = warm_clicks(webs[0], names[-1])
    with server(settings.model_copy(update={"store": None}), images, folder / "local", folder / "web.log") as local:
        local_ms = warm_clicks(local, names[-1])
    answers = [*quiet_answers, *faulty_answers]
    masks = check_masks(segmenter, answers, images, SIZE)
    wrong = faults_of(answers, masks, 0)
    for name, part in (("quiet", quiet), ("faulty", faulty)):
        if part["encoded_twice"] and name == "quiet":
            wrong.append(f"{part['encoded_twice']} images were encoded twice without any fault")
    if quiet["answered"] < quiet["requests"]:
        wrong.append("requests were refused although nothing was wrong")
    return {
        "quiet": quiet,
        "faulty": faulty,
        "masks": masks,
        "warm_click_ms": {"local": local_ms, "cluster": cluster_ms},
        "resident_mb": memory,
        "faults": wrong,
    }


def ask_in_turn(webs: Any, arrival: Arrival) -> tuple[int, str, bytes]:
    return ask(next(webs), SIZE, arrival)


def under_load(
    settings: Settings,
    send: Callable[[Arrival], tuple[int, str, bytes]],
    load: Load,
    names: Sequence[str],
    faults: Callable[[threading.Event], list[dict[str, Any]]],
) -> tuple[dict[str, Any], list[Answer]]:
    """One load, with whatever happens beside it."""
    before, stop, happened = model_runs(settings.cache_dir), threading.Event(), list[dict[str, Any]]()
    start = time.monotonic()
    beside = threading.Thread(target=lambda: happened.extend(faults(stop)))
    beside.start()
    answers = drive(arrivals_of(load, names, SIZE), send, senders=ANNOTATORS)
    stop.set()
    beside.join()
    runs = model_runs(settings.cache_dir) - before
    kills = [each["at"] - start for each in happened if "killed" in each]
    after = [
        each.latency
        for each in answers
        if each.status == 200 and any(0 <= each.arrival.at - kill < AFTER_KILL_SECONDS for kill in kills)
    ]
    return {
        **figures_of(answers),
        "model_runs": runs.total(),
        "images_encoded": len(runs),
        "encoded_twice": sum(number > 1 for number in runs.values()),
        "happened": [{**each, "at": round(each["at"] - start, 1)} for each in happened],
        "after_kill_ms": percentiles(after, 50, 95, 100),
    }, answers


def make_faults(
    ray: ModuleType, settings: Settings, every: float, seconds: float, stop: threading.Event
) -> list[dict[str, Any]]:
    """A kill every so often; two replicas after a third of the time, four after two thirds."""
    due = [(every * n, "kill") for n in range(1, int(seconds / every) + 1)]
    due = sorted([*due, (seconds / 3 + 1, "2 replicas"), (2 * seconds / 3 + 1, "4 replicas")])
    happened, start = list[dict[str, Any]](), time.monotonic()
    for at, what in due:
        if stop.wait(max(0.0, start + at - time.monotonic())):
            break
        if what == "kill":
            reports = [report for report, age in ray.get(board().read.remote()) if age < 5]
            if reports:
                os.kill(reports[0].pid, signal.SIGKILL)
                happened.append({"at": time.monotonic(), "killed": reports[0].replica, "of": len(reports)})
        else:
            deploy(settings, Size(replicas=int(what[0])), load_counted)
            happened.append({"at": time.monotonic(), "scaled": what})
    return happened


def warm_clicks(web: Server, name: str) -> dict[str, float]:
    """One request again and again: everything is there, so what is left is the way there and back."""
    arrival = Arrival(0.0, name, (center(SIZE),))
    times = []
    for _ in range(WARM_CLICKS):
        started = time.perf_counter()
        status, reason, _ = ask(web, SIZE, arrival)
        assert status == 200, reason
        times.append(1000.0 * (time.perf_counter() - started))
    return {"median": statistics.median(times[5:]), **percentiles(times[5:], 5, 95)}


def await_running(ray: ModuleType, replicas: int) -> None:
    until = time.monotonic() + PATIENCE
    while not any(each.replicas.get("RUNNING") == replicas for each in deployed(ray)):
        assert time.monotonic() < until, deployed(ray)
        time.sleep(0.5)


def memory_of(ray: ModuleType) -> dict[str, Any]:
    """Resident MB: of Ray's own processes of this node together, and of each replica."""
    replicas = {report.pid for report, age in ray.get(board().read.remote()) if age < 5}
    found, below = set[int](), child_processes(os.getpid())
    while below:
        pid = below.pop()
        command = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}/cmdline").exists() else b""
        if b"m2n2_backend" not in command:  # web processes
            found.add(pid)
            below += child_processes(pid)
    return {
        "ray": round(sum(resident_bytes(pid) for pid in found - replicas) / 2**20),
        "replicas": [round(resident_bytes(pid) / 2**20) for pid in sorted(replicas)],
    }


if __name__ == "__main__":
    main()
