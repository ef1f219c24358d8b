"""Work that a replica joins, refuses or drops, and what it tells of its troubles."""

from __future__ import annotations

import pytest
from faulty_backbone import BROKEN, MEMORY
from replica_rig import ONE, TIMEOUT, Make, click, done, error, prefetch, source
from waiting import until

from m2n2_backend.errors import BackboneUnavailable, DeadlinePassed, ImageNeeded, InvalidImage, NotReady
from m2n2_backend.worker.interface import SourceImage, Subject
from m2n2_backend.worker.messages import InWork
from m2n2_backend.worker.replica.queue import PREFETCHES
from m2n2_backend.worker.replica.steps import HANG_LEAST_SECONDS


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

    answers = rig.let_go(older, *newer)
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
    rig.let_go(blocker, *waiting)


def test_cold_clicks_leave_places_for_clicks_on_a_prepared_image(make: Make) -> None:
    rig = make(queue=4)
    done(rig.replica.submit(click(200)))
    blocker = rig.held(click(1))
    cold = [rig.replica.submit(click(number)) for number in range(2, 12)]
    refused = [future for future in cold if future.done()]

    assert len(refused) == 8
    assert all("busy" in str(error(future)) for future in refused)
    assert done(rig.replica.submit(click(200))).mask is not None, "beside the model, which is held"
    rig.let_go(blocker, *(one for one in cold if one not in refused))


def test_prefetches_take_no_places_of_clicks_and_have_a_limit_of_their_own(make: Make) -> None:
    rig = make(queue=3)
    blocker = rig.held(click(1))
    held = [rig.replica.submit(prefetch(10 + number)) for number in range(PREFETCHES)]

    assert isinstance(error(rig.replica.submit(prefetch(99))), NotReady)
    answered = rig.replica.submit(click(2))
    rig.let_go(blocker, answered, *held)


def test_those_whose_deadline_passed_get_no_mask_and_keep_no_place(make: Make) -> None:
    rig = make(queue=3)
    blocker = rig.held(click(1))
    late = rig.replica.submit(click(2, seconds=5.0))
    prefetched = rig.replica.submit(prefetch(4))
    rig.clock.now += 6

    patient = rig.replica.submit(click(3))
    assert isinstance(error(late), DeadlinePassed)
    rig.clock.now += 50  # a prefetch waits for as long as it takes
    rig.let_go(blocker, patient, prefetched)
    assert sorted(rig.encoded) == [1, 3, 4]


def test_a_cancelled_click_is_not_worked_on(make: Make) -> None:
    rig = make()
    blocker = rig.held(click(1))
    cancelled = rig.replica.submit(click(2))
    assert cancelled.cancel()
    rig.let_go(blocker, rig.replica.submit(click(3)))

    assert rig.encoded == [1, 3]


def test_the_age_of_the_step_in_work_and_the_suspects_are_told(make: Make) -> None:
    rig = make()
    future = rig.held(click(1))
    rig.clock.now += 40

    figures = rig.replica.figures()

    assert figures.age == 40
    assert figures.hang_seconds >= HANG_LEAST_SECONDS
    assert rig.reported[-1] == InWork(frozenset({source(1).key}))
    rig.let_go(future)
    assert InWork(frozenset(), frozenset({(source(1).key, ONE)})) in rig.reported
    until(lambda: rig.reported[-1] == InWork())
    assert rig.replica.figures().age == 0


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
