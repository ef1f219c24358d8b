"""What a replica writes to its store and reads again, and the images that it encodes for nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from faulty_backbone import FaultyBackbone
from replica_rig import ONE, TIMEOUT, Make, click, done, error, source
from stored_features import SharedBoard
from waiting import until

from m2n2_backend.errors import DeadlinePassed
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.replica.disk_writer import WRITES_WAITING
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.store.features import FeatureStore
from m2n2_backend.worker.store.files import FolderFiles
from m2n2_backend.worker.store.health import SHARED


def test_a_slow_disk_is_in_no_clicks_way(make: Make, may_write: threading.Event) -> None:
    rig = make()
    for number in range(12):
        assert done(rig.replica.submit(click(number))).mask is not None, "more than may wait for the disk"

    may_write.set()
    rig.replica.close(TIMEOUT)
    assert len(rig.engine.disk) >= 8, "what was on its way is written before the end"


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

    rig.let_go(first)
    assert rig.encoded == [1]


def to_disk(name: int) -> Work:
    return Work(source(name), None, to_disk=True)


def test_an_image_for_the_disk_is_answered_when_it_is_written_and_nothing_else_is_made_of_it(
    make: Make, may_write: threading.Event
) -> None:
    rig = make()
    filling = rig.replica.submit(to_disk(1))
    until(lambda: rig.replica._writer.unwritten)
    done(rig.replica.submit(click(2)))  # there was time to answer

    assert not filling.done()
    may_write.set()
    assert set(done(filling).timings_ms) == {"load", "encode"}
    assert source(1).key in rig.engine.disk


def test_an_image_that_another_process_has_written_is_not_encoded_for_the_disk(make: Make, tmp_path: Path) -> None:
    rig = make()
    blocker = rig.held(to_disk(1))
    waiting = [rig.replica.submit(to_disk(2)), rig.replica.submit(to_disk(3)), rig.replica.submit(to_disk(4))]
    other = Engine(FaultyBackbone(), rig.settings)
    other.segment(source(4), ONE)

    encoded = ["encode" in each.timings_ms for each in rig.let_go(blocker, *waiting)]
    assert encoded == [True, True, True, False]
    assert rig.encoded == [1, 2, 3]


def test_two_files_for_the_disk_with_the_same_bytes_are_one_run_of_the_model(make: Make) -> None:
    rig = make()
    blocker = rig.held(to_disk(1))
    twice = [rig.replica.submit(to_disk(2)), rig.replica.submit(to_disk(2))]

    assert ["encode" in each.timings_ms for each in rig.let_go(blocker, *twice)] == [True, True, False]


def test_the_model_waits_for_a_slow_disk_where_the_disk_is_what_it_runs_for(
    make: Make, may_write: threading.Event
) -> None:
    rig = make()
    filling = [rig.replica.submit(to_disk(number)) for number in range(WRITES_WAITING + 5)]
    until(lambda: len(rig.encoded) >= WRITES_WAITING + 1)  # one more is at the writer
    done(rig.replica.submit(click(99)))  # its features go nowhere

    assert len(rig.encoded) == WRITES_WAITING + 2
    may_write.set()
    assert all("encode" in done(future).timings_ms for future in filling)
    assert all(source(number).key in rig.engine.disk for number in range(len(filling)))


def test_images_for_the_disk_need_no_place_in_the_queue_of_clicks(make: Make) -> None:
    rig = make(queue=1)
    futures = [rig.held(to_disk(1)), *(rig.replica.submit(to_disk(number)) for number in range(2, 8))]
    rig.let_go(*futures)
