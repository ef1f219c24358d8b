"""A web process's view of the images that bring replicas down, which the board counts for all web processes."""

from __future__ import annotations

import logging
from typing import Any

from m2n2_backend.errors import ImageRefused
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.cluster.connection import import_ray

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0


class BoardQuarantine:
    """Deaths of replicas, by image. Threads share it. Without the board nothing is counted and nothing is refused.

    Attributes:
        board: Ray's handle of the board, None while it cannot be reached.
        suspects: The board's suspects as of the latest look. Only these are asked about, so other clicks do not wait.
    """

    def __init__(self) -> None:
        """Suspect nothing yet."""
        self.board: Any = None
        self.suspects = set[str]()
        self._ray = import_ray()

    def refusal(self, key: str, prompts: Prompts | None) -> ImageRefused | None:
        """Why an image, or these prompts on it, may not be sent to a replica now; None where they may."""
        where = self.board
        return None if where is None or key not in self.suspects else self._answer(where.refusal.remote(key, prompts))

    def died(self, key: str, prompts: Prompts | None, error: Exception) -> ImageRefused | None:
        """Tell the board of an image that was in work when ``error`` ended it; why the image may not be sent again.

        Errors other than the death of the replica do not count.
        """
        where, actor = self.board, getattr(error, "actor_id", None)
        if where is None or actor is None or not isinstance(error, self._ray.exceptions.ActorDiedError):
            return None
        self.suspects.add(key)
        return self._answer(where.died.remote(key, actor, prompts))

    def survived(self, key: str, prompts: Prompts | None) -> None:
        """Tell the board that prompts on an image were answered with a mask."""
        self.suspects.discard(key)
        if (where := self.board) is not None:
            where.survived.remote(key, prompts)

    def _answer(self, asked: Any) -> ImageRefused | None:
        try:
            return self._ray.get(asked, timeout=_ANSWER_SECONDS)  # type: ignore[no-any-return]
        except self._ray.exceptions.RayError as error:
            logger.warning("deaths of replicas cannot be counted: %s", type(error).__name__)
            return None
