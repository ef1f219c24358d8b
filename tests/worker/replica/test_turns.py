"""Who goes first at a replica, and what never waits for what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from replica_rig import TIMEOUT, Make, Rig, click, done, prefetch, source
from waiting import until

from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.interface import Subject, Work
from m2n2_backend.worker.replica.photo import Photo, Step
from m2n2_backend.worker.replica.rle import brush_rle


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


def test_cold_clicks_go_before_prefetches_that_came_earlier(make: Make) -> None:
    rig = make()
    begun = rig.held(prefetch(1))
    futures = [rig.replica.submit(work) for work in (prefetch(2), prefetch(3), click(4), click(5))]
    rig.let_go(begun, *futures)

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
    rig.let_go(begun, cold, warm)
    assert cold_at_that_time == [False]


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
    rig.let_go(*futures)

    # Two images of A were decoded already, and then they take turns.
    first, second = rig.encoded.index(201), rig.encoded.index(202)
    assert first <= 4
    assert second <= first + 3
    # Within a project by arrival, but for two that are decoded at once.
    assert all(abs(name - place) <= 1 for place, name in enumerate([n for n in rig.encoded if n < 200], 1))


def test_twenty_first_clicks_on_one_image_run_the_model_once(make: Make) -> None:
    rig = make()
    futures = [rig.replica.submit(click(1, prompts=Prompts((Click(3 * number, 22),)))) for number in range(20)]

    assert all(done(future).mask is not None for future in futures)
    assert rig.encoded == [1]
