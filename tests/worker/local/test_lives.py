"""Workers that start, die and are started again, and a pool that closes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from stood_in_workers import MASK, ONE, FakeChild, Make, nothing
from waiting import until

from m2n2_backend.errors import BackboneUnavailable, NotReady
from m2n2_backend.server.metrics import Metrics
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import SourceImage, Work
from m2n2_backend.worker.local.life import USEFUL_SECONDS
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.local.supervisor import BACK_OFF, RELOAD_SECONDS
from m2n2_backend.worker.messages import LoadFailed


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
    asked = rig.begun("a")
    rig.at_start = nothing
    rig.child(0).die()
    until(lambda: len(rig.lives["cuda:0"]) == 2)

    status = rig.pool.status()
    assert (status.state, rig.alive(0)) == ("loading", False)
    assert "was killed; starting it again" in status.detail
    assert b"m2n2_model_ready 0.0" in Metrics(rig.pool).render()
    rig.child(0).get_ready()
    until(lambda: rig.child(0).keys == ["a"])
    assert rig.answered(asked).mask.any()
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
    rig.answered(asked)
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
