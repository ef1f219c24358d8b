"""The devices of this machine, found without using one in this process."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from m2n2_backend.worker.local.handle import end_process, spawned

LOOK_SECONDS = 300.0
"""A process that has not found them within this time has hung; it spends most of the time on importing PyTorch."""


def find_devices(name: str, *, seconds: float = LOOK_SECONDS) -> tuple[str, ...]:
    """All devices of a kind, such as ``("cuda:0", "cuda:1")``, by a process that ends with the answer.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seconds: Time after which the process is ended.

    Raises:
        BackboneUnavailable: The machine has no such device; the message names the cure.
        OSError: The process could not be started, or it hung or died.
    """
    if name == "cpu":
        return (name,)
    ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
    with ours:
        try:
            process = spawned(_tell, theirs, name)
        finally:
            theirs.close()
        try:
            if not ours.poll(seconds):
                raise TimeoutError(
                    f"the devices were not found within {seconds:.0f} s: see whether nvidia-smi answers"
                )
            found: tuple[str, ...] | Exception = ours.recv()
        except EOFError:
            raise OSError("the process that looks for devices died") from None
        finally:
            end_process(process)
    if isinstance(found, Exception):
        raise found
    return found


def _tell(connection: Connection, name: str) -> None:
    try:
        connection.send(_look(name))
    except Exception as error:
        connection.send(error)


def _look(name: str) -> tuple[str, ...]:
    import torch

    from m2n2_backend.backbones.registry import resolve_device

    device = resolve_device(name)
    if device.type != "cuda":
        return (str(device),)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
