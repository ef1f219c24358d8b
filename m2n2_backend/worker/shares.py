"""Places for clicks, downloads and their bytes: every user's part is bounded, so that nobody takes them all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from m2n2_backend.errors import NotReady

MOST = 0.75
"""Part of the places for one kind of use, such as cold clicks; the rest is kept for the other kinds."""

HALF = 0.5
"""Part of the places for the cold clicks, or the downloads, of one project, and for those from one host that is not
Label Studio's: mostly there is one such host."""

FILES_AT_ONCE = 8
"""Image files that may be on their way, or wait for the model; together as many times M2N2_MAX_IMAGE_BYTES."""

GroupLimits = Mapping[tuple[str, str], int]
"""Most places for each group that a click belongs to. A group is named by words for a message, after "clicks wait for
the model", and by an id that tells it from others of the same words."""


def part(total: int, share: float) -> int:
    """A share of a total, rounded down, and at least one."""
    return max(1, int(share * total))


def click_limits(total: int, project: str | None, *, is_cold: bool) -> GroupLimits:
    """GroupLimits of a click on the model.

    Args:
        total: Number of places for all clicks.
        project: Label Studio's id; None if it is not known. Callers can invent ids; what protects warm clicks from
            them is the limit for all cold ones.
        is_cold: Whether the image has to be prepared first, which may take minutes; a warm click takes milliseconds.
    """
    limits = {("", ""): total}
    if is_cold:
        limits[" to prepare images", ""] = part(total, MOST)
    if project is not None:
        limits[" in this project", project] = part(total, MOST)
        if is_cold:
            limits[" to prepare images in this project", project] = part(total, HALF)
    return limits


def download_limits(total: int, host: str, project: str | None = None) -> GroupLimits:
    """GroupLimits of a download, in places or in bytes.

    Args:
        total: Number of places, or of bytes, for all downloads.
        host: The server that is asked, "" for Label Studio. A stranger can make up any number of host names; what
            protects Label Studio's own images from them is the limit for all other hosts together.
        project: See :func:`click_limits`.
    """
    limits = {("", ""): total}
    if host:
        limits[" from other hosts than Label Studio", ""] = part(total, MOST)
        limits[" from this host", host] = part(total, HALF)
    else:
        limits[" from Label Studio", ""] = part(total, MOST)
    if project is not None:
        limits[" in this project", project] = part(total, HALF)
    return limits


class Places:
    """Counts what is taken, for each group. Threads share one."""

    def __init__(self, what: str) -> None:
        """Set up free places; ``what`` takes them, in words for the message, such as "clicks wait for the model"."""
        self._what = what
        self._lock = threading.Lock()
        self._taken: Counter[tuple[str, str]] = Counter()

    @property
    def taken(self) -> int:
        """Number of places that are taken now."""
        return self._taken["", ""]

    @contextmanager
    def take(self, limits: GroupLimits, count: int = 1) -> Iterator[Callable[[int], None]]:
        """Take places until the body ends.

        Args:
            limits: The limits of every group that the places count for.
            count: Number of places to take at first.

        Yields:
            A function that takes the given number of further places, and raises as this one does.

        Raises:
            NotReady: A group would exceed its limit; nothing more was taken.
        """
        held = 0

        def more(count: int) -> None:
            nonlocal held
            with self._lock:
                for group, limit in limits.items():
                    if self._taken[group] + count > limit:
                        raise NotReady(f"busy: {self._taken[group]} {self._what}{group[0]}; click again in a moment")
                self._taken.update(dict.fromkeys(limits, count))
                held += count

        try:
            more(count)
            yield more
        finally:
            with self._lock:
                self._taken.subtract(dict.fromkeys(limits, held))
                for group in limits:
                    if not self._taken[group]:
                        del self._taken[group]
