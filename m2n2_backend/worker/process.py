"""Body of a worker process: it owns one device, the model on it and the caches, and does one thing at a time."""

from __future__ import annotations

import logging
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numba
import torch

from m2n2_backend.backbones.quiet import quiet_downloads
from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.errors import M2N2Error
from m2n2_backend.worker.engine import Engine
from m2n2_backend.worker.messages import Done, LoadFailed, Ready, Reply, Work
from m2n2_backend.worker.options import WorkerOptions

logger = logging.getLogger(__name__)

BROKEN = 70
"""Exit status of a worker whose device cannot be used any more."""


def run(connection: Connection, options: WorkerOptions) -> None:
    """Load the model, tell so, then answer ``Work`` with ``Reply`` until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the web process decides
    settings = options.settings
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    quiet_downloads()
    _limit_threads(settings.threads, options.share)
    try:
        backbone = backbone_loader(settings, options.device)()
        engine = Engine(backbone, settings)
        engine.warm_up()
    except M2N2Error as error:
        connection.send(LoadFailed(str(error)))
        return
    except Exception as error:
        # Whatever a library raises here has to end in /health's answer.
        logger.exception("the model cannot be loaded")
        cause = " ".join(str(error).split())
        connection.send(LoadFailed(f"the model cannot be loaded: {type(error).__name__}: {cause}"))
        return
    ready = Ready(
        backbone.fingerprint, backbone.description, _name(backbone.device), _like(backbone.device), engine.tiers
    )
    try:
        connection.send(ready)
        while (work := connection.recv()) is not None:
            result = _do(engine, work)
            connection.send(Reply(result, engine.tiers, resident_bytes()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the web process is gone


def _do(engine: Engine, work: Work) -> Done | Exception:
    try:
        if work.prompts is None:
            return Done(None, (0, 0), 0.0, engine.prefetch(work.image))
        result, timings = engine.segment(work.image, work.prompts)
        return Done.of(result.mask, result.score, timings)
    except M2N2Error as error:
        return error
    except Exception as error:
        logger.exception("internal error in the model worker")
        if _is_device_broken(error):
            # No later call on this device can succeed; a new process gets a new context.
            sys.stderr.flush()
            os._exit(BROKEN)
        return RuntimeError(f"{type(error).__name__} in the model worker: {error}")


def _is_device_broken(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _limit_threads(threads: int | None, share: float) -> None:
    wanted = threads or max(1, int((os.cpu_count() or 1) * share))
    torch.set_num_threads(wanted)
    numba.set_num_threads(min(wanted, numba.config.NUMBA_NUM_THREADS))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _like(device: torch.device) -> tuple[str, ...]:
    """All devices of the same kind, this one first where it was not named by a number."""
    if device.type != "cuda":
        return (str(device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, of this one by default; 0 where the system does not tell."""
    try:
        statm = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
