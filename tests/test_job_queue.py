"""What waits for a worker, in which order, and what nobody waits for any more."""

from __future__ import annotations

import threading
import time

import pytest

from m2n2_backend.errors import NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.pool import SourceImage, Subject
from m2n2_backend.worker.queue import Job, JobQueue


def click(name: str, *prompts: str, label: str = "Cat", task: str = "7", seconds: float = 60.0) -> Job:
    subject = Subject("1", task, label, frozenset(prompts))
    return Job(SourceImage(name, b""), Prompts((Click(1, 1),)), time.monotonic() + seconds, subject)


def prefetch(name: str) -> Job:
    return Job(SourceImage(name, b""), None, float("inf"))


def names(queue: JobQueue) -> list[str]:
    taken = []
    while (job := queue.get(0)) is not None:
        taken.append(job.image.key)
    return taken


def test_clicks_go_before_prefetching_and_otherwise_in_the_order_of_arrival() -> None:
    queue = JobQueue(10)
    for job in (prefetch("p1"), click("a", "1"), prefetch("p2"), click("b", "2")):
        queue.put(job)

    assert names(queue) == ["a", "b", "p1", "p2"]


def test_a_click_added_to_the_same_object_replaces_the_request_that_waits_and_answers_it() -> None:
    queue = JobQueue(10)
    older, other, newer = click("a", "1"), click("b", "9", task="8"), click("a", "1", "2")
    for job in (older, other, newer):
        queue.put(job)

    assert queue.get(0) is newer, "it takes the older one's place"
    newer.finish("mask")
    assert older.future.result(0) == newer.future.result(0) == "mask"
    assert (len(queue), queue.superseded) == (1, 1)


def test_three_clicks_in_a_row_become_one_request() -> None:
    queue = JobQueue(10)
    jobs = [click("a", *"123"[: count + 1]) for count in range(3)]
    for job in jobs:
        queue.put(job)

    assert queue.get(0) is jobs[2]
    assert queue.get(0) is None
    jobs[2].finish("mask")
    assert [job.future.result(0) for job in jobs] == ["mask"] * 3


@pytest.mark.parametrize(
    "newer",
    [
        click("a", "2"),  # Auto-Accept: each click is an object of its own
        click("a", "1", "2", label="Dog"),
        click("a", "1", "2", task="8"),
        click("a"),
    ],
    ids=["another object", "another label", "another task", "prompts without ids"],
)
def test_requests_about_something_else_replace_nothing(newer: Job) -> None:
    queue = JobQueue(10)
    queue.put(click("a", "1"))
    queue.put(newer)

    assert len(queue) == 2
    assert queue.superseded == 0


def test_an_error_reaches_those_who_were_replaced_too() -> None:
    queue = JobQueue(10)
    older, newer = click("a", "1"), click("a", "1", "2")
    queue.put(older)
    queue.put(newer)
    newer.finish(NotReady("no"))

    with pytest.raises(NotReady, match="no"):
        older.future.result(0)


def test_a_full_queue_refuses_clicks_but_a_replacing_one_has_its_place() -> None:
    queue = JobQueue(2)
    queue.put(click("a", "1"))
    queue.put(click("b", "2"))

    with pytest.raises(NotReady, match="2 requests wait"):
        queue.put(click("c", "3"))
    queue.put(click("a", "1", "4"))
    assert (len(queue), queue.refused) == (2, 1)


def test_prefetching_takes_no_places_of_clicks() -> None:
    queue = JobQueue(1)
    queue.put(prefetch("p"))
    queue.put(click("a", "1"))
    with pytest.raises(NotReady):
        queue.put(prefetch("p2"))

    assert names(queue) == ["a", "p"]


def test_a_request_whose_deadline_passed_is_dropped_and_counted() -> None:
    queue = JobQueue(10)
    late = click("a", "1", seconds=0.0)
    queue.put(late)
    queue.put(click("b", "2"))

    assert names(queue) == ["b"]
    assert queue.timed_out == 1
    with pytest.raises(NotReady, match="deadline"):
        late.future.result(0)


def test_a_job_put_back_comes_first() -> None:
    queue = JobQueue(10)
    for name in "abc":
        queue.put(click(name, name))
    begun = queue.get(0)
    assert begun is not None
    queue.put_back(begun)

    assert names(queue) == ["a", "b", "c"]


def test_get_wakes_up_when_something_arrives() -> None:
    queue = JobQueue(10)
    taken: list[Job | None] = []
    thread = threading.Thread(target=lambda: taken.append(queue.get(30)))
    thread.start()
    job = click("a", "1")
    queue.put(job)
    thread.join(10)

    assert taken == [job]


def test_closing_answers_everybody_who_waits_and_whoever_comes_later() -> None:
    queue = JobQueue(10)
    waiting = click("a", "1")
    queue.put(waiting)
    queue.close(NotReady("shutting down"))

    with pytest.raises(NotReady, match="shutting down"):
        waiting.future.result(0)
    with pytest.raises(NotReady, match="shutting down"):
        queue.put(click("b", "2"))
    assert queue.get(30) is None
