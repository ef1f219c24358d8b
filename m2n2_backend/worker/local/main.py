"""Body of a local worker process: a replica at the other end of a pipe."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.logs import log_to_stderr
from m2n2_backend.worker.messages import LoadFailed, Loading, Ready, Reply
from m2n2_backend.worker.options import WorkerOptions

if TYPE_CHECKING:
    from m2n2_backend.worker.replica.steps import Replica

HEARTBEAT_SECONDS = 1.0
_CLOSE_SECONDS = 3.0


def run(connection: Connection, options: WorkerOptions) -> None:
    """Load the model and say so, then answer work until None comes or the web process is gone.

    The process receives ``(number, Work)`` and sends ``(number, Reply)`` in any order; beside these it sends its
    figures and what is in work. From the start on it sends something every second, as a sign of life.
    """
    log_to_stderr(options.settings.log_level)
    outbox = queue.SimpleQueue[object]()
    pipe = _Pipe(connection)
    sender = threading.Thread(target=_send, args=(pipe, outbox), name="sender", daemon=True)
    sender.start()
    loaded, ended = threading.Event(), threading.Event()
    _start_heartbeat(Loading, outbox, loaded)
    try:
        replica = _load(options, pipe, outbox)
    except BackboneUnavailable as error:
        outbox.put(LoadFailed(str(error)))
    else:
        loaded.set()
        _start_heartbeat(replica.figures, outbox, ended)
        _take_work(connection, replica, outbox)
        ended.set()
        replica.close(_CLOSE_SECONDS)
    outbox.put(None)
    sender.join(_CLOSE_SECONDS)
    logging.shutdown()
    os._exit(0)  # a step that is still running must not be waited for, nor torn down halfway


def _load(options: WorkerOptions, pipe: _Pipe, outbox: queue.SimpleQueue[object]) -> Replica:
    from m2n2_backend.backbones.registry import device_name  # here, because it loads PyTorch, which may take a while
    from m2n2_backend.worker.replica.steps import BROKEN, load_replica

    def leave() -> None:
        sys.stderr.flush()
        os._exit(BROKEN)

    # Straight to the pipe: the web process must know what a step is about before the step can end this process.
    replica = load_replica(options, report=pipe.send, on_broken=leave)
    backbone = replica.engine.backbone
    outbox.put(Ready(backbone.fingerprint, backbone.description, device_name(backbone.device), replica.figures()))
    return replica


def _take_work(connection: Connection, replica: Replica, outbox: queue.SimpleQueue[object]) -> None:
    try:
        while (message := connection.recv()) is not None:
            number, work = message

            def answer(future: Future[Reply], number: int = number) -> None:
                outbox.put((number, future.result()))

            replica.submit(work).add_done_callback(answer)
    except (EOFError, OSError):
        pass  # the web process is gone


class _Pipe:
    """The writing end; threads share it. Messages are dropped when the other side is gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock, suppress(OSError):
            self._connection.send(message)


def _send(pipe: _Pipe, outbox: queue.SimpleQueue[object]) -> None:
    """Body of the thread that sends replies, so that large ones do not hold up the model's thread."""
    while (message := outbox.get()) is not None:
        pipe.send(message)


def _start_heartbeat(message: Callable[[], object], outbox: queue.SimpleQueue[object], over: threading.Event) -> None:
    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            outbox.put(message())

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
