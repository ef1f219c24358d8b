"""Clocks, summaries and peak memory."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from m2n2_backend.settings import Settings

_PROC = Path("/proc/self")


def settle(device: torch.device) -> None:
    """Wait for everything that was queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Milliseconds of ``work``, with everything it queued on the device."""
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return (time.perf_counter() - start) * 1e3


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median": statistics.median(times), "p95": float(np.percentile(times, 95))}


def percentiles(times: Sequence[float], *ranks: int) -> dict[str, float]:
    """``p50`` and so on; empty where there are no times."""
    return {f"p{rank}": float(np.percentile(times, rank)) for rank in ranks} if times else {}


class PeakMemory:
    """The most memory held since this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with suppress(OSError):  # not Linux, or not allowed: then the peak is the process's, since its start
            (_PROC / "clear_refs").write_text("5", encoding="ascii")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def figures(self) -> dict[str, float | None]:
        """Peaks in MB (2^20 bytes): ``process_mb``, and on CUDA ``device_mb``; None where nothing tells."""
        cuda = self._device.type == "cuda"
        return {
            "process_mb": _resident_peak_mb(),
            "device_mb": torch.cuda.max_memory_allocated(self._device) / 1024**2 if cuda else None,
        }


@contextmanager
def worker_threads(settings: Settings) -> Iterator[int]:
    """As many threads for PyTorch as a single model process of the server takes; yields their number."""
    before = torch.get_num_threads()
    wanted = settings.threads or os.cpu_count() or 1
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)


def _resident_peak_mb() -> float | None:
    with suppress(OSError, ValueError):
        for line in (_PROC / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
