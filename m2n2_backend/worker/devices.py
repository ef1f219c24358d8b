"""Which devices there are, found without touching one in this process."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def find_devices(name: str) -> tuple[str, ...]:
    """All devices of a kind, such as ``("cuda:0", "cuda:1")``, by a process that ends with the answer.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BackboneUnavailable: There is none; the message names the cure.
        OSError: No process can be started.
        BrokenProcessPool: The process died over it.
    """
    if name == "cpu":
        return (name,)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as throwaway:
        return throwaway.submit(_look, name).result()


def _look(name: str) -> tuple[str, ...]:
    import torch

    from m2n2_backend.backbones.registry import resolve_device

    device = resolve_device(name)
    if device.type != "cuda":
        return (str(device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
