"""What waits for a replica, what takes the place of what, and what nobody waits for any more."""

from __future__ import annotations

import pytest

from m2n2_backend.errors import NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.interface import SourceImage, Subject, Work
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.messages import Done, Reply
from m2n2_backend.worker.replica.queue import PREFETCH_BYTES, PREFETCHES, JobQueue

REPLY = Reply(Done(None, 0.0, {}))


def click(name: str, *prompts: str, label: str = "Cat", task: str = "7", seconds: float = 60.0) -> Work:
    subject = Subject("1", task, label, frozenset(prompts))
    return Work(SourceImage(name, b""), Prompts((Click(1, 1),)), seconds, subject)


def prefetch(name: str, data: bytes = b"") -> Work:
    return Work(SourceImage(name, data), None)


def queue(capacity: int = 10) -> JobQueue:
    return JobQueue(capacity, clock=lambda: 0.0)


def names(waiting: JobQueue) -> list[str]:
    return [job.key for job in waiting]


def test_a_click_added_to_the_same_object_takes_the_place_of_the_one_that_waits_and_answers_it() -> None:
    waiting = queue()
    older, other, newer = (
        waiting.put(work) for work in (click("a", "1"), click("b", "9", task="8"), click("a", "1", "2"))
    )

    assert list(waiting) == [newer, other], "it takes the older one's place"
    newer.finish(REPLY)
    assert older.future.result(0) is newer.future.result(0) is REPLY
    assert waiting.superseded == 1


def test_three_clicks_in_a_row_become_one_job_that_answers_all() -> None:
    waiting = queue()
    jobs = [waiting.put(click("a", *"123"[: count + 1])) for count in range(3)]

    assert list(waiting) == [jobs[2]]
    jobs[2].finish(REPLY)
    assert [job.future.result(0) for job in jobs] == [REPLY] * 3


@pytest.mark.parametrize(
    "newer",
    [
        click("a", "2"),  # Auto-Accept: each click is an object of its own
        click("a", "1", "2", label="Dog"),
        click("a", "1", "2", task="8"),
        click("a"),
        click("b", "1", "2"),  # the image was changed meanwhile
    ],
    ids=["another object", "another label", "another task", "prompts without ids", "another image"],
)
def test_other_objects_are_left_alone(newer: Work) -> None:
    waiting = queue()
    waiting.put(click("a", "1"))
    waiting.put(newer)

    assert (len(waiting), waiting.superseded) == (2, 0)


def test_a_full_queue_refuses_clicks_but_a_replacing_one_has_its_place() -> None:
    waiting = queue(2)
    waiting.put(click("a", "1"))
    waiting.put(click("b", "2"))

    with pytest.raises(NotReady, match="2 requests wait"):
        waiting.put(click("c", "3"))
    waiting.put(click("a", "1", "4"))
    assert (len(waiting), waiting.refused) == (2, 1)


def test_cold_clicks_take_three_quarters_of_the_places_and_warm_ones_the_rest() -> None:
    waiting = JobQueue(4, clock=lambda: 0.0, is_warm=lambda key: key.startswith("warm"))
    for name in "abc":
        waiting.put(click(name, name))
    with pytest.raises(NotReady, match="busy"):
        waiting.put(click("d", "d"))
    waiting.put(click("warm 1", "4"))
    with pytest.raises(NotReady, match="4 requests wait"):
        waiting.put(click("warm 2", "5"))


def test_a_project_that_somebody_invents_passes_nobody_who_waits() -> None:
    waiting = queue()
    one, other = waiting.put(click("a", "1")), waiting.put(click("b", "2", task="8"))
    waiting.served([one, other])
    invented = waiting.put(
        Work(SourceImage("c", b""), Prompts((Click(1, 1),)), 60.0, Subject("?", "9", "Cat", frozenset()))
    )

    assert other.turn <= invented.turn
    waiting.served([one, other])
    assert invented.turn < other.turn, "but it waits for no more than one image of another project"


def test_a_click_that_takes_anothers_place_takes_its_turn() -> None:
    waiting = queue()
    older = waiting.put(click("a", "1"))
    waiting.served([waiting.put(click("b", "9", task="8"))])
    newer = waiting.put(click("a", "1", "2"))

    assert newer.turn == older.turn < waiting.put(click("c", "3", task="9")).turn


def test_prefetches_have_places_of_their_own_and_few() -> None:
    waiting = queue(1)
    for number in range(PREFETCHES):
        waiting.put(prefetch(f"p{number}"))
    with pytest.raises(NotReady):
        waiting.put(prefetch("one more"))

    waiting.put(click("a", "1"))
    assert len(waiting) == PREFETCHES + 1


def test_the_files_of_prefetches_are_bounded_in_bytes_but_one_is_always_taken() -> None:
    waiting = queue()
    large = bytes(PREFETCH_BYTES + 1)
    waiting.put(prefetch("large", large))

    with pytest.raises(NotReady):
        waiting.put(prefetch("small", b"1"))


def test_what_nobody_waits_for_is_dropped_and_takes_no_place() -> None:
    now = [0.0]
    waiting = JobQueue(10, clock=lambda: now[0])
    late, patient = waiting.put(click("a", "1", seconds=5)), waiting.put(click("b", "2"))
    cancelled = waiting.put(click("c", "3"))
    prefetched = waiting.put(prefetch("p"))
    cancelled.future.cancel()
    now[0] = 10

    assert waiting.unwanted() == [late, cancelled]
    assert list(waiting) == [patient, prefetched]


def test_a_job_is_wanted_as_long_as_one_of_those_it_answers_waits() -> None:
    now = [0.0]
    waiting = JobQueue(10, clock=lambda: now[0])
    waiting.put(click("a", "1", seconds=60))
    waiting.put(click("a", "1", "2", seconds=5))
    now[0] = 10

    assert waiting.unwanted() == []


def test_a_job_put_back_has_its_old_place() -> None:
    waiting = queue()
    first: Job = waiting.put(click("a", "a"))
    for name in "bc":
        waiting.put(click(name, name))
    waiting.take(first)
    assert names(waiting) == ["b", "c"]
    waiting.put_back(first)

    assert names(waiting) == ["a", "b", "c"]
