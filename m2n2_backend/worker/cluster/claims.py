"""A replica's claims on images, which the board keeps."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from m2n2_backend.worker.cluster.connection import import_ray

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 2.0


class BoardClaims:
    """:class:`~m2n2_backend.worker.store.features.Claims` of one replica.

    While the board cannot be reached, the replica encodes what it is asked for: an image may be encoded twice then.

    Attributes:
        board: Ray's handle, None while the board cannot be reached. The thread that reports to the board sets it, so
            that no click waits for a cluster whose head is away.
    """

    def __init__(self, actor: str) -> None:
        """Claim for the actor with this id."""
        self.board: Any = None
        self._asked: Any = None  # the latest board that may hold a claim of ours
        self._actor = actor

    def take(self, key: str) -> bool:
        """See :class:`~m2n2_backend.worker.store.features.Claims`."""
        where = self.board
        if where is None:
            return True
        self._asked = where
        try:
            return bool(import_ray().get(where.take.remote(key, self._actor), timeout=_ANSWER_SECONDS))
        except Exception as error:  # whatever Ray raises
            self.board = None
            logger.warning("images are encoded without a claim: %s", type(error).__name__)
            return True

    def release(self, key: str) -> None:
        """See :class:`~m2n2_backend.worker.store.features.Claims`."""
        if (where := self._asked) is not None:  # a question that was not answered in time may still be granted
            with suppress(Exception):  # the claim ends with the replica, or by its age
                where.release.remote(key, self._actor)

    def close(self) -> None:
        """Nothing to do: the replica's last report takes it off the board, with its claims."""
