"""How many CPU cores this process may use: a container's share, not the machine's."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores by the scheduler's affinity and the control groups' quota; at least 1.

    Args:
        cgroups: Where the control groups are mounted.
        own: File that names this process's group.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(_quota(cgroups, own))))


def _quota(cgroups: Path, own: Path) -> float:
    """Cores that this process's group and all groups above it may use: the least of their quotas."""
    least = float(os.cpu_count() or 1)
    names = [Path()]
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            name = Path(line.rpartition(":")[2].lstrip("/"))
            names += [name, *name.parents]
    for name in names:
        with suppress(OSError, ValueError):  # version 2: "max 100000" or "150000 100000"
            limit, period = (cgroups / name / "cpu.max").read_text(encoding="ascii").split()
            least = min(least, int(limit) / int(period))
        with suppress(OSError, ValueError):  # version 1: -1 for no limit
            folder = cgroups / "cpu" / name
            limit, period = ((folder / f"cpu.cfs_{what}_us").read_text("ascii") for what in ("quota", "period"))
            least = min(least, int(limit) / int(period) if int(limit) > 0 else least)
    return least
