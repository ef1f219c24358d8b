"""Workers that die, hang, fall silent or never come: what becomes of them and of what they were asked, to the second.

Processes, clock and pauses are stood in for here; test_worker_process.py has the real ones.
"""

from __future__ import annotations

import math
import pickle
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from waiting import until

from m2n2_backend.errors import BackboneUnavailable, DeadlinePassed, ImageRefused, NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.rasters import PackedMask
from m2n2_backend.server.metrics import Metrics
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import Answer, SourceImage, Work
from m2n2_backend.worker.local.handle import Died
from m2n2_backend.worker.local.life import DEAD_SECONDS, LOADING_DEAD_SECONDS, USEFUL_SECONDS, Owner
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.local.silence import SILENT_SECONDS
from m2n2_backend.worker.local.supervisor import BACK_OFF, RELOAD_SECONDS, Supervisor
from m2n2_backend.worker.messages import Done, InWork, LoadFailed, Loading, Ready, Reply
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.quarantine import REFUSED_SECONDS
from m2n2_backend.worker.replica.queue import PREFETCH_BYTES, PREFETCHES

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

    def name_for(self, device: int, *, count: int = 1) -> Any:
        """Names of images whose place is on a device; one, or a list."""
        worker = self.pool._dispatcher.workers[device]
        found = [str(n) for n in range(1000) if self.pool._dispatcher.worker_for(str(n)) is worker][:count]
        return found[0] if count == 1 else found

    def alive(self, device: int) -> bool:
        return self.pool.stats()[device].alive


Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(*arguments: Any, **options: Any) -> Rig:
        rigs.append(Rig(*arguments, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def nothing(child: FakeChild) -> None:
    pass


def test_all_workers_start_at_once_and_the_first_that_is_ready_answers(make: Make) -> None:
    rig = make(at_start=nothing)
    until(lambda: len(rig.lives) == 2)
    assert rig.pool.status().state == "loading"
    asked = rig.ask("a")

    rig.child(1).get_ready()

    until(lambda: rig.child(1).keys == ["a"])
    assert rig.pool.status().state == "degraded"
    rig.child(1).answer()
    assert np.array_equal(asked.result(120).mask, MASK)


def test_what_a_dead_worker_leaves_undone_goes_to_a_living_one(make: Make) -> None:
    rig = make().ready()
    names = rig.name_for(0, count=3)
    asked = [rig.ask(name) for name in names]
    until(lambda: sorted(rig.child(0).keys) == sorted(names))
    rig.at_start = nothing
    rig.child(0).die(names[0])

    until(lambda: sorted(rig.child(1).keys) == sorted(names))
    for index in range(3):
        rig.child(1).answer(index)
    assert all(each.result(120).score == 0.5 for each in asked)


def test_without_another_worker_it_waits_for_the_next_start(make: Make) -> None:
    rig = make(1).ready()
    asked = rig.ask("a")
    until(lambda: rig.child(0).keys == ["a"])
    rig.at_start = nothing
    rig.child(0).die()
    until(lambda: len(rig.lives["cuda:0"]) == 2)

    status = rig.pool.status()
    assert (status.state, rig.alive(0)) == ("loading", False)
    assert "was killed; starting it again" in status.detail
    assert b"m2n2_model_ready 0.0" in Metrics(rig.pool).render()
    rig.child(0).get_ready()
    until(lambda: rig.child(0).keys == ["a"])
    rig.child(0).answer()
    assert asked.result(120).mask.any()
    assert b"m2n2_model_ready 1.0" in Metrics(rig.pool).render()


def test_a_worker_that_cannot_be_started_is_tried_again_and_again_with_longer_pauses(make: Make) -> None:
    rig = make(1).ready()
    rig.no_descriptors = True
    rig.go_on = threading.Semaphore(0)
    rig.child(0).die()
    for _ in range(9):
        rig.go_on.release()
    until(lambda: len(rig.pauses["cuda:0"]) == 11)

    assert rig.pauses["cuda:0"][1:] == [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert rig.pauses["cuda:0"][1:8] == [*BACK_OFF[1:], BACK_OFF[-1]]
    status = rig.pool.status()
    assert status.state == "failed"
    assert "Too many open files" in status.detail
    with pytest.raises(BackboneUnavailable, match="Too many open files"):
        rig.ask("a").result(120)

    rig.no_descriptors = False
    rig.go_on.release()
    rig.ready()


def test_a_worker_that_answered_is_replaced_without_a_pause(make: Make) -> None:
    rig = make(1).ready()
    asked = rig.ask("a")
    until(lambda: rig.child(0).sent)
    rig.child(0).answer()
    asked.result(120)
    rig.child(0).die()
    until(lambda: len(rig.lives["cuda:0"]) == 2)

    assert rig.pauses["cuda:0"] == [0, 0]
    assert rig.pool.stats()[0].restarts == 1


def test_a_model_that_cannot_be_loaded_is_told_at_once_and_tried_again_a_minute_later(make: Make) -> None:
    def refuse(child: FakeChild) -> None:
        child.said.put(LoadFailed("no weights: run m2n2-backend fetch-weights"))

    rig = make(1, at_start=refuse)
    until(lambda: rig.pool.status().state == "failed")
    with pytest.raises(BackboneUnavailable, match="fetch-weights"):
        rig.ask("a").result(120)
    rig.at_start = FakeChild.get_ready

    rig.ready()
    assert set(rig.pauses["cuda:0"][1:]) == {RELOAD_SECONDS}


def test_a_step_that_takes_too_long_ends_its_worker_and_the_work_goes_on_elsewhere(make: Make) -> None:
    rig = make().ready()
    name = rig.name_for(0)
    asked = rig.ask(name)
    hanging = rig.child(0)
    until(lambda: hanging.keys == [name])
    hanging.said.put(Figures(age=29.0, hang_seconds=30.0))
    until(lambda: rig.pool.stats()[0].figures.age >= 29)
    assert not hanging.killed.is_set()
    hanging.said.put(Figures(age=31.0, hang_seconds=30.0))

    assert hanging.killed.wait(120)
    until(lambda: rig.child(1).keys == [name])
    rig.child(1).answer()
    asked.result(120)


def test_a_silent_worker_is_not_ready_and_another_does_its_work(make: Make) -> None:
    rig = make().ready()
    name = rig.name_for(0)
    asked = rig.ask(name)
    until(lambda: rig.child(0).keys == [name])
    rig.child(1).said.put(Figures())
    rig.now += SILENT_SECONDS + 1
    rig.child(1).said.put(Figures())

    until(lambda: rig.child(1).keys == [name])
    assert (rig.alive(0), rig.alive(1)) == (False, True)
    assert rig.pool.status().state == "degraded"
    assert "does not answer" in rig.pool.status().detail
    rig.child(1).answer()
    assert asked.result(120).mask.any()
    assert not rig.child(0).killed.is_set()


def test_the_only_worker_fallen_silent_is_not_ready_and_in_the_end_replaced(make: Make) -> None:
    rig = make(1).ready()
    silent = rig.child(0)
    rig.now += SILENT_SECONDS + 1
    assert rig.pool.status().state == "loading"
    assert not silent.killed.is_set()
    rig.now += DEAD_SECONDS

    assert silent.killed.wait(120)
    rig.ready()
    assert rig.child(0) is not silent


def test_what_came_while_all_were_silent_is_handed_to_the_first_that_speaks_again(make: Make) -> None:
    rig = make().ready()
    first, second = rig.name_for(0), rig.name_for(1)
    rig.now += SILENT_SECONDS + 0.1
    asked = [rig.ask(first), rig.ask(second)]
    until(lambda: sum(worker.figures.waiting for worker in rig.pool.stats()) == 2)
    assert [worker.figures.waiting for worker in rig.pool.stats()] == [1, 1]
    assert "clicks that wait: 2" in rig.pool.status().detail
    assert 'm2n2_worker_waiting{worker="0"} 1.0' in Metrics(rig.pool).render().decode()

    rig.child(1).said.put(Figures())

    until(lambda: sorted(rig.child(1).keys) == sorted([first, second]))
    for index in range(2):
        rig.child(1).answer(index)
    assert all(each.result(120).mask.any() for each in asked)
    assert not rig.child(0).sent
    assert [worker.figures.waiting for worker in rig.pool.stats()] == [0, 0]


def test_a_silence_that_nobody_looked_into_hands_on_what_came_meanwhile_too(make: Make) -> None:
    """The click itself is what finds the worker silent; messages lie in the pipe already."""
    for _ in range(20):
        rig = make(1).ready()
        rig.now += SILENT_SECONDS + 0.1
        asked = rig.ask("a")
        rig.child(0).said.put(Figures())
        until(lambda rig=rig: rig.child(0).keys == ["a"])  # type: ignore[misc]
        rig.child(0).answer()
        assert asked.result(120).mask.any()


def test_one_falls_silent_and_then_the_other_and_the_click_is_answered_once(make: Make) -> None:
    rig = make().ready()
    name = rig.name_for(0)
    asked = rig.ask(name)
    until(lambda: rig.child(0).keys == [name])
    for _ in range(6):  # the first alone says nothing
        rig.now += 1
        rig.child(1).said.put(Figures())
    until(lambda: rig.child(1).keys == [name])
    rig.now += SILENT_SECONDS + 0.1
    until(lambda: not (rig.alive(0) or rig.alive(1)))

    rig.child(0).said.put(Figures())
    rig.child(0).answer()
    assert asked.result(120).mask.any()
    rig.child(1).answer()

    rig.ready()
    assert [worker.figures.waiting for worker in rig.pool.stats()] == [0, 0]


def test_a_deadline_in_a_silence_says_what_is_silent(make: Make) -> None:
    rig = make(1).ready()
    rig.now += SILENT_SECONDS + 1
    with pytest.raises(DeadlinePassed, match="does not answer: silent for 6 s"):
        rig.ask("late", seconds=0.0).result(120)
    rig.child(0).said.put(Figures())
    rig.ready()
    assert not rig.child(0).sent, "nobody waits for it"
    assert rig.pool.stats()[0].figures.waiting == 0


def test_a_prefetch_in_a_silence_is_refused_and_taken_afterwards(make: Make) -> None:
    rig = make(1).ready()
    rig.now += SILENT_SECONDS + 1
    assert not rig.pool.prefetch(SourceImage("a", b"file"))
    rig.child(0).said.put(Figures())
    rig.ready()
    assert rig.pool.prefetch(SourceImage("a", b"file"))


def test_nobody_is_blamed_for_what_this_process_slept_through(make: Make) -> None:
    rig = make(clock=AwakeClock).ready()
    rig.now += 2 * DEAD_SECONDS
    assert rig.pool.status().state == "ready"
    asked = rig.ask("a")
    until(lambda: rig.child(0).sent or rig.child(1).sent)

    for _ in range(int(DEAD_SECONDS) + 1):  # awake, and still nothing is heard
        rig.now += 1
        rig.pool.stats()

    assert all(lives[0].killed.wait(120) for lives in rig.lives.values())
    second_lives = lambda: [lives[1] for lives in rig.lives.values() if len(lives) == 2]  # noqa: E731
    until(lambda: any(life.sent for life in second_lives()))
    for life in second_lives():
        if life.sent:
            life.answer()
    assert asked.result(120).mask.any()


def test_a_worker_that_freezes_in_the_middle_of_a_reply_is_silent_and_in_the_end_replaced(make: Make) -> None:
    others = set(threading.enumerate())
    rig = make(1).ready()
    asked = rig.ask("a")
    frozen = rig.child(0)
    until(lambda: frozen.keys == ["a"])
    frozen.reads.clear()  # nor does it read any more
    later = rig.ask("b")
    frozen.said.put(HALF)
    until(frozen.said.empty)
    rig.now += SILENT_SECONDS + 1
    assert "silent for 6 s" in rig.pool.status().detail
    rig.now += DEAD_SECONDS

    until(lambda: len(rig.lives["cuda:0"]) == 2 and sorted(rig.child(0).keys) == ["a", "b"])
    rig.child(0).answer(0)
    rig.child(0).answer(1)
    assert asked.result(120).mask.any()
    assert later.result(120).mask.any()
    both = ["worker-reader", "worker-sender"]
    until(lambda: sorted(each.name for each in set(threading.enumerate()) - others if each.name in both) == both)


def test_a_click_that_nobody_waits_for_any_more_is_not_counted_as_waiting(make: Make) -> None:
    rig = make(1).ready()
    with pytest.raises(DeadlinePassed):
        rig.ask("late", seconds=0.0).result(120)
    assert rig.pool.stats()[0].figures.waiting == 0
    until(lambda: not rig.pool._dispatcher.workers[0].outstanding())


def test_a_model_that_loads_tells_for_how_long_and_a_worker_frozen_over_it_is_replaced(make: Make) -> None:
    rig = make(1, at_start=nothing)
    until(lambda: rig.lives["cuda:0"])
    frozen = rig.child(0)
    for _ in range(4):  # as long as it takes, while it says so
        rig.now += LOADING_DEAD_SECONDS - 1
        frozen.said.put(Loading())
        until(frozen.said.empty)
    status = rig.pool.status()
    assert (status.state, rig.alive(0)) == ("loading", False)
    assert "loading for 1196 s" in status.detail
    assert not frozen.killed.is_set()

    rig.now += 60
    assert "silent for 60 s" in rig.pool.status().detail
    rig.now += LOADING_DEAD_SECONDS
    assert frozen.killed.wait(120)
    until(lambda: len(rig.lives["cuda:0"]) == 2)
    assert "starting it again" in rig.pool.status().detail
    rig.child(0).get_ready()
    rig.ready()
    assert rig.pool.status().detail == ""


def test_a_worker_that_came_up_after_vain_starts_may_fall_silent_without_being_given_up(make: Make) -> None:
    rig = make(1).ready()
    rig.no_descriptors = True
    rig.child(0).die()
    until(lambda: rig.pool.status().state == "failed")
    rig.no_descriptors = False
    rig.ready()
    rig.now += SILENT_SECONDS + 1
    assert rig.pool.status().state == "loading"
    asked = rig.ask("a")
    until(lambda: rig.pool.stats()[0].figures.waiting == 1)

    rig.child(0).said.put(Figures())

    until(lambda: rig.child(0).keys == ["a"])
    rig.child(0).answer()
    assert asked.result(120).mask.any()


def test_a_model_that_was_there_for_a_minute_was_no_vain_start(make: Make) -> None:
    rig = make(1).ready()
    for life in range(1, 5):
        rig.now += USEFUL_SECONDS + 1
        rig.child(0).said.put(Figures())
        until(lambda: rig.pool._dispatcher.workers[0]._life.was_useful)
        rig.child(0).die()
        until(lambda life=life: len(rig.lives["cuda:0"]) == life + 1)  # type: ignore[misc]
        rig.ready()
    assert rig.pauses["cuda:0"] == [0] * 5


def test_an_image_in_work_at_two_deaths_is_refused_for_ten_minutes_with_the_reason(make: Make) -> None:
    rig = make(1).ready()
    asked = rig.ask("poison")
    for life in range(2):
        until(lambda life=life: len(rig.lives["cuda:0"]) == life + 1 and rig.child(0).keys == ["poison"])  # type: ignore[misc]
        rig.child(0).die("poison")
    with pytest.raises(ImageRefused, match="brought the model's process down 2 times"):
        asked.result(120)

    rig.ready()
    with pytest.raises(ImageRefused, match="10 minutes"):
        rig.ask("poison").result(120)
    assert rig.pool.stats()[0].restarts == 2
    rig.now += REFUSED_SECONDS
    rig.child(0).said.put(Figures())
    rig.ready()
    again = rig.ask("poison", seconds=90)
    until(lambda: rig.child(0).keys == ["poison"])
    rig.child(0).answer()
    assert again.result(120).mask.any()


def test_prompts_that_bring_the_process_down_are_refused_and_other_clicks_on_the_image_are_not(make: Make) -> None:
    rig = make(1).ready()

    def brought_down(x: int) -> None:
        prompts = Prompts((Click(x, 3),))
        asked = rig.ask("image", prompts=prompts)
        for _ in range(2):
            life = rig.child(0)
            until(lambda life=life: prompts in [work.prompts for _, work in life.sent])  # type: ignore[misc]
            life.die(clicked=[("image", prompts)])
            until(lambda life=life: rig.child(0) is not life)  # type: ignore[misc]
            rig.ready()
        with pytest.raises(ImageRefused, match="these clicks on this image brought the model's process down 2 times"):
            asked.result(120)

    brought_down(1)
    with pytest.raises(ImageRefused, match="these clicks"):
        rig.ask("image", prompts=Prompts((Click(1, 3),))).result(120)
    other = rig.ask("image", prompts=Prompts((Click(2, 3),)))
    until(lambda: rig.child(0).keys == ["image"])
    rig.child(0).answer()
    assert other.result(120).mask.any(), "to everybody else the image is as good as any"

    brought_down(3)
    brought_down(4)
    with pytest.raises(ImageRefused, match=r"^clicks on this image brought the model's process down 4 times"):
        rig.ask("image", prompts=Prompts((Click(5, 3),))).result(120)


def test_only_what_was_in_work_counts_and_an_answer_clears_it(make: Make) -> None:
    rig = make(1).ready()
    for _ in range(3):
        asked = [rig.ask("worked on"), rig.ask("waiting")]
        life = rig.child(0)
        until(lambda life=life: len(life.sent) == 2)  # type: ignore[misc]
        life.die("worked on", "answered long ago")
        until(lambda life=life: rig.child(0) is not life and len(rig.child(0).sent) == 2)  # type: ignore[misc]
        rig.child(0).answer(0)
        rig.child(0).answer(1)
        assert all(each.result(120).mask.any() for each in asked), "neither is refused"


def test_a_prefetch_in_work_at_a_death_is_never_tried_again(make: Make) -> None:
    rig = make(1).ready()
    assert rig.pool.prefetch(SourceImage("a", b"file"))
    until(lambda: rig.child(0).keys == ["a"])
    rig.child(0).die("a")
    until(lambda: len(rig.lives["cuda:0"]) == 2)
    rig.ready()

    assert not rig.pool.prefetch(SourceImage("a", b"file"))
    asked = rig.ask("a")
    until(lambda: rig.child(0).sent)
    assert [work.prompts for _, work in rig.child(0).sent] == [ONE], "the click alone"
    rig.child(0).die("a")
    with pytest.raises(ImageRefused):
        asked.result(120)


def test_an_image_is_prefetched_once_without_a_deadline_and_clicks_know_it(make: Make) -> None:
    rig = make(1).ready()

    assert all(rig.pool.prefetch(SourceImage("a", b"file")) for _ in range(3))
    assert rig.pool.prefetch(SourceImage("b", b"file"))

    until(lambda: rig.child(0).keys == ["a", "b"])
    assert all(work.seconds == math.inf for _, work in rig.child(0).sent)


def test_prefetches_are_refused_beyond_a_number_and_a_size_and_where_no_worker_is(make: Make) -> None:
    rig = make(1, at_start=nothing)
    assert not rig.pool.prefetch(SourceImage("early", b"file"))
    until(lambda: rig.lives["cuda:0"])
    rig.child(0).get_ready()
    rig.ready()

    assert all(rig.pool.prefetch(SourceImage(str(n), b"file")) for n in range(PREFETCHES))
    assert not rig.pool.prefetch(SourceImage("one more", b"file"))
    until(lambda: len(rig.child(0).sent) == PREFETCHES)
    for index in range(PREFETCHES):
        rig.child(0).answer(index)
    until(lambda: not rig.pool._dispatcher.workers[0].outstanding())
    assert rig.pool.prefetch(SourceImage("large", bytes(PREFETCH_BYTES)))
    assert not rig.pool.prefetch(SourceImage("and more", b"file"))


def test_when_one_of_three_dies_only_its_images_move(make: Make) -> None:
    rig = make(3).ready()
    names = [str(number) for number in range(300)]
    before = {name: rig.pool._dispatcher.worker_for(name) for name in names}
    rig.at_start = nothing
    rig.child(1).die()
    until(lambda: not rig.alive(1))

    moved = {name for name in names if rig.pool._dispatcher.worker_for(name) is not before[name]}
    assert moved == {name for name in names if before[name] is rig.pool._dispatcher.workers[1]}
    assert 60 < len(moved) < 140, "each has its third"


def test_a_worker_with_another_model_gets_no_work(make: Make) -> None:
    rig = make(at_start=nothing)
    until(lambda: len(rig.lives) == 2)
    rig.child(0).get_ready()
    until(lambda: rig.alive(0))
    rig.child(1).get_ready("model-1 at another grid")

    until(lambda: "another grid" in rig.pool.status().detail)
    assert not rig.alive(1)
    assert rig.lives["cuda:1"][0].killed.wait(120)
    assert rig.pool.status().model_version.endswith("model-1")


def test_a_deadline_that_passes_is_counted_once_and_what_nobody_waits_for_is_not_sent(make: Make) -> None:
    rig = make(1).ready()
    child = rig.child(0)
    child.reads.clear()
    blocker = rig.ask("first")
    until(lambda: rig.pool.stats()[0].figures.waiting == 1)
    with pytest.raises(DeadlinePassed):
        rig.ask("late", seconds=0.0).result(120)
    rig.ask("later")
    child.reads.set()

    until(lambda: child.keys == ["first", "later"])
    assert rig.pool.stats()[0].timed_out == 1
    child.answer(0)
    blocker.result(120)


def test_a_worker_gets_the_seconds_that_are_left_and_the_bytes_of_the_image(make: Make) -> None:
    rig = make(1).ready()
    rig.ask("a", seconds=42.0)
    until(lambda: rig.child(0).sent)

    ((_, work),) = rig.child(0).sent
    assert work.seconds == 42.0
    assert work.image.data == b"file"


def test_what_a_worker_is_given_holds_no_secret(make: Make) -> None:
    secrets = {
        "label_studio_url": "http://hidden.test",
        "label_studio_api_key": "hidden-token",
        "basic_auth_user": "hidden-user",
        "basic_auth_password": "hidden-password",
    }
    settings = load_settings(device="cpu", backbone="color", **secrets)

    given = pickle.dumps(WorkerOptions.of(settings, "cpu"))

    assert b"hidden" not in given
    assert pickle.loads(given).settings.backbone == "color"


def test_the_cores_and_a_shared_device_are_divided_between_the_workers() -> None:
    found: list[WorkerOptions] = []

    class Idle(Supervisor):
        def begin(self) -> None:
            pass

        def join(self) -> None:
            pass

    def supervise(options: WorkerOptions, owner: Owner) -> Supervisor:
        found.append(options)
        return Idle(options, owner)

    pool = ProcessPool(
        load_settings(device="cuda", workers=3), find=lambda _: ("cuda:0", "cuda:1"), supervise=supervise
    )
    until(lambda: len(found) == 3)
    pool.close()

    assert [(each.device, each.workers, each.on_device) for each in found] == [
        ("cuda:0", 3, 2),
        ("cuda:1", 3, 1),
        ("cuda:0", 3, 2),
    ]


def test_devices_that_cannot_be_found_are_looked_for_again(make: Make) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def find(name: str) -> tuple[str, ...]:
        asked.append(name)
        assert go_on.wait(120)
        if len(asked) == 1:
            raise OSError(24, "Too many open files")
        return ("cuda:0",)

    rig = make(1)
    pool = ProcessPool(load_settings(device="auto"), find=find, supervise=rig._supervise, clock=lambda: rig.now)
    try:
        rig.now += 40
        assert pool.status().state == "loading"
        assert "looking for devices for 40 s" in pool.status().detail
        go_on.set()
        until(lambda: pool.status().state == "ready")
        assert asked == ["auto", "auto"]
    finally:
        pool.close()


def test_a_closed_pool_answers_everybody_and_lets_its_workers_end(make: Make) -> None:
    rig = make(1).ready()
    asked = rig.ask("a")
    until(lambda: rig.child(0).sent)
    child = rig.child(0)
    rig.close()

    with pytest.raises(NotReady, match="shutting down"):
        asked.result(120)
    with pytest.raises(NotReady, match="shutting down"):
        rig.pool.segment(Work(SourceImage("b", b""), ONE, 90.0))
    until(lambda: child.was_told_to_end)
    assert not child.killed.is_set()
