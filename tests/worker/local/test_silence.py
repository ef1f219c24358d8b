"""Workers that hang or fall silent, and what becomes of what they were asked."""

from __future__ import annotations

import threading

import pytest
from stood_in_workers import HALF, Make, nothing
from waiting import until

from m2n2_backend.errors import DeadlinePassed
from m2n2_backend.server.metrics import Metrics
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.local.life import DEAD_SECONDS, LOADING_DEAD_SECONDS
from m2n2_backend.worker.local.silence import SILENT_SECONDS
from m2n2_backend.worker.messages import Loading


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
    rig.answered(asked, 1)


def test_a_silent_worker_is_not_ready_and_another_does_its_work(make: Make) -> None:
    rig = make().ready()
    name = rig.name_for(0)
    asked = rig.begun(name)
    rig.child(1).said.put(Figures())
    rig.now += SILENT_SECONDS + 1
    rig.child(1).said.put(Figures())

    until(lambda: rig.child(1).keys == [name])
    assert (rig.alive(0), rig.alive(1)) == (False, True)
    assert rig.pool.status().state == "degraded"
    assert "does not answer" in rig.pool.status().detail
    assert rig.answered(asked, 1).mask.any()
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
        assert rig.answered(asked).mask.any()


def test_one_falls_silent_and_then_the_other_and_the_click_is_answered_once(make: Make) -> None:
    rig = make().ready()
    name = rig.name_for(0)
    asked = rig.begun(name)
    for _ in range(6):  # the first alone says nothing
        rig.now += 1
        rig.child(1).said.put(Figures())
    until(lambda: rig.child(1).keys == [name])
    rig.now += SILENT_SECONDS + 0.1
    until(lambda: not (rig.alive(0) or rig.alive(1)))

    rig.child(0).said.put(Figures())
    assert rig.answered(asked).mask.any()
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
    assert rig.answered(asked).mask.any()
