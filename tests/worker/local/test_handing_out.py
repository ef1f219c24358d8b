"""Which worker gets which work, and what it is given with it."""

from __future__ import annotations

import math
import pickle

import pytest
from stood_in_workers import Make, nothing
from waiting import until

from m2n2_backend.errors import DeadlinePassed
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.local.life import Owner
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.local.supervisor import Supervisor
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.replica.queue import PREFETCH_BYTES, PREFETCHES


def test_a_click_that_nobody_waits_for_any_more_is_not_counted_as_waiting(make: Make) -> None:
    rig = make(1).ready()
    with pytest.raises(DeadlinePassed):
        rig.ask("late", seconds=0.0).result(120)
    assert rig.pool.stats()[0].figures.waiting == 0
    until(lambda: not rig.pool._dispatcher.workers[0].outstanding())


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
