"""Who encodes which image: leases as small files beside the features, for machines that share nothing else."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable

from m2n2_backend.worker.files import SharedFiles

logger = logging.getLogger(__name__)

EXPIRY_SECONDS = 5.0
"""A lease whose file has not changed for so long belongs to a machine that is gone."""

RENEWALS = 5
"""Times a lease is renewed within its expiry."""

LONGEST_SECONDS = 300.0
"""Time after which a lease is renewed no more: whoever holds it hangs."""


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
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # a renewal must not come after the end of what it renews
        self._held: dict[str, int] = {}  # the number of its renewals
        self._seen: dict[str, tuple[bytes, float]] = {}  # leases of others: contents, and since when
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self, name: str) -> bool:
        """Try once to get a lease; OSError where the files cannot be reached."""
        if not self._files.create(name, self._contents(0)) and not self._take_over(name):
            return False
        with self._lock:
            self._seen.pop(name, None)
            self._held[name] = 0
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew_all, name="leases", daemon=True)
                self._renewer.start()
        return True

    def release(self, name: str) -> None:
        """Give a lease back, if it is held; where that fails it expires."""
        with self._lock:
            if self._held.pop(name, None) is None:
                return
        try:
            with self._writing:
                self._files.remove(name)
        except OSError as error:
            logger.warning("lease %s is left to expire: %s", name, error)

    def close(self) -> None:
        """Give everything back."""
        self._closed.set()
        for name in list(self._held):
            self.release(name)

    def _take_over(self, name: str) -> bool:
        contents = self._files.read(name)
        if contents is None:
            return False  # given back this moment; the next try gets it
        now = self._clock()
        with self._lock:
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

    def _renew_all(self) -> None:
        longest = RENEWALS * LONGEST_SECONDS / self._expiry
        while not self._closed.wait(self._expiry / RENEWALS):
            for name in list(self._held):
                with self._writing:
                    with self._lock:
                        if self._held.get(name, longest) >= longest:
                            continue
                        self._held[name] += 1
                        contents = self._contents(self._held[name])
                    try:
                        self._files.write(name, contents)
                    except OSError as error:
                        logger.warning("lease %s cannot be renewed: %s", name, error)
