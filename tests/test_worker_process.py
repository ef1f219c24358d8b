"""Real worker processes on a model that fails on command: killed, stopped, crashed, and left alone in the world."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_backbone import BROKEN, CRASH, PLAIN, loader, picture
from waiting import soon, until

from m2n2_backend.errors import ImageRefused
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.pool import SourceImage
from m2n2_backend.worker.process_pool import ProcessPool

ONE = Prompts((Click(30, 22),))


def source(color: tuple[int, int, int] = (*PLAIN, 0), tail: bytes = b"") -> SourceImage:
    data = picture(color, tail=tail)
    return SourceImage(hashlib.sha256(data).hexdigest(), data)


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
    assert pool.segment(source(), ONE, deadline=soon()).mask[22, 30]

    found = [(folder / f"threads-{pid}").read_text() for pid in pool.pids]
    assert found == ["1 1", "1 1"]


def test_while_a_killed_worker_is_replaced_the_other_answers_for_it(pool: ProcessPool) -> None:
    pids, images = pool.pids, [source(tail=bytes([number])) for number in range(6)]
    masks = [pool.segment(image, ONE, deadline=soon()).mask for image in images]
    os.kill(pids[0], signal.SIGKILL)

    again = [pool.segment(SourceImage(image.key, image.data), ONE, deadline=soon()).mask for image in images]

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
            assert pool.segment(source(tail=bytes([number])), ONE, deadline=soon()).mask.any()
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("color", [CRASH, BROKEN], ids=["ends the process", "breaks the device"])
def test_an_image_that_brings_its_worker_down_does_so_twice(color: tuple[int, int, int], pool: ProcessPool) -> None:
    before = sum(worker.restarts for worker in pool.stats())

    for _ in range(3):
        with pytest.raises(ImageRefused, match="2 times"):
            pool.segment(source(color), ONE, deadline=soon())

    until(lambda: pool.status().state == "ready")
    assert sum(worker.restarts for worker in pool.stats()) == before + 2
    assert pool.segment(source(), ONE, deadline=soon()).mask.any()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with its parent")
def test_workers_die_with_the_web_process_even_if_they_are_stopped(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from m2n2_backend.settings import load_settings\n"
        "from m2n2_backend.worker.process_pool import ProcessPool\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPool(load_settings(backbone='color', device='cpu', grid=8, workers=2))\n"
        "    while len(pool.pids) < 2: time.sleep(0.02)\n"
        "    print(*pool.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    script = tmp_path / "web.py"
    script.write_text(code)
    environment = {**os.environ, "M2N2_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    web = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert web.stdout is not None
    with web.stdout:
        pids = [int(pid) for pid in web.stdout.readline().split()]
        # What watches over them is set before anything is loaded; a thread of PyTorch's shows that that is over.
        until(lambda: all("torch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids))
        os.kill(pids[0], signal.SIGSTOP)
        web.kill()
        web.wait()

    until(lambda: all(is_gone(pid) for pid in pids))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for stays a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
