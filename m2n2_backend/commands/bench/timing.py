"""Milliseconds, on any device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch


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


def settle(device: torch.device) -> None:
    """Wait for what the device has in work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
