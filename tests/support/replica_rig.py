"""A replica without a process, on a model that can be held back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from faulty_backbone import PLAIN, FaultyBackbone, picture
from waiting import Clock

from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage, Work
from m2n2_backend.worker.messages import Done, InWork, Reply
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.steps import Replica
from m2n2_backend.worker.store.features import Claims

ONE = Prompts((Click(30, 22),))


TIMEOUT = 120  # seconds, which nothing here takes


def source(name: int, *, with_data: bool = True, color: tuple[int, int, int] | None = None) -> SourceImage:
    data = picture(color or (*PLAIN, name), tail=bytes([name]))
    image = SourceImage.of(data)
    return image if with_data else image.without_data()


def click(name: int, **fields: Any) -> Work:
    image = fields.pop("image", None) or source(name)
    return Work(image, fields.pop("prompts", ONE), fields.pop("seconds", 60.0), **fields)


def prefetch(name: int) -> Work:
    return Work(source(name), None)


def done(future: Future[Reply]) -> Done:
    result = future.result(TIMEOUT).result
    assert isinstance(result, Done), result
    return result


def error(future: Future[Reply]) -> Exception:
    result = future.result(TIMEOUT).result
    assert isinstance(result, Exception)
    return result


class Rig:
    """A replica on a model that can be held back."""

    def __init__(
        self, folder: Path, *, like_accelerator: bool = False, claims: Claims | None = None, **settings: Any
    ) -> None:
        self.backbone, self.clock = FaultyBackbone(), Clock()
        self.reported: list[InWork] = []
        self.broken = threading.Event()
        self.settings = load_settings(device="cpu", cache_dir=folder, **settings)
        self.engine = Engine(self.backbone, self.settings, claims)
        self.engine.warm_up()
        if like_accelerator:
            self.engine.memory.on_cpu, self.engine.memory.maps_limit = False, 2**30
        self.replica = Replica(
            self.engine,
            capacity=self.settings.queue,
            threads=1,
            report=self.reported.append,
            on_broken=self.broken.set,
            clock=self.clock,
        )

    @property
    def encoded(self) -> list[int]:
        """Names of the images that the model was run on, in their order."""
        return [blue for _, _, blue in self.backbone.calls]

    def held(self, work: Work) -> Future[Reply]:
        """Submit work whose image keeps the model busy until the gate opens."""
        self.backbone.gate.clear()
        future = self.replica.submit(work)
        assert self.backbone.entered.wait(TIMEOUT)
        return future

    def let_go(self, *futures: Future[Reply]) -> list[Done]:
        """Open the gate; returns what has become of work that waited."""
        self.backbone.gate.set()
        return [done(future) for future in futures]


Make = Callable[..., Rig]
