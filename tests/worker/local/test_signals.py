"""Signals to the whole process group, as systemd, a terminal and a shell send them, and processes that are stopped.

A real server with its model process, in a group of its own; the model waits for the test, so that nothing is timed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fake_label_studio import png
from gated_backbone import Gates
from label_studio_fakes import data_url, key_point, payload
from processes import free_port
from repository import SUPPORT
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from gated_backbone import loader
from label_studio_fakes import settings
from m2n2_backend.server import run
from m2n2_backend.worker.local.pool import ProcessPool

folder = Path(sys.argv[3])
run._GRACE_SECONDS, run._WATCHDOG_SECONDS = int(sys.argv[4]), int(sys.argv[5])
options = settings(port=int(sys.argv[2]), backbone="color", device="cpu", cache_dir=folder)
run.serve(options, lambda settings: ProcessPool(settings, load=loader(folder)))
"""
GRACE_SECONDS = 100  # nothing here waits for it to pass


def hear_all() -> None:
    """Undo how the tests may have been started: nohup ignores a hangup, a shell's background jobs the others."""
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)


class Server:
    """A running server; its group has the number of its first process."""

    def __init__(self, process: subprocess.Popen[str], port: int, gates: Gates, log: Path) -> None:
        self.process, self.port, self.gates, self._log = process, port, gates, log
        self._askers = ThreadPoolExecutor(4)

    def health(self) -> dict[str, str]:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=60).json()  # type: ignore[no-any-return]
        except httpx.HTTPError:
            assert self.process.poll() is None, self.log
            return {"state": "unreachable"}

    def is_ready(self) -> bool:
        return self.health()["state"] == "ready"

    def click(self, seed: int = 0) -> Future[httpx.Response]:
        """A click on an image that no other seed gives."""
        image = data_url(png() + bytes([seed]))
        url = f"http://127.0.0.1:{self.port}/predict"
        return self._askers.submit(httpx.post, url, json=payload(key_point(), image=image), timeout=300)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def ended(self) -> str:
        """What it logged, once it has ended well and left neither process nor port behind."""
        assert self.process.wait(300) == 0, self.log
        until(lambda: not self.has_processes())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", self.port))
        assert "Traceback" not in self.log
        return self.log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def has_processes(self) -> bool:
        """Whether anything of its group runs; a zombie that a container's first process does not bury does not."""
        stats = [text.rpartition(")")[2].split() for text in map(text_of, Path("/proc").glob("[0-9]*/stat")) if text]
        return any(group == str(self.process.pid) and state != "Z" for state, _, group, *_ in stats)

    def close(self) -> None:
        self._askers.shutdown(wait=False)
        if self.has_processes():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(
    folder: Path, *, before: Sequence[str] = (), grace: int = GRACE_SECONDS, watchdog: int = 60, closed: str = ""
) -> Iterator[Server]:
    """A server in a group of its own that answers /health.

    Args:
        folder: For its gates, cache and log.
        before: What the command line begins with.
        grace: Seconds for clicks that were begun.
        watchdog: Seconds after which a web process that hangs is ended.
        closed: Gate that is closed at the start.
    """
    port = free_port()
    gates, log = Gates(folder), folder / "log"
    if closed:
        gates.close(closed)
    numbers = [str(number) for number in (port, folder, grace, watchdog)]
    command = [*before, sys.executable, "-c", SCRIPT, str(SUPPORT), *numbers]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=hear_all,
        )
    server = Server(process, port, gates, log)
    try:
        until(lambda: server.health()["state"] == "loading" if closed == "load" else server.is_ready())
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_click_in_work_is_answered_when_the_whole_group_is_told_to_end(number: int, tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.gates.close("encode")
        click = server.click()
        until(lambda: server.gates.reached("encode"))

        server.signal(number)
        server.signal(number)
        server.gates.open("encode")

        assert click.result(300).json()["results"][0]["result"]
        assert "starting it again" not in server.ended()
        assert len(server.gates.reached("load")) == 1


def test_a_click_that_waits_for_the_model_to_load_is_answered_after_the_signal(tmp_path: Path) -> None:
    with running(tmp_path, closed="load") as server:
        click = server.click()
        until(lambda: "clicks that wait: 1" in server.health()["detail"])

        server.signal(signal.SIGTERM)
        server.gates.open("load")

        assert click.result(300).json()["results"][0]["result"]
        server.ended()
        assert len(server.gates.reached("load")) == 1


def test_a_model_process_is_deaf_to_the_groups_signals_from_its_first_moment(tmp_path: Path) -> None:
    with running(tmp_path, closed="load") as server:
        (web,) = children(server.process.pid)
        until(lambda: server.gates.reached("load"))
        pid = server.gates.reached("load")[0]
        for _ in range(2):
            os.kill(pid, signal.SIGKILL)
            # What appears now has not run a line of Python yet.
            until(lambda pid=pid: any(fresh > pid for fresh in children(web)))  # type: ignore[misc]
            pid = max(children(web))
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
                os.kill(pid, number)
            until(lambda pid=pid: pid in server.gates.reached("load"))  # type: ignore[misc]


def test_a_model_too_slow_for_the_end_has_its_click_told_so(tmp_path: Path) -> None:
    with running(tmp_path, grace=6) as server:
        server.gates.close("encode")
        click = server.click()
        until(lambda: server.gates.reached("encode"))

        server.signal(signal.SIGTERM)

        answer = click.result(300)
        assert (answer.status_code, answer.reason_phrase) == (503, "the model worker is shutting down")
        server.ended()


def test_signals_that_mean_something_to_gunicorn_alone_change_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        before = sorted(descendants(server.process.pid))
        for number in ("SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU", "SIGWINCH"):
            server.signal(getattr(signal, number))
            assert server.click(ord(number[-1])).result(300).json()["results"][0]["result"], number
        until(lambda: sorted(descendants(server.process.pid)) == before)
        server.signal(signal.SIGTERM)
        server.ended()


def test_a_hangup_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    with running(tmp_path, before=["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]) as server:
        server.signal(signal.SIGHUP)
        assert server.click().result(300).json()["results"][0]["result"]
        server.signal(signal.SIGTERM)
        server.ended()
        assert len(server.gates.reached("load")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_hasty_end_leaves_no_model_behind_however_often_it_is_asked_for(number: int, tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.gates.close("encode")
        server.click()
        until(lambda: server.gates.reached("encode"))
        for _ in range(2):
            server.signal(number)
        server.ended()
        assert len(server.gates.reached("load")) == 1


def test_a_server_that_slept_as_a_whole_goes_on_where_it_was(tmp_path: Path) -> None:
    """As a machine that is paused: the clock jumps for all of them, by more than the watchdog allows."""
    with running(tmp_path, watchdog=3) as server:
        before = sorted(descendants(server.process.pid))
        server.signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(8)
        server.signal(signal.SIGCONT)

        assert server.click().result(300).json()["results"][0]["result"]
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(3)
        assert sorted(descendants(server.process.pid)) == before
        assert "WORKER TIMEOUT" not in server.log
        assert "has been silent" not in server.log


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """Processes that a process has started, by any of its threads."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]
