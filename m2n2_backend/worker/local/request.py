"""What a pool has taken on, and what it is told by those who watch over its workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import InWork, Ready, Reply

if TYPE_CHECKING:
    from m2n2_backend.worker.local.supervisor import Supervisor


@dataclass(eq=False)
class Request:
    """Work that the pool has taken on.

    Attributes:
        work: What is to be done; its seconds are set when it is sent.
        deadline: On the pool's clock.
        future: Gets the reply.
        number: It tells the pool's requests apart.
    """

    work: Work
    deadline: float
    number: int
    future: Future[Reply] = field(default_factory=Future)

    @property
    def key(self) -> str:
        """Hash of the image's file."""
        return self.work.image.key

    @property
    def is_prefetch(self) -> bool:
        """Whether nobody waits for it."""
        return self.work.is_prefetch

    @property
    def is_waited_for(self) -> bool:
        """Whether it is a click that has no answer, and whose caller has not given up."""
        return not self.is_prefetch and not self.future.done()


class Owner(Protocol):
    """What a supervisor tells its pool."""

    def check(self, worker: Supervisor, ready: Ready) -> None:
        """Its model is loaded.

        Raises:
            BackboneUnavailable: It is not the other workers' model.
        """
        ...

    def came_up(self, worker: Supervisor) -> None:
        """It can be handed work from now on: its model was loaded, or it has spoken after a silence."""
        ...

    def answered(self, request: Request, reply: Reply) -> None:
        """A request is done."""
        ...

    def is_silent(self, worker: Supervisor, requests: Iterable[Request]) -> None:
        """It does not say anything; others may do what it was asked for. Told again and again until it speaks."""
        ...

    def went_down(self, worker: Supervisor, requests: Sequence[Request], in_work: InWork) -> None:
        """It died with these requests unanswered and these images in work."""
        ...
