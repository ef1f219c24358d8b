"""A worker process as the web process holds it: how it is started, asked through a pipe, and ended for certain."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from m2n2_backend.worker.local.signals import deaf, held_back
from m2n2_backend.worker.options import WorkerOptions

_STOP_SECONDS = 5.0
_WATCH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Died(Exception):
    """The process is gone or was ended; the message says how."""


class Child(Protocol):
    """One life of a worker process. One thread may send while another receives and a third ends it."""

    @property
    def pid(self) -> int | None:
        """Id of the process."""
        ...

    def send(self, message: object) -> None:
        """Send it a message. This blocks while the process does not read.

        Raises:
            OSError: The process is gone.
        """
        ...

    def receive(self, timeout: float) -> object | None:
        """Its next message; None if there is none for ``timeout`` seconds.

        Raises:
            Died: The process is gone, and all its messages have been received.
        """
        ...

    def kill(self) -> None:
        """End the process at once, whatever it is doing and even if it is stopped."""
        ...

    def stop(self) -> None:
        """Give the process a few seconds to end by itself, then end it. Calls of ``send`` and ``receive`` return."""
        ...


class ProcessChild:
    """A spawned process; a fork would share threads and locks, and an accelerator cannot be used after one."""

    def __init__(self, options: WorkerOptions) -> None:
        """Start the process; PyTorch is imported there, and not in this one.

        Raises:
            OSError: The system allows no further process or file descriptor.
        """
        self._connection, theirs = multiprocessing.get_context("spawn").Pipe()
        try:
            self._process = spawned(_body, theirs, options)
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """See :class:`Child`."""
        return self._process.pid

    def send(self, message: object) -> None:
        """See :class:`Child`."""
        self._connection.send(message)

    def receive(self, timeout: float) -> object | None:
        """See :class:`Child`."""
        if not wait([self._connection, self._process.sentinel], timeout):
            return None
        try:
            # Messages that were sent before the death can still be read.
            if self._connection.poll() or self._process.is_alive():
                return self._connection.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            pass
        self._process.join(1.0)
        raise Died(_cause(self._process.exitcode))

    def kill(self) -> None:
        """See :class:`Child`."""
        self._process.kill()

    def stop(self) -> None:
        """See :class:`Child`."""
        self._process.join(_STOP_SECONDS)
        end_process(self._process)
        # If a process below it still holds the other end, its death alone wakes no thread that reads or writes here.
        # The connection is not closed yet: while another thread uses it, its number must not become another file's.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


def spawned(body: Callable[..., None], *arguments: object) -> BaseProcess:
    """A new process that is deaf to the signals of its group, and ends with this one or by ``end_process``.

    Args:
        body: Runs in the new process; a function that can be pickled.
        arguments: The arguments of ``body``.

    Raises:
        OSError: The system allows no further process or file descriptor.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_first, args=(body, arguments, os.getpid()), daemon=True
    )
    with held_back():
        process.start()
    # At its end Python sends remaining processes a signal that this one ignores, and would wait for it for ever.
    atexit.register(process.kill)
    return process


def end_process(process: BaseProcess) -> None:
    """End a process of ``spawned``, if it still runs."""
    if process.is_alive():
        process.kill()
        process.join(_STOP_SECONDS)
    atexit.unregister(process.kill)


def _first(body: Callable[..., None], arguments: tuple[object, ...], parent: int) -> None:
    """First function of the new process."""
    deaf()
    _end_with(parent)
    body(*arguments)


def _body(connection: object, options: WorkerOptions) -> None:
    # Threads that wait for each other must not spin: on a machine with other work to do, such as the web process and
    # the annotator's browser, spinning made a click three times slower. OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from m2n2_backend.worker.local.main import run

    run(connection, options)  # type: ignore[arg-type]


def _end_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way: else it would hold a device without any use."""
    if sys.platform.startswith("linux"):
        # The kernel ends even a process that is stopped. It watches the thread that started this process: the
        # supervisor's, which lives for as long as this process is needed.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # On other systems, and if the parent ended before that call: the children of an ended process get another parent.
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _cause(status: int | None) -> str:
    if status is None:
        return "does not answer"
    if status == -9:
        return "was killed, perhaps for lack of memory"
    return f"died of signal {-status}" if status < 0 else f"ended with status {status}"
