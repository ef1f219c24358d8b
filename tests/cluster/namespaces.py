"""Several hosts on one: `python tests/cluster/namespaces.py out.json`, as root on Linux with iproute2.

A Ray head, two workers, a web process and an S3 store, each in a network namespace with an address of its own. Under
open-loop load one worker is cut off, and brought back. Printed is what annotators saw, second by second.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "load"))

from arrivals import Answer, Load, arrivals_of, drive, figures_of
from masks import check_masks, faults_of
from served import Server, ask

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.bench.photographs import jpeg, photograph
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.settings import load_settings

SIZE = (320, 240)
BRIDGE, NETWORK = "m2n2", "10.77.0"
HOSTS = {"head": 2, "one": 3, "two": 4, "web": 5, "store": 6}
RAY_PORT, WEB_PORT, S3_PORT = 6379, 9090, 5000
IMAGES, ANNOTATORS = 30, 16
PATIENCE = 300.0
RAY_FOLDER = "/tmp/ray"
# As in compose.cluster.yaml.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--rate", type=float, default=1.5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        figures = measure(Path(folder), given.seconds, given.rate, stack)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1) + "\n")
    for row in figures.pop("seconds"):
        print(row)
    print(json.dumps(figures, indent=1))
    sys.exit(1 if figures["faults"] else 0)


def measure(folder: Path, seconds: float, rate: float, stack: ExitStack) -> dict[str, Any]:
    images = folder / "images"
    images.mkdir()
    names = [f"{number}.jpg" for number in range(IMAGES)]
    for number, name in enumerate(names):
        (images / name).write_bytes(jpeg(photograph(SIZE, number)))
    settings = load_settings(backbone="color", grid=24, device="cpu")
    environment = {
        **os.environ,
        **HEALTH,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ENDPOINT_URL": f"http://{address('store')}:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "M2N2_STORE": "s3://features/m2n2",
        "M2N2_BACKBONE": "color",
        "M2N2_GRID": "24",
        "M2N2_DEVICE": "cpu",
        "M2N2_THREADS": "1",
        "M2N2_RAY_ADDRESS": f"{address('head')}:{RAY_PORT}",
        "M2N2_CACHE_DIR": str(folder / "cache"),
        "M2N2_LOCAL_FILES_ROOT": str(images),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "M2N2_LOG_LEVEL": "WARNING",
    }
    stack.enter_context(network())
    log = stack.enter_context((folder / "log").open("wb"))
    start = partial(running, environment, log)
    python = Path(sys.executable)
    stack.enter_context(start("store", [str(python), "-m", "moto.server", "-H", "0.0.0.0", "-p", str(S3_PORT)]))
    ray = [
        str(python.with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        "--object-store-memory=100000000",
    ]
    # Ray gives a node thirty seconds to start, which is little on a busy machine that plays five.
    until = ["sh", "-c", 'until "$@"; do sleep 1; done', "sh"]
    head = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false", "--num-cpus=0"]
    stack.enter_context(start("head", [*until, *ray, *head, f"--node-ip-address={address('head')}"]))
    await_port(address("head"), RAY_PORT)
    await_port(address("store"), S3_PORT)
    subprocess.run(
        ["curl", "-sf", "-X", "PUT", f"http://{address('store')}:{S3_PORT}/features"], check=True, stdout=log
    )
    for name in ("one", "two"):
        worker = [f"--address={address('head')}:{RAY_PORT}", "--num-cpus=1", f"--node-ip-address={address(name)}"]
        stack.enter_context(start(name, [*until, *ray, *worker]))
    own = [str(python), "-m", "m2n2_backend"]
    up = shlex.join([*own, "cluster", "up", "--replicas", "2", "--wait", str(PATIENCE)])
    serve = shlex.join([*own, "serve", "--cluster", "--host", "0.0.0.0", "--port", str(WEB_PORT)])
    try:
        # The first one starts this host's node, as its address has none; the second one finds it.
        stack.enter_context(start("web", ["sh", "-c", f"{up} && exec {serve}"]))
        await_port(address("web"), WEB_PORT)
        web = Web(0, WEB_PORT)
        await_ready(web)
        answers, start_at, events = load(web, names, seconds, rate)
    except BaseException:
        sys.stderr.write((folder / "log").read_text(errors="replace")[-6000:])
        raise
    segmenter = Segmenter(backbone_loader(settings)(), settings.method())
    masks = check_masks(segmenter, answers, images, SIZE)
    return {
        **figures_of(answers),
        "masks": masks,
        "events": {name: round(at - start_at, 1) for name, at in events.items()},
        "faults": faults_of(answers, masks, 0),
        "seconds": by_second(answers),
    }


class Web(Server):
    """The web process in its namespace."""

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        import http.client

        connection = http.client.HTTPConnection(address("web"), self.port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.reason, response.read()
        finally:
            connection.close()


def load(
    web: Server, names: Sequence[str], seconds: float, rate: float
) -> tuple[list[Answer], float, dict[str, float]]:
    events: dict[str, float] = {}

    def cut() -> None:
        for name, at, state in (("cut", seconds / 3, "down"), ("back", 2 * seconds / 3, "up")):
            time.sleep(max(0.0, start + at - time.monotonic()))
            subprocess.run(["ip", "link", "set", "m2n2-two", state], check=True)
            events[name] = time.monotonic()

    start = time.monotonic()
    beside = threading.Thread(target=cut)
    beside.start()
    arrivals = arrivals_of(Load(rate, seconds, len(names)), names, SIZE)
    answers = drive(arrivals, partial(ask, web, SIZE), senders=ANNOTATORS)
    beside.join()
    return answers, start, events


def by_second(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What came of the requests that were sent in each second."""
    seconds: dict[int, list[Answer]] = defaultdict(list)
    for each in answers:
        seconds[int(each.arrival.at)].append(each)
    return [
        {
            "second": second,
            "answered": sum(each.status == 200 for each in found),
            "refused": [f"{each.status} {each.reason}" for each in found if each.status != 200],
            "median_ms": round(statistics.median(each.latency for each in found)),
            "worst_ms": round(max(each.latency for each in found)),
        }
        for second, found in sorted(seconds.items())
    ]


def address(host: str) -> str:
    return f"{NETWORK}.{HOSTS[host]}"


def inside(host: str, command: Sequence[str]) -> list[str]:
    """A command on a host: its own network, and nothing of Ray's files seen, which hosts do not share."""
    alone = f"mkdir -p {RAY_FOLDER} && mount -t tmpfs tmpfs {RAY_FOLDER} && exec {shlex.join(command)}"
    return ["ip", "netns", "exec", f"m2n2-{host}", "sh", "-c", alone]


@contextmanager
def network() -> Iterator[None]:
    """A bridge, and behind it a namespace for each host."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for host in HOSTS:
            ip("netns", "add", f"m2n2-{host}")
            ip("link", "add", f"m2n2-{host}", "type", "veth", "peer", "name", "eth0", "netns", f"m2n2-{host}")
            ip("link", "set", f"m2n2-{host}", "master", BRIDGE, "up")
            for words in (["address", "add", f"{address(host)}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                ip("-n", f"m2n2-{host}", *words)
            ip("-n", f"m2n2-{host}", "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            pids = subprocess.run(
                ["ip", "netns", "pids", f"m2n2-{host}"], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():  # what Ray has started in the background
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "link", "delete", f"m2n2-{host}"], check=False)
            subprocess.run(["ip", "netns", "delete", f"m2n2-{host}"], check=False)
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)


@contextmanager
def running(environment: Mapping[str, str], log: Any, host: str, command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(inside(host, command), env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_port(host: str, port: int) -> None:
    import socket

    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), 2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"nothing listens on {host}:{port}")


def await_ready(web: Server) -> None:
    until = time.monotonic() + PATIENCE
    while b'"ready"' not in (answer := web.call("GET", "/health"))[2]:
        if time.monotonic() > until:
            raise TimeoutError(str(answer))
        time.sleep(1)


if __name__ == "__main__":
    main()
