"""Real worker processes on a model that fails on command: killed, stopped, crashed, and left alone in the world."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import gated_backbone
import pytest
from faulty_backbone import BROKEN, CRASH, PLAIN, loader, picture
from gated_backbone import Gates
from processes import is_running
from programs import program
from waiting import LAST_RESORT_SECONDS, until

from m2n2_backend.errors import ImageRefused
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.interface import SourceImage, Work
from m2n2_backend.worker.local.handle import Died, ProcessChild
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.messages import Loading
from m2n2_backend.worker.options import WorkerOptions

ONE = Prompts((Click(30, 22),))


def source(color: tuple[int, int, int] = (*PLAIN, 0), tail: bytes = b"") -> SourceImage:
    return SourceImage.of(picture(color, tail=tail))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faulty")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[ProcessPool]:
    settings = load_settings(device="cpu", workers=2, threads=1, cache_dir=folder)
    pool = ProcessPool(settings, load=loader(folder))
    yield pool
    pool.close()


@pytest.fixture
def pool(running: ProcessPool) -> ProcessPool:
    """Both workers as they should be."""
    until(lambda: running.status().state == "ready")
    return running


def test_a_worker_uses_as_many_threads_as_it_may(pool: ProcessPool, folder: Path) -> None:
    assert pool.segment(Work(source(), ONE, LAST_RESORT_SECONDS)).mask[22, 30]

    found = [(folder / f"threads-{pid}").read_text() for pid in pool.pids]
    assert found == ["1 1", "1 1"]


def test_while_a_killed_worker_is_replaced_the_other_answers_for_it(pool: ProcessPool) -> None:
    pids, images = pool.pids, [source(tail=bytes([number])) for number in range(6)]
    masks = [pool.segment(Work(image, ONE, LAST_RESORT_SECONDS)).mask for image in images]
    os.kill(pids[0], signal.SIGKILL)

    again = [
        pool.segment(Work(SourceImage(image.key, image.data), ONE, LAST_RESORT_SECONDS)).mask for image in images
    ]

    assert all((one == other).all() for one, other in zip(masks, again, strict=True))
    until(lambda: pool.status().state == "ready")
    assert set(pool.pids) & set(pids) == {pids[1]}


def test_a_stopped_worker_is_not_ready_until_it_goes_on(pool: ProcessPool) -> None:
    pid = pool.pids[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not pool.stats()[0].alive)
        assert pool.status().state == "degraded"
        for number in range(6):
            assert pool.segment(Work(source(tail=bytes([number])), ONE, LAST_RESORT_SECONDS)).mask.any()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_click_in_a_silence_is_answered_when_the_worker_goes_on_and_no_step_is_older_for_it(tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    gates.close("encode")
    settings = load_settings(device="cpu", threads=1, cache_dir=tmp_path)
    with (
        closing(ProcessPool(settings, load=gated_backbone.loader(tmp_path))) as pool,
        ThreadPoolExecutor() as threads,
    ):
        clicks = [threads.submit(pool.segment, Work(source(), ONE, LAST_RESORT_SECONDS))]
        until(lambda: gates.reached("encode"))
        os.kill(pool.pids[0], signal.SIGSTOP)
        stopped_at = time.monotonic()
        until(lambda: not pool.stats()[0].alive)
        clicks.append(threads.submit(pool.segment, Work(source(tail=b"2"), ONE, LAST_RESORT_SECONDS)))
        until(lambda: pool.stats()[0].figures.waiting == 2)
        stopped = time.monotonic() - stopped_at
        os.kill(pool.pids[0], signal.SIGCONT)

        until(lambda: pool.stats()[0].alive)
        assert 0 < pool.stats()[0].figures.age < stopped
        gates.open("encode")
        assert all(click.result(300).mask.any() for click in clicks)
        assert pool.stats()[0].restarts == 0


def test_a_worker_tells_that_it_lives_while_it_loads(tmp_path: Path) -> None:
    gates = Gates(tmp_path)
    gates.close("load")
    settings = load_settings(device="cpu", threads=1, cache_dir=tmp_path)
    child = ProcessChild(WorkerOptions.of(settings, "cpu", load=gated_backbone.loader(tmp_path)))
    try:
        assert [type(child.receive(120)) for _ in range(3)] == [Loading] * 3
    finally:
        child.kill()
        child.stop()


def load_and_leave_a_process(settings: Settings, device: str, *, folder: Path) -> object:
    """Another process has a copy of everything this one has, its end of the pipe among it."""
    if (pid := os.fork()) == 0:
        while not (folder / "over").exists():
            time.sleep(0.05)
        os._exit(0)
    (folder / "left").write_text(str(pid))
    return gated_backbone.load_gated(settings, device, folder=folder)


def test_nobody_waits_for_a_frozen_process_that_was_ended_even_if_another_holds_the_pipe(tmp_path: Path) -> None:
    Gates(tmp_path).close("load")
    settings = load_settings(device="cpu", threads=1, cache_dir=tmp_path)
    options = WorkerOptions.of(settings, "cpu", load=partial(load_and_leave_a_process, folder=tmp_path))
    child = ProcessChild(options)
    ends: list[type] = []

    def until_it_ends(speak: bool) -> None:
        try:
            while True:
                child.send(bytes(2**20)) if speak else child.receive(0.1)
        except (OSError, Died) as error:
            ends.append(type(error))

    threads = [threading.Thread(target=until_it_ends, args=(speak,), daemon=True) for speak in (True, False)]
    try:
        until(lambda: Gates(tmp_path).reached("load"))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        for thread in threads:
            thread.start()
        child.kill()
        child.stop()
        for thread in threads:
            thread.join(30)
        assert len(ends) == 2
    finally:
        (tmp_path / "over").touch()


def test_a_program_that_forgets_to_close_its_pool_ends_all_the_same(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from m2n2_backend.settings import load_settings\n"
        "from m2n2_backend.worker.local.pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(load_settings(backbone='color', device='cpu', grid=8))\n"
        "    while pool.status().state != 'ready': time.sleep(0.05)\n"
        "    print(*pool.pids)\n"
    )

    done = subprocess.run(**program(tmp_path, code), capture_output=True, text=True, timeout=LAST_RESORT_SECONDS)

    assert done.returncode == 0, done.stderr
    until(lambda: not is_running(int(done.stdout)))


@pytest.mark.parametrize("color", [CRASH, BROKEN], ids=["ends the process", "breaks the device"])
def test_an_image_that_brings_its_worker_down_does_so_twice(color: tuple[int, int, int], pool: ProcessPool) -> None:
    before = sum(worker.restarts for worker in pool.stats())

    for _ in range(3):
        with pytest.raises(ImageRefused, match="2 times"):
            pool.segment(Work(source(color), ONE, LAST_RESORT_SECONDS))

    until(lambda: pool.status().state == "ready")
    assert sum(worker.restarts for worker in pool.stats()) == before + 2
    assert pool.segment(Work(source(), ONE, LAST_RESORT_SECONDS)).mask.any()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with its parent")
def test_workers_die_with_the_web_process_even_if_they_are_stopped(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from m2n2_backend.settings import load_settings\n"
        "from m2n2_backend.worker.local.pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(load_settings(backbone='color', device='cpu', grid=8, workers=2))\n"
        "    while len(pool.pids) < 2: time.sleep(0.02)\n"
        "    print(*pool.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    web = subprocess.Popen(**program(tmp_path, code), stdout=subprocess.PIPE, text=True)
    assert web.stdout is not None
    with web.stdout:
        pids = [int(pid) for pid in web.stdout.readline().split()]
        # What watches over them is set before anything is loaded; a thread of PyTorch's shows that that is over.
        until(lambda: all("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids))
        os.kill(pids[0], signal.SIGSTOP)
        web.kill()
        web.wait()

    until(lambda: not any(is_running(pid) for pid in pids))
