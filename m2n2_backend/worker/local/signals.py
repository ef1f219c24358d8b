"""Signals that reach the whole process group: the web process acts on them, and its workers ignore them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_OF_THE_GROUP = tuple(
    getattr(signal, name)
    # Ctrl+C, Ctrl+\, a closed terminal, systemd's stop, and others that end or stop a process without a handler.
    for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU")
    if hasattr(signal, name)
)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold back the group's signals in this thread, and in a process started meanwhile until it calls ``deaf``.

    Without this a signal could end a process that has not reached its first line.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
    try:
        # Python's own helper is started with the first process, and lets some of these signals through afterwards.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deaf() -> None:
    """Ignore the group's signals in this process, also those that were held back."""
    for each in _OF_THE_GROUP:
        signal.signal(each, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_THE_GROUP)
