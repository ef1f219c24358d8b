"""What a worker process is started with."""

from __future__ import annotations

from dataclasses import dataclass

from m2n2_backend.settings import Settings


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker is started with.

    Attributes:
        settings: Of the whole service.
        device: The worker's own, such as ``cuda:1``.
        share: Of the CPU's cores, in (0, 1].
    """

    settings: Settings
    device: str
    share: float = 1.0
