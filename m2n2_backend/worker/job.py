"""Work that was taken on, as both sides of a pipe keep it until it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from m2n2_backend.errors import DeadlinePassed, NotReady
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import Reply


@dataclass(eq=False)
class Job:
    """One piece of work, and the future of the callers that wait for its reply.

    The fields from ``queued_at`` on are a replica's: its queue orders jobs by them.

    Attributes:
        work: What is to be done.
        deadline: Time on the owner's clock at which nobody waits any more.
        number: Tells the owner's jobs apart, and grows with their arrival. In a queue a job that replaces another
            takes that job's number.
        future: Gets the reply.
        queued_at: Time on the queue's clock at which the job came.
        followers: Obsolete jobs that get the same reply.
        is_long: Whether it was put off with prompts left to answer.
        is_cold: Whether its image was not in memory when it came.
        turn: Grows with what was done before the job came, or for its project since: the least goes first.
        has_missed: Whether it was put off as it needed a view that was not prepared.
    """

    work: Work
    deadline: float
    number: int
    future: Future[Reply] = field(default_factory=Future)
    queued_at: float = 0.0
    followers: list[Job] = field(default_factory=list)
    is_long: bool = False
    is_cold: bool = False
    turn: int = 0
    has_missed: bool = False

    @property
    def key(self) -> str:
        """Hash of the image's file."""
        return self.work.image.key

    @property
    def project(self) -> str | None:
        """Label Studio's id of the project; None if it is not known."""
        return None if self.work.subject is None else self.work.subject.project

    @property
    def is_waited_for(self) -> bool:
        """Whether it is not a prefetch, has no answer, and its caller has not given up."""
        return not self.work.is_prefetch and not self.future.done()

    def everybody(self) -> Iterator[Job]:
        """This job and all that get its reply."""
        yield self
        for follower in self.followers:
            yield from follower.everybody()

    def finish(self, reply: Reply) -> None:
        """Answer all callers that still wait for this job or for one that follows it."""
        for job in self.everybody():
            with suppress(InvalidStateError):  # its caller gave up, or another worker was faster
                job.future.set_result(reply)


def deadline_passed() -> DeadlinePassed:
    """The answer to callers whose turn did not come in time."""
    return DeadlinePassed("the model was busy until the deadline; click again")


def shutting_down() -> NotReady:
    """The answer to callers that wait when the model is closed, or come afterwards."""
    return NotReady("the model worker is shutting down")
