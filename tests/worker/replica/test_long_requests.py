"""A request of many prompts: it is interrupted by others, given up, and has not hung."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from replica_rig import Make, Rig, click, done, error
from waiting import until

from m2n2_backend.errors import DeadlinePassed
from m2n2_backend.m2n2.places import Placed
from m2n2_backend.m2n2.refine.rule import RefinedRule
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.interface import Subject
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.messages import Reply
from m2n2_backend.worker.replica.agenda import coldness
from m2n2_backend.worker.replica.photo import Step

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


def test_a_request_of_many_prompts_hangs_only_where_one_of_them_does(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, ages = make(), list[float]()
    done(rig.replica.submit(click(1)))
    taken = stepwise(rig, monkeypatch, lambda _: ages.append(rig.replica.figures().age))

    done(rig.replica.submit(click(1, prompts=Prompts(MANY), seconds=1e9)))

    assert len(taken) == len(MANY)
    assert max(ages) == 1.0, "or a slow machine's worker would be ended in the middle of its work"


def test_an_image_that_a_long_request_evicted_does_not_wait_for_its_end() -> None:
    long, other = (Job(click(name), 1e9, name) for name in (1, 2))
    long.is_long = True
    assert coldness(other, Step.READY) < coldness(long, Step.PREPARED)
    assert coldness(other, Step.TABLE) < coldness(long, Step.PREPARED)
    assert coldness(other, Step.PREPARED) < coldness(other, Step.READY)
