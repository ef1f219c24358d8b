"""Who encodes which image: leases as small files beside the features, for machines that share nothing else."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

from cachetools import LRUCache

from m2n2_backend.worker.store.files import SharedFiles

logger = logging.getLogger(__name__)

EXPIRY_SECONDS = 5.0
"""A lease whose file has not changed for so long belongs to a machine that is gone."""

RENEWALS = 5
"""Times a lease is renewed within its expiry."""

LONGEST_SECONDS = 300.0
"""Time after which a lease is renewed no more: whoever holds it hangs."""


_REMEMBERED = 1024


class Leases:
    """Leases by name; threads share it.

    No clock is compared with another machine's: a lease has expired for whoever has seen it unchanged for
    ``EXPIRY_SECONDS`` by its own clock. Two who take over the same expired lease at once may in rare cases both
    believe to hold it: an image is encoded twice then, to the same features.
    """

    def __init__(
        self, files: SharedFiles, expiry: float = EXPIRY_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = files
        self._expiry = expiry
        self._clock = clock
        self._owner = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._held: dict[str, int] = {}  # the number of its renewals
        self._given_back: list[str] = []
        # Leases of others: contents, and since when. Some are never asked for again, so only the latest are kept.
        self._seen: LRUCache[str, tuple[bytes, float]] = LRUCache(_REMEMBERED)
        self._closed = False
        self._keeper: threading.Thread | None = None

    def acquire(self, name: str) -> bool:
        """Try once to get a lease; who has it already hears True.

        Raises:
            OSError: The files cannot be reached.
        """
        with self._changed:
            if name in self._held:
                return True
        if not self._files.create(name, self._contents(0)) and not self._take_over(name):
            return False
        with self._changed:
            self._seen.pop(name, None)
            self._held[name] = 0
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._keeper.start()
        return True

    def release(self, name: str) -> None:
        """Give a lease back, if it is held; its file goes a moment later, as this never waits for the files."""
        with self._changed:
            if self._held.pop(name, None) is not None:
                self._given_back.append(name)
                self._changed.notify()

    def close(self) -> None:
        """Give everything back and wait until it is."""
        with self._changed:
            self._closed = True
            self._given_back += self._held
            self._held.clear()
            self._changed.notify()
        if self._keeper is not None:
            self._keeper.join(self._expiry)

    def _take_over(self, name: str) -> bool:
        contents = self._files.read(name)
        if contents is None:
            return False  # given back this moment; the next try gets it
        now = self._clock()
        with self._changed:
            seen, since = self._seen.setdefault(name, (contents, now))
            if seen != contents:
                self._seen[name] = (contents, now)
                return False
        if now - since < self._expiry:
            return False
        mine = self._contents(0)
        self._files.write(name, mine)
        logger.warning("lease %s has expired and is taken over", name)
        return self._files.read(name) == mine

    def _contents(self, renewals: int) -> bytes:
        return f"{self._owner} {renewals}".encode()

    def _keep(self) -> None:
        """Body of the one thread that renews and removes, so that no renewal comes after the removal."""
        period = self._expiry / RENEWALS
        longest, renewed_at = LONGEST_SECONDS / period, time.monotonic()
        while True:
            with self._changed:
                if not self._given_back and not self._closed:
                    self._changed.wait(period)
                given_back, self._given_back = self._given_back, []
                held: list[tuple[str, int]] = []
                if time.monotonic() - renewed_at >= period:
                    renewed_at = time.monotonic()
                    self._held = {name: renewals + 1 for name, renewals in self._held.items()}
                    held = list(self._held.items())
            for name in given_back:
                self._try(lambda name=name: self._files.remove(name), name)  # type: ignore[misc]
            for name, renewals in held:
                if renewals < longest:
                    self._try(lambda name=name, n=renewals: self._files.write(name, self._contents(n)), name)  # type: ignore[misc]
            if self._closed and not self._given_back:
                return

    def _try(self, call: Callable[[], None], name: str) -> None:
        try:
            call()
        except OSError as error:
            logger.warning("lease %s is left to expire: %s", name, error)
