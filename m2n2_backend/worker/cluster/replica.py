"""What runs in the Ray cluster: a replica in an actor, and how it gets there."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.logs import log_to_stderr
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.cluster.board import Report, board
from m2n2_backend.worker.cluster.claims import BoardClaims
from m2n2_backend.worker.cluster.connection import connect, import_ray
from m2n2_backend.worker.cluster.deployment import Size, application_name, bound
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import Reply
from m2n2_backend.worker.options import WorkerOptions, load

if TYPE_CHECKING:
    from m2n2_backend.m2n2.paper.attention import Backbone

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Time between two reports of a replica."""

_ANSWER_SECONDS = 5.0


class RayReplica:
    """A :class:`~m2n2_backend.worker.replica.steps.Replica` in an actor of Ray Serve."""

    def __init__(self, options: WorkerOptions) -> None:
        """Load the model.

        Raises:
            BackboneUnavailable: The model cannot be loaded; the message names cause and cure.
        """
        ray = import_ray()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from m2n2_backend.backbones.registry import device_name  # here, as both load PyTorch
        from m2n2_backend.logs import quiet_downloads
        from m2n2_backend.worker.replica.steps import BROKEN, load_replica

        log_to_stderr(options.settings.log_level)
        quiet_downloads()
        actor = str(ray.get_runtime_context().get_actor_id())
        self._claims = BoardClaims(actor)
        # `on_broken` ends the actor: what is under way goes to the successor, and Ray starts another actor.
        self._replica = load_replica(options, claims=self._claims, on_broken=lambda: os._exit(BROKEN))
        backbone = self._replica.engine.backbone
        context = ray.serve.get_replica_context()
        self._fingerprint = backbone.fingerprint
        self._identity: dict[str, Any] = {
            "application": context.app_name,
            "replica": context.replica_id.unique_id,
            "actor": actor,
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "fingerprint": backbone.fingerprint,
            "backbone": backbone.description,
            "device": device_name(backbone.device),
        }
        self._closed = threading.Event()
        threading.Thread(target=self._report_all, name="reports", daemon=True).start()

    async def submit(self, work: Work) -> tuple[Reply, str]:
        """Do work; returns the reply, errors as values, and the fingerprint of the backbone."""
        reply = await asyncio.wrap_future(self._replica.submit(work))
        return reply, self._fingerprint

    def check_health(self) -> None:
        """Serve calls this, and replaces a replica that raises or does not answer.

        Raises:
            BackboneUnavailable: The device is broken, or a step hangs.
        """
        figures = self._replica.figures()
        if self._replica.broken:
            raise BackboneUnavailable("the device cannot be used any more")
        if figures.age > figures.hang_seconds:
            raise BackboneUnavailable(f"a step of the model has been running for {figures.age:.0f} s")

    def __del__(self) -> None:
        """Serve calls this when the replica is no longer needed and nothing is under way."""
        if hasattr(self, "_closed"):
            self._closed.set()
            self._replica.close()

    def _report_all(self) -> None:
        """Body of a thread: tell the board how the replica is, for as long as it lives."""
        ray = import_ray()
        where = None
        while True:
            try:
                where = where or board()
                if self._closed.is_set():
                    where.remove.remote(self._identity["actor"])
                    return
                report = Report(**self._identity, figures=self._replica.figures())
                ray.get(where.put.remote(report), timeout=_ANSWER_SECONDS)
            except Exception as error:  # whatever Ray raises while its head is away
                where = None
                logger.warning("figures cannot be reported: %s", type(error).__name__)
            self._claims.board = where
            self._closed.wait(REPORT_SECONDS)


def deploy(settings: Settings, size: Size, load: Callable[[Settings, str], Backbone] = load) -> str:
    """Deploy these settings beside what is there, or change the number of replicas; returns the name at once.

    ``load`` makes the backbone from settings and device; every node must be able to import it.
    """
    ray = connect(settings.ray_address)
    name = application_name(settings)
    ray.serve.start(proxy_location="Disabled")  # without HTTP of Serve's own, handles are the only way in
    ray.serve.run_many(
        [ray.serve.RunTarget(bound(RayReplica, settings, size, load), name=name, route_prefix=None)],
        wait_for_applications_running=False,
    )
    return name


def application(args: Mapping[str, str]) -> Any:
    """The application that a configuration file of Ray Serve, such as ``docker/rayservice.yaml``, names.

    Args:
        args: Fields of :class:`~m2n2_backend.worker.cluster.deployment.Size`; the settings come from the environment.

    Raises:
        SettingsError: A setting is unknown or out of its range.
    """
    kinds = {"replicas": int, "most": int, "gpus": float, "cpus": float}
    size = Size(**{name: kinds[name](value) for name, value in args.items()})
    return bound(RayReplica, load_settings(), size)
