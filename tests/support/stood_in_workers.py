"""A pool whose processes, clock and pauses are stood in for; test_worker_process.py has the real ones."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from waiting import until

from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.rasters import PackedMask
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import Answer, SourceImage, Work
from m2n2_backend.worker.local.handle import Died
from m2n2_backend.worker.local.life import Owner
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.local.supervisor import Supervisor
from m2n2_backend.worker.messages import Done, InWork, Ready, Reply
from m2n2_backend.worker.options import WorkerOptions

ONE = Prompts((Click(1, 1),))


MASK = np.eye(4, dtype=bool)


HALF = "the rest of this message never comes"


class FakeChild:
    """A process that says what the test says, and does nothing by itself."""

    pid = 1

    def __init__(self) -> None:
        self.sent: list[tuple[int, Work]] = []
        self.said = queue.SimpleQueue[object]()
        self.reads, self.killed = threading.Event(), threading.Event()
        self.reads.set()
        self.was_told_to_end = False

    def send(self, message: Any) -> None:
        assert self.reads.wait(120)
        if message is None:
            self.was_told_to_end = True
        else:
            self.sent.append(message)

    def receive(self, timeout: float) -> object | None:
        try:
            message = self.said.get(timeout=0.01)
        except queue.Empty:
            return None
        if message is HALF:
            assert self.killed.wait(120)
            raise Died("was killed")
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self) -> None:
        self.killed.set()
        self.reads.set()

    def stop(self) -> None:
        pass

    def get_ready(self, fingerprint: str = "model-1") -> None:
        self.said.put(Ready(fingerprint, "a model", "a device", Figures(hang_seconds=30.0)))

    def die(self, *in_work: str, clicked: Sequence[tuple[str, Prompts]] = ()) -> None:
        self.said.put(InWork(frozenset(in_work), frozenset(clicked)))
        self.said.put(Died("was killed"))

    def answer(self, index: int = -1) -> None:
        number, work = self.sent[index]
        mask = None if work.prompts is None else PackedMask.of(MASK)
        self.said.put((number, Reply(Done(mask, 0.5, {}))))

    @property
    def keys(self) -> list[str]:
        return [work.image.key for _, work in self.sent]


class Rig:
    """A pool of stood-in processes, two by default."""

    def __init__(
        self,
        devices: int = 2,
        *,
        at_start: Callable[[FakeChild], None] = FakeChild.get_ready,
        clock: Callable[[Callable[[], float]], Callable[[], float]] = lambda clock: clock,
    ) -> None:
        self.now = 1000.0
        self.awake = clock(lambda: self.now)
        self.lives: dict[str, list[FakeChild]] = defaultdict(list)
        self.pauses: dict[str, list[float]] = defaultdict(list)
        self.no_descriptors = False
        self.at_start = at_start
        self.go_on = threading.Semaphore(10**6)
        self.over = False
        self.askers = ThreadPoolExecutor(32)
        self.settings = load_settings(device="cuda")
        names = [f"cuda:{index}" for index in range(devices)]
        self.pool = ProcessPool(
            self.settings, find=lambda _: names, supervise=self._supervise, clock=lambda: self.now
        )
        until(lambda: len(self.pool._dispatcher.workers) == len(names))

    def _supervise(self, options: WorkerOptions, owner: Owner) -> Supervisor:
        device = options.device

        def start(_: WorkerOptions) -> FakeChild:
            if self.no_descriptors:
                raise OSError(24, "Too many open files")
            child = FakeChild()
            self.lives[device].append(child)
            self.at_start(child)
            return child

        def pause(seconds: float) -> bool:
            self.pauses[device].append(seconds)
            assert self.go_on.acquire(timeout=120)
            return self.over

        return Supervisor(options, owner, start=start, clock=lambda: self.now, awake=self.awake, pause=pause)

    def close(self) -> None:
        self.over = True
        self.go_on.release(100)
        for life in (child for lives in self.lives.values() for child in lives):
            life.reads.set()
        self.pool.close()
        self.askers.shutdown(cancel_futures=True)

    def ready(self) -> Rig:
        until(lambda: self.pool.status().state == "ready")
        return self

    def child(self, device: int) -> FakeChild:
        return self.lives[f"cuda:{device}"][-1]

    def ask(self, name: str, *, seconds: float = 90.0, prompts: Prompts = ONE) -> Future[Answer]:
        """A click, handed to a worker where there is one."""
        return self.askers.submit(self.pool.segment, Work(SourceImage(name, b"file"), prompts, seconds))

    def begun(self, name: str, **fields: Any) -> Future[Answer]:
        """A click that has reached the first worker."""
        asked = self.ask(name, **fields)
        until(lambda: self.child(0).keys == [name])
        return asked

    def answered(self, asked: Future[Answer], device: int = 0) -> Answer:
        """The answer to a click, once its worker has answered the last it was given."""
        self.child(device).answer()
        return asked.result(120)

    def name_for(self, device: int, *, count: int = 1) -> Any:
        """Names of images whose place is on a device; one, or a list."""
        worker = self.pool._dispatcher.workers[device]
        found = [str(n) for n in range(1000) if self.pool._dispatcher.worker_for(str(n)) is worker][:count]
        return found[0] if count == 1 else found

    def alive(self, device: int) -> bool:
        return self.pool.stats()[device].alive


Make = Callable[..., Rig]


def nothing(child: FakeChild) -> None:
    pass
