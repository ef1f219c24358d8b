"""One worker without a process: who goes first, what never waits for what, and what every reply says."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_backbone import BROKEN, MEMORY, PLAIN, FaultyBackbone, picture
from stored_features import SharedBoard
from waiting import Clock, until

from m2n2_backend.errors import BackboneUnavailable, DeadlinePassed, ImageNeeded, InvalidImage, NotReady
from m2n2_backend.m2n2.places import Placed
from m2n2_backend.m2n2.refine.rule import RefinedRule
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage, Subject, Work
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.messages import Done, InWork, Reply
from m2n2_backend.worker.replica.agenda import coldness
from m2n2_backend.worker.replica.disk_writer import WRITES_WAITING
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.photo import Photo, Step
from m2n2_backend.worker.replica.queue import PREFETCHES
from m2n2_backend.worker.replica.rle import brush_rle
from m2n2_backend.worker.replica.steps import HANG_LEAST_SECONDS, Replica
from m2n2_backend.worker.store.features import Claims, FeatureStore
from m2n2_backend.worker.store.files import FolderFiles
from m2n2_backend.worker.store.health import SHARED

ONE = Prompts((Click(30, 22),))
TIMEOUT = 120  # seconds, which nothing here takes


def source(name: int, *, with_data: bool = True, color: tuple[int, int, int] | None = None) -> SourceImage:
    data = picture(color or (*PLAIN, name), tail=bytes([name]))
    return SourceImage(hashlib.sha256(data).hexdigest(), data if with_data else None)


def click(name: int, **fields: Any) -> Work:
    image = fields.pop("image", None) or source(name)
    return Work(image, fields.pop("prompts", ONE), fields.pop("seconds", 60.0), **fields)


def prefetch(name: int) -> Work:
    return Work(source(name), None)


def done(future: Future[Reply]) -> Done:
    result = future.result(TIMEOUT).result
    assert isinstance(result, Done), result
    return result


def error(future: Future[Reply]) -> Exception:
    result = future.result(TIMEOUT).result
    assert isinstance(result, Exception)
    return result


class Rig:
    """A replica on a model that can be held back."""

    def __init__(
        self, folder: Path, *, like_accelerator: bool = False, claims: Claims | None = None, **settings: Any
    ) -> None:
        self.backbone, self.clock = FaultyBackbone(), Clock()
        self.reported: list[InWork] = []
        self.broken = threading.Event()
        self.settings = load_settings(device="cpu", cache_dir=folder, **settings)
        self.engine = Engine(self.backbone, self.settings, claims)
        self.engine.warm_up()
        if like_accelerator:
            self.engine.memory.on_cpu, self.engine.memory.maps_limit = False, 2**30
        self.replica = Replica(
            self.engine,
            capacity=self.settings.queue,
            threads=1,
            report=self.reported.append,
            on_broken=self.broken.set,
            clock=self.clock,
        )

    @property
    def encoded(self) -> list[int]:
        """Names of the images that the model was run on, in their order."""
        return [blue for _, _, blue in self.backbone.calls]

    def held(self, work: Work) -> Future[Reply]:
        """Submit work whose image keeps the model busy until the gate opens."""
        self.backbone.gate.clear()
        future = self.replica.submit(work)
        assert self.backbone.entered.wait(TIMEOUT)
        return future


Make = Callable[..., Rig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(tmp_path, **settings))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.backbone.gate.set()
        rig.replica.close()


def test_a_click_is_answered_with_the_packed_mask_and_its_rle(make: Make) -> None:
    rig = make()

    first = done(rig.replica.submit(click(1, rle=True)))
    again = done(rig.replica.submit(click(1, image=source(1, with_data=False))))

    assert first.unpacked()[22, 30]
    assert first.rle == brush_rle(first.unpacked())
    assert again.rle is None
    assert np.array_equal(again.unpacked(), first.unpacked())
    assert set(first.timings_ms) == {"wait", "load", "encode", "prepare", "segment", "rle"}
    assert set(again.timings_ms) == {"wait", "segment"}


def test_a_warm_click_does_not_wait_for_images_that_are_being_encoded(make: Make) -> None:
    rig = make()
    done(rig.replica.submit(click(1)))
    cold = [rig.held(click(2)), rig.replica.submit(click(3)), rig.replica.submit(prefetch(4))]

    assert done(rig.replica.submit(click(1))).unpacked().any(), "while the model is busy"
    assert not any(future.done() for future in cold)


@pytest.mark.parametrize("step", [Step.LOAD, Step.TABLE])
def test_a_warm_click_and_the_model_wait_for_no_other_images_file_or_table(
    step: Step, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, gate, entered = make(), threading.Event(), threading.Event()
    done(rig.replica.submit(click(1)))
    advance = rig.engine.advance

    def slow(photo: Photo, which: Step) -> None:
        if which is step and photo.image.key == source(2).key:
            entered.set()
            assert gate.wait(TIMEOUT)
        advance(photo, which)

    monkeypatch.setattr(rig.engine, "advance", slow)
    held = rig.replica.submit(click(2))
    assert entered.wait(TIMEOUT)

    assert done(rig.replica.submit(click(1))).mask is not None
    if step is Step.LOAD:
        assert done(rig.replica.submit(click(3))).mask is not None
    else:
        rig.replica.submit(prefetch(3))
        until(lambda: 3 in rig.encoded)
    assert not held.done()
    gate.set()
    done(held)


def held_answer(rig: Rig, name: int, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[str]]:
    """Let a click on one image be held once it is in work; its gate, and the images in the order of their clicks."""
    answer, gate, order = rig.engine.answer, threading.Event(), list[str]()

    def slow(photo: Photo, prompts: Prompts, pause: Callable[[], bool]) -> object:
        order.append(photo.image.key)
        if photo.image.key == source(name).key:
            assert gate.wait(TIMEOUT)
        return answer(photo, prompts, pause)

    monkeypatch.setattr(rig.engine, "answer", slow)
    return gate, order


def test_beside_an_accelerator_a_click_on_a_prepared_image_goes_before_an_earlier_one_that_prepares_its_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(like_accelerator=True)
    done(rig.replica.submit(click(1)))
    rig.replica.submit(prefetch(3)).result(TIMEOUT)
    gate, order = held_answer(rig, 2, monkeypatch)
    waiting = [rig.replica.submit(click(2))]
    until(lambda: order)
    waiting += [rig.replica.submit(click(3)), rig.replica.submit(click(1))]
    gate.set()

    assert all(done(future).mask is not None for future in waiting)
    assert order == [source(name).key for name in (2, 1, 3)]


def test_a_click_on_a_prepared_image_waits_for_nobody_who_prepares_another(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    done(rig.replica.submit(click(1)))
    gate, order = held_answer(rig, 2, monkeypatch)
    first = rig.replica.submit(click(2))
    until(lambda: order)

    assert done(rig.replica.submit(click(1))).mask is not None
    assert not first.done()
    gate.set()
    done(first)


def test_two_clicks_on_one_image_are_answered_one_after_the_other(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make()
    done(rig.replica.submit(click(1)))
    done(rig.replica.submit(click(2)))  # either thread may take clicks on prepared images
    gate, order = held_answer(rig, 1, monkeypatch)
    futures = [rig.replica.submit(click(1, prompts=Prompts((Click(x, 20),)))) for x in (20, 30)]
    until(lambda: order)
    done(rig.replica.submit(click(2)))

    assert order == [source(1).key, source(2).key], "the second click did not begin while the first was in work"
    gate.set()
    for future in futures:
        done(future)


MANY = tuple(Click(5 + 4 * number, 22, positive=number % 3 != 1) for number in range(12))


def stepwise(rig: Rig, monkeypatch: pytest.MonkeyPatch, then: Callable[[int], object]) -> list[int]:
    """Let each prompt take a second; the steps so far as numbers of prompts, which ``then`` is told the count of."""
    taken, step = list[int](), RefinedRule._step

    def slow(rule: RefinedRule, state: ImageState, prompts: Sequence[Placed], *arguments: Any) -> object:
        rig.clock.now += 1.0
        taken.append(len(prompts))
        then(len(taken))
        return step(rule, state, prompts, *arguments)

    monkeypatch.setattr(RefinedRule, "_step", slow)
    return taken


@pytest.mark.parametrize("like_accelerator", [True, False])
def test_a_click_does_not_wait_for_a_request_of_many_prompts_on_another_image(
    make: Make, monkeypatch: pytest.MonkeyPatch, like_accelerator: bool
) -> None:
    rig = make(like_accelerator=like_accelerator)
    done(rig.replica.submit(click(1)))
    alone = done(rig.replica.submit(click(1, prompts=Prompts(MANY))))
    rig = make(like_accelerator=like_accelerator)
    for name in (1, 2, 3):
        done(rig.replica.submit(click(name)))
    other = Prompts((Click(31, 20),))
    futures, done_at = list[Future[Reply]](), dict[int, int]()

    def submit_others(steps: int) -> None:
        if steps == 3:
            futures.extend(rig.replica.submit(click(name, prompts=other)) for name in (2, 3))
            for name, future in enumerate(futures):
                future.add_done_callback(lambda _, name=name: done_at.setdefault(name, len(taken)))

    taken = stepwise(rig, monkeypatch, submit_others)
    long = rig.replica.submit(click(1, prompts=Prompts(MANY), seconds=1e9))

    assert np.array_equal(done(long).unpacked(), alone.unpacked())
    assert len(taken) == len(MANY) + 2, "no prompt was answered twice"
    assert max(done_at.values()) < len(MANY), "both were answered before the last prompts"


@pytest.mark.parametrize("end", ["deadline", "newer"])
def test_the_prompts_of_a_request_that_nobody_waits_for_any_more_are_not_answered_to_their_end(
    make: Make, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    rig = make()
    done(rig.replica.submit(click(1)))
    ids = frozenset(str(number) for number in range(len(MANY)))
    about = [Subject("1", "1", "Cat", prompts) for prompts in (ids, ids | {"new"})]
    newer = click(1, prompts=Prompts(MANY[:1]), subject=about[1])
    replies = list[Future[Reply]]()

    def interrupt(steps: int) -> None:
        if steps == 3 and end == "newer":
            replies.append(rig.replica.submit(newer))
        elif steps == 3:
            rig.clock.now += 100.0

    taken = stepwise(rig, monkeypatch, interrupt)
    replies.append(rig.replica.submit(click(1, prompts=Prompts(MANY), subject=about[0], seconds=60.0)))

    if end == "deadline":
        assert isinstance(error(replies[0]), DeadlinePassed)
    else:
        until(lambda: len(replies) == 2)
        assert np.array_equal(done(replies[0]).unpacked(), done(replies[1]).unpacked())
        assert rig.replica.figures().superseded == 1
    assert len(taken) <= 4


def test_cold_clicks_go_before_prefetches_that_came_earlier(make: Make) -> None:
    rig = make()
    begun = rig.held(prefetch(1))
    futures = [rig.replica.submit(work) for work in (prefetch(2), prefetch(3), click(4), click(5))]
    rig.backbone.gate.set()
    for future in (begun, *futures):
        done(future)

    assert (rig.encoded[0], set(rig.encoded[1:3]), rig.encoded[3:]) == (1, {4, 5}, [2, 3])


def test_beside_an_accelerator_warm_clicks_go_first_as_soon_as_the_model_is_free(make: Make) -> None:
    rig = make(like_accelerator=True)
    done(rig.replica.submit(click(1)))
    begun = rig.held(click(2))
    cold = rig.replica.submit(click(3))
    warm = rig.replica.submit(click(1))
    cold_at_that_time: list[bool] = []
    warm.add_done_callback(lambda _: cold_at_that_time.append(3 in rig.encoded))
    assert not warm.done()
    rig.backbone.gate.set()

    for future in (begun, cold, warm):
        done(future)
    assert cold_at_that_time == [False]


def test_a_prefetch_that_is_passed_between_its_steps_is_not_done_twice(make: Make) -> None:
    rig = make()
    blocker = rig.held(click(1))
    early = rig.replica.submit(prefetch(2))
    rig.replica.submit(click(3))
    joined = rig.replica.submit(click(2, image=source(2, with_data=False)))
    rig.backbone.gate.set()

    assert done(joined).unpacked().any(), "it had no file itself, the prefetch brought it"
    assert done(early).mask is None
    done(blocker)
    assert sorted(rig.encoded) == [1, 2, 3]


def test_a_superseding_click_inherits_the_image_that_only_the_older_one_brought(make: Make) -> None:
    rig = make()
    blocker = rig.held(click(1))
    subjects = [Subject("1", "7", "Cat", frozenset("abc"[:count])) for count in (1, 2, 3)]
    older = rig.replica.submit(click(2, subject=subjects[0], rle=True))
    newer = [
        rig.replica.submit(click(2, image=source(2, with_data=False), subject=subject)) for subject in subjects[1:]
    ]
    rig.backbone.gate.set()

    answers = [done(future) for future in (older, *newer)]
    assert all(answer is answers[0] for answer in answers)
    assert answers[0].rle is not None, "the oldest asked for it"
    assert rig.replica.figures().superseded == 2
    done(blocker)


def test_an_image_that_nobody_sent_is_asked_for_and_a_broken_one_refused(make: Make) -> None:
    rig = make()

    assert isinstance(error(rig.replica.submit(click(1, image=source(1, with_data=False)))), ImageNeeded)
    assert isinstance(error(rig.replica.submit(click(1, image=SourceImage("x", b"no image")))), InvalidImage)
    assert done(rig.replica.submit(click(1))).mask is not None


def test_one_more_click_than_may_wait_is_refused_at_once_and_counted(make: Make) -> None:
    rig = make(queue=3)
    blocker = rig.held(click(1))
    waiting = [rig.replica.submit(click(number)) for number in (2,)]

    refused = rig.replica.submit(click(9))

    assert refused.done()
    assert isinstance(error(refused), NotReady)
    assert refused.result().figures.refused == 1
    rig.backbone.gate.set()
    for future in (blocker, *waiting):
        done(future)


def test_cold_clicks_leave_places_for_clicks_on_a_prepared_image(make: Make) -> None:
    rig = make(queue=4)
    done(rig.replica.submit(click(200)))
    blocker = rig.held(click(1))
    cold = [rig.replica.submit(click(number)) for number in range(2, 12)]
    refused = [future for future in cold if future.done()]

    assert len(refused) == 8
    assert all("busy" in str(error(future)) for future in refused)
    assert done(rig.replica.submit(click(200))).mask is not None, "beside the model, which is held"
    rig.backbone.gate.set()
    for future in (blocker, *(one for one in cold if one not in refused)):
        done(future)


def test_an_image_that_is_evicted_while_its_click_waits_is_not_as_cold_as_one_that_must_be_decoded(
    make: Make,
) -> None:
    rig = make()
    done(rig.replica.submit(click(1)))
    waiting = Photo(source(1))
    assert rig.engine.step(waiting) is Step.PREPARED
    rig.engine.memory.states.clear()

    assert rig.engine.step(waiting) is Step.READY


def test_an_image_that_was_evicted_does_not_wait_for_all_those_that_came_cold_and_were_encoded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(queue=40)
    done(rig.replica.submit(click(200)))
    advance, order, go_on = rig.engine.advance, list[str](), threading.Event()

    def slow(photo: Photo, step: Step) -> None:
        if step is Step.TABLE:
            order.append(photo.image.key)
            assert go_on.wait(TIMEOUT)
        advance(photo, step)

    monkeypatch.setattr(rig.engine, "advance", slow)
    cold = [rig.replica.submit(click(number)) for number in range(1, 9)]
    until(lambda: len(rig.encoded) == 9)
    rig.engine.memory.states.clear()
    rig.engine.memory.tables.clear()
    warm = rig.replica.submit(click(200))
    go_on.set()
    for future in (warm, *cold):
        done(future)

    assert order.index(source(200).key) == 1, "after the one in work"


def of_project(project: str, name: int, **fields: Any) -> Work:
    return click(name, subject=Subject(project, str(name), "Cat", frozenset({str(name)})), **fields)


def test_a_cold_click_of_another_project_does_not_wait_for_all_those_of_one(make: Make) -> None:
    rig = make(queue=40)
    futures = [rig.held(of_project("A", 1))]
    futures += [rig.replica.submit(of_project("A", number)) for number in range(2, 12)]
    futures += [rig.replica.submit(of_project("B", number)) for number in (201, 202)]
    rig.backbone.gate.set()
    for future in futures:
        done(future)

    # Two images of A were decoded already, and then they take turns.
    first, second = rig.encoded.index(201), rig.encoded.index(202)
    assert first <= 4
    assert second <= first + 3
    # Within a project by arrival, but for two that are decoded at once.
    assert all(abs(name - place) <= 1 for place, name in enumerate([n for n in rig.encoded if n < 200], 1))


def test_prefetches_take_no_places_of_clicks_and_have_a_limit_of_their_own(make: Make) -> None:
    rig = make(queue=3)
    blocker = rig.held(click(1))
    held = [rig.replica.submit(prefetch(10 + number)) for number in range(PREFETCHES)]

    assert isinstance(error(rig.replica.submit(prefetch(99))), NotReady)
    answered = rig.replica.submit(click(2))
    rig.backbone.gate.set()
    for future in (blocker, answered, *held):
        done(future)


def test_those_whose_deadline_passed_get_no_mask_and_keep_no_place(make: Make) -> None:
    rig = make(queue=3)
    blocker = rig.held(click(1))
    late = rig.replica.submit(click(2, seconds=5.0))
    prefetched = rig.replica.submit(prefetch(4))
    rig.clock.now += 6

    patient = rig.replica.submit(click(3))
    assert isinstance(error(late), DeadlinePassed)
    rig.clock.now += 50  # a prefetch waits for as long as it takes
    rig.backbone.gate.set()
    for future in (blocker, patient, prefetched):
        done(future)
    assert sorted(rig.encoded) == [1, 3, 4]


def test_a_cancelled_click_is_not_worked_on(make: Make) -> None:
    rig = make()
    blocker = rig.held(click(1))
    cancelled = rig.replica.submit(click(2))
    assert cancelled.cancel()
    rig.backbone.gate.set()
    done(blocker)
    done(rig.replica.submit(click(3)))

    assert rig.encoded == [1, 3]


def test_twenty_first_clicks_on_one_image_run_the_model_once(make: Make) -> None:
    rig = make()
    futures = [rig.replica.submit(click(1, prompts=Prompts((Click(3 * number, 22),)))) for number in range(20)]

    assert all(done(future).mask is not None for future in futures)
    assert rig.encoded == [1]


def test_a_slow_disk_is_in_no_clicks_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, gate = make(), threading.Event()
    write = FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda *arguments: gate.wait(TIMEOUT) and write(*arguments))
    for number in range(12):
        assert done(rig.replica.submit(click(number))).mask is not None, "more than may wait for the disk"

    gate.set()
    rig.replica.close(TIMEOUT)
    assert len(rig.engine.disk) >= 8, "what was on its way is written before the end"


def test_the_age_of_the_step_in_work_and_the_suspects_are_told(make: Make) -> None:
    rig = make()
    future = rig.held(click(1))
    rig.clock.now += 40

    figures = rig.replica.figures()

    assert figures.age == 40
    assert figures.hang_seconds >= HANG_LEAST_SECONDS
    assert rig.reported[-1] == InWork(frozenset({source(1).key}))
    rig.backbone.gate.set()
    done(future)
    assert InWork(frozenset(), frozenset({(source(1).key, ONE)})) in rig.reported
    until(lambda: rig.reported[-1] == InWork())
    assert rig.replica.figures().age == 0


def test_a_request_of_many_prompts_hangs_only_where_one_of_them_does(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, ages = make(), list[float]()
    done(rig.replica.submit(click(1)))
    taken = stepwise(rig, monkeypatch, lambda _: ages.append(rig.replica.figures().age))

    done(rig.replica.submit(click(1, prompts=Prompts(MANY), seconds=1e9)))

    assert len(taken) == len(MANY)
    assert max(ages) == 1.0, "or a slow machine's worker would be ended in the middle of its work"


def test_out_of_memory_is_told_with_the_cure_and_the_next_image_is_fine(make: Make) -> None:
    rig = make()

    assert isinstance(error(rig.replica.submit(click(1, image=source(1, color=MEMORY)))), BackboneUnavailable)
    assert done(rig.replica.submit(click(2))).mask is not None


@pytest.mark.parametrize(
    "says", ["CUDA error: an illegal memory access", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "HIP error: lost"]
)
def test_a_broken_device_is_noticed(make: Make, says: str) -> None:
    rig = make()
    rig.backbone.broken = says

    assert says in str(error(rig.replica.submit(click(1, image=source(1, color=BROKEN)))))
    assert rig.replica.broken
    assert rig.broken.is_set()


def test_a_thread_that_ends_is_no_silent_loss(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make()
    monkeypatch.setattr(rig.engine, "step", lambda photo: 1 / 0)
    rig.replica.submit(click(1))

    assert rig.broken.wait(TIMEOUT)
    assert rig.replica.broken


def test_a_closed_replica_answers_everybody(make: Make) -> None:
    rig = make()
    rig.held(click(1))
    waiting = rig.replica.submit(click(2))
    rig.replica.close(0.1)

    assert "shutting down" in str(error(waiting))
    assert "shutting down" in str(error(rig.replica.submit(click(3))))


def test_images_are_evicted_and_read_again_without_a_wrong_mask(make: Make) -> None:
    rig = make(device_cache=0, memory_cache=0)
    prompts = [Prompts((Click(30, 22),)), Prompts((Click(5, 5),))]
    alone = {number: done(rig.replica.submit(click(number, prompts=prompts[number % 2]))) for number in range(4)}

    rounds = [
        (number, rig.replica.submit(click(number, prompts=prompts[number % 2]))) for number in list(range(4)) * 5
    ]

    for number, future in rounds:
        assert np.array_equal(done(future).unpacked(), alone[number].unpacked())


def test_an_image_that_was_loaded_for_the_model_and_is_wanted_no_more_is_left_to_other_machines(
    make: Make, tmp_path: Path
) -> None:
    shared = SharedBoard()
    rig = make(store=str(tmp_path / "store"), claims=shared.claims("one"))
    files, fingerprint = FolderFiles(tmp_path / "store"), rig.engine.disk.fingerprint
    other = FeatureStore(files, fingerprint, 10**8, terms=SHARED, claims=shared.claims("other"))
    first = rig.held(click(1))
    given_up = rig.replica.submit(click(2, seconds=10.0))
    until(lambda: shared.is_claimed(source(2).key))  # it is loaded, and waits for the model

    rig.clock.now += 11.0
    assert isinstance(error(given_up), DeadlinePassed)
    assert other.claim(source(2).key) is None

    rig.backbone.gate.set()
    done(first)
    assert rig.encoded == [1]


def to_disk(name: int) -> Work:
    return Work(source(name), None, to_disk=True)


def test_an_image_for_the_disk_is_answered_when_it_is_written_and_nothing_else_is_made_of_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, gate, write = make(), threading.Event(), FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda *arguments: gate.wait(TIMEOUT) and write(*arguments))
    filling = rig.replica.submit(to_disk(1))
    until(lambda: rig.replica._writer.unwritten)
    done(rig.replica.submit(click(2)))  # there was time to answer

    assert not filling.done()
    gate.set()
    assert set(done(filling).timings_ms) == {"load", "encode"}
    assert source(1).key in rig.engine.disk


def test_an_image_that_another_process_has_written_is_not_encoded_for_the_disk(make: Make, tmp_path: Path) -> None:
    rig = make()
    blocker = rig.held(to_disk(1))
    waiting = [rig.replica.submit(to_disk(2)), rig.replica.submit(to_disk(3)), rig.replica.submit(to_disk(4))]
    other = Engine(FaultyBackbone(), rig.settings)
    other.segment(source(4), ONE)

    rig.backbone.gate.set()
    encoded = ["encode" in done(future).timings_ms for future in (blocker, *waiting)]
    assert encoded == [True, True, True, False]
    assert rig.encoded == [1, 2, 3]


def test_two_files_for_the_disk_with_the_same_bytes_are_one_run_of_the_model(make: Make) -> None:
    rig = make()
    blocker = rig.held(to_disk(1))
    twice = [rig.replica.submit(to_disk(2)), rig.replica.submit(to_disk(2))]
    rig.backbone.gate.set()

    assert ["encode" in done(future).timings_ms for future in (blocker, *twice)] == [True, True, False]


def test_the_model_waits_for_a_slow_disk_where_the_disk_is_what_it_runs_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, gate, write = make(), threading.Event(), FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda *arguments: gate.wait(TIMEOUT) and write(*arguments))
    filling = [rig.replica.submit(to_disk(number)) for number in range(WRITES_WAITING + 5)]
    until(lambda: len(rig.encoded) >= WRITES_WAITING + 1)  # one more is at the writer
    done(rig.replica.submit(click(99)))  # its features go nowhere

    assert len(rig.encoded) == WRITES_WAITING + 2
    gate.set()
    assert all("encode" in done(future).timings_ms for future in filling)
    assert all(source(number).key in rig.engine.disk for number in range(len(filling)))


def test_images_for_the_disk_need_no_place_in_the_queue_of_clicks(make: Make) -> None:
    rig = make(queue=1)
    futures = [rig.held(to_disk(1)), *(rig.replica.submit(to_disk(number)) for number in range(2, 8))]
    rig.backbone.gate.set()

    for future in futures:
        done(future)


def test_an_image_that_a_long_request_evicted_does_not_wait_for_its_end() -> None:
    long, other = (Job(click(name), 1e9, name) for name in (1, 2))
    long.is_long = True
    assert coldness(other, Step.READY) < coldness(long, Step.PREPARED)
    assert coldness(other, Step.TABLE) < coldness(long, Step.PREPARED)
    assert coldness(other, Step.PREPARED) < coldness(other, Step.READY)
