"""What runs in the Ray cluster: a replica in an actor, and the board on which all replicas put their figures."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.logs import log_to_stderr
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.cluster.connection import NAMESPACE, import_ray
from m2n2_backend.worker.cluster.deployment import Size, bound
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import Figures, Reply
from m2n2_backend.worker.options import WorkerOptions

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Between two reports of a replica."""

FORGOTTEN_SECONDS = 60.0
"""After which a replica that reports no more is taken off the board."""

_BOARD = "board"
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Report:
    """A replica, and its figures of one moment.

    Attributes:
        application: Its generation.
        replica: Its id.
        node: Address of its machine.
        pid: Of its process there.
        fingerprint: Of the backbone.
        backbone: In words.
        device: In words.
        figures: Of the moment.
    """

    application: str
    replica: str
    node: str
    pid: int
    fingerprint: str
    backbone: str
    device: str
    figures: Figures


class Board:
    """The latest report of every replica. A handle cannot ask one replica, so they tell by themselves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[Report, float]] = {}

    def put(self, report: Report) -> None:
        """Take a replica's report in the place of its last one."""
        self._reports[report.replica] = report, self._clock()

    def remove(self, replica: str) -> None:
        """A replica that ends as it should says so."""
        self._reports.pop(replica, None)

    def read(self) -> list[tuple[Report, float]]:
        """All reports with their ages in seconds."""
        now = self._clock()
        self._reports = {
            replica: (report, at) for replica, (report, at) in self._reports.items() if now - at < FORGOTTEN_SECONDS
        }
        return [(report, now - at) for report, at in self._reports.values()]


def board() -> Any:
    """Ray's handle of the board, which is made where there is none."""
    ray = import_ray()
    options = {"name": _BOARD, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(Board).options(**options, num_cpus=0, max_restarts=-1).remote()


class RayReplica:
    """A :class:`~m2n2_backend.worker.replica.steps.Replica` in an actor of Ray Serve."""

    def __init__(self, options: WorkerOptions) -> None:
        """Load the model.

        Raises:
            BackboneUnavailable: It cannot be loaded; the message names cause and cure.
        """
        ray = import_ray()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from m2n2_backend.backbones.registry import device_name  # here, as both load PyTorch
        from m2n2_backend.logs import quiet_downloads
        from m2n2_backend.worker.replica.steps import BROKEN, load_replica

        log_to_stderr(options.settings.log_level)
        quiet_downloads()
        # Ends the actor: what is under way goes to the successor, and Ray starts another one with a fresh context.
        self._replica = load_replica(options, on_broken=lambda: os._exit(BROKEN))
        backbone = self._replica.engine.backbone
        context = ray.serve.get_replica_context()
        self._fingerprint = backbone.fingerprint
        self._identity: dict[str, Any] = {
            "application": context.app_name,
            "replica": context.replica_id.unique_id,
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "fingerprint": backbone.fingerprint,
            "backbone": backbone.description,
            "device": device_name(backbone.device),
        }
        self._closed = threading.Event()
        threading.Thread(target=self._report_all, name="reports", daemon=True).start()

    async def submit(self, work: Work) -> tuple[Reply, str]:
        """Do work.

        Returns:
            The reply, errors as values, and the fingerprint of the backbone.
        """
        reply = await asyncio.wrap_future(self._replica.submit(work))
        return reply, self._fingerprint

    def check_health(self) -> None:
        """Called by Serve, which puts another replica in the place of one that raises or does not answer.

        Raises:
            BackboneUnavailable: The device is broken, or a step has hung.
        """
        figures = self._replica.figures()
        if self._replica.broken:
            raise BackboneUnavailable("the device cannot be used any more")
        if figures.age > figures.hang_seconds:
            raise BackboneUnavailable(f"a step of the model has been running for {figures.age:.0f} s")

    def __del__(self) -> None:
        """Called by Serve when the replica is no longer needed and nothing is under way."""
        if hasattr(self, "_closed"):
            self._closed.set()
            self._replica.close()

    def _report_all(self) -> None:
        ray = import_ray()
        where = None
        while True:
            try:
                where = where or board()
                if self._closed.is_set():
                    where.remove.remote(self._identity["replica"])
                    return
                report = Report(**self._identity, figures=self._replica.figures())
                ray.get(where.put.remote(report), timeout=_ANSWER_SECONDS)
            except (
                Exception
            ) as error:  # whatever Ray raises while its head is away: without reports it counts as dead
                where = None
                logger.warning("figures cannot be reported: %s", type(error).__name__)
            self._closed.wait(REPORT_SECONDS)


def application(args: Mapping[str, str]) -> Any:
    """What a file of Ray Serve's, such as ``docker/rayservice.yaml``, names as its application.

    Args:
        args: Fields of :class:`~m2n2_backend.worker.cluster.deployment.Size`; the settings come from the environment.

    Raises:
        SettingsError: A setting is unknown or out of its range.
    """
    kinds = {"replicas": int, "most": int, "gpus": float, "cpus": float}
    size = Size(**{name: kinds[name](value) for name, value in args.items()})
    return bound(RayReplica, load_settings(), size)
