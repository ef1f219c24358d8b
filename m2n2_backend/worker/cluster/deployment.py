"""How replicas are deployed in the Ray cluster, what is deployed there, and which of it serves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from m2n2_backend import __version__
from m2n2_backend.images import DECODING
from m2n2_backend.settings import Settings
from m2n2_backend.worker.cluster.connection import import_ray
from m2n2_backend.worker.options import WorkerOptions, load
from m2n2_backend.worker.replica.queue import PREFETCHES

if TYPE_CHECKING:
    from m2n2_backend.m2n2.paper.attention import Backbone

DEPLOYMENT = "replica"

_PREFIX = "m2n2-"
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Places of each replica on the ring. With the router's own 100, the busiest of eight replicas has a fifth more keys
# than its share; with 1000 it has 5 % more.
_RING_PLACES = 1000
_HEALTH_PERIOD_SECONDS, _HEALTH_TIMEOUT_SECONDS = 5.0, 30.0
_GRACE_SECONDS = 30.0
_LOAD_ATTEMPTS = 3  # for one replica, before a generation counts as failed


@dataclass(frozen=True)
class Size:
    """How much of a cluster a deployment asks for.

    Attributes:
        replicas: Number of replicas; the least number where they are scaled automatically.
        most: Replicas at the highest load; as many as ``replicas`` if None.
        gpus: GPUs of each replica; replicas with a fraction share one.
        cpus: CPUs of each replica, and its threads unless ``M2N2_THREADS`` says otherwise.
    """

    replicas: int = 1
    most: int | None = None
    gpus: float = 0.0
    cpus: float = 1.0


@dataclass(frozen=True)
class Deployed:
    """One generation of replicas, as Ray Serve describes it.

    Attributes:
        name: Name of Serve's application, which changes with whatever decides about masks.
        state: Serve's word, such as ``RUNNING``, ``DEPLOYING`` or ``DEPLOY_FAILED``.
        message: Cause of a failure, perhaps with a traceback; else empty or a remark.
        deployed_at: Seconds since the epoch.
        replicas: Number of replicas by their state, such as ``RUNNING`` or ``STARTING``.
    """

    name: str
    state: str
    message: str
    deployed_at: float
    replicas: Mapping[str, int]


def application_name(settings: Settings) -> str:
    """A name that changes with whatever decides about masks, so that a new generation stands beside the old one."""
    from m2n2_backend.backbones.registry import backbone_loader  # here, as it loads PyTorch

    loading = backbone_loader(settings)
    assert isinstance(loading, partial), "what a backbone is loaded with can be told"
    # The folder of the cache keeps the choice of a grid between two starts; it does not decide by itself.
    chosen = {name: value for name, value in loading.keywords.items() if name != "cache_dir"}
    text = repr([__version__, DECODING, asdict(settings.method()), loading.args, chosen])
    return _PREFIX + hashlib.sha256(text.encode()).hexdigest()[:8]


def bound(body: type, settings: Settings, size: Size, load: Callable[[Settings, str], Backbone] = load) -> Any:
    """Ray Serve's application of actors of class ``body``. Settings for web processes alone do not travel."""
    threads = settings.threads or max(1, int(size.cpus))
    options = WorkerOptions.of(
        settings.model_copy(update={"threads": threads}),
        settings.device,
        on_device=max(1, round(1 / size.gpus)) if 0 < size.gpus < 1 else 1,
        load=load,
    )
    return import_ray().serve.deployment(**_deployment_options(settings, size))(body).bind(options)


def deployed(ray: ModuleType) -> list[Deployed]:
    """All generations, the newest first; those of other projects in the same cluster are left out."""
    found = [
        Deployed(
            name,
            application.status.value,
            "\n".join([application.message, *(each.message for each in application.deployments.values())]),
            application.last_deployed_time_s,
            {
                str(state): number
                for deployment in application.deployments.values()
                for state, number in deployment.replica_states.items()
                if number
            },
        )
        for name, application in ray.serve.status().applications.items()
        if name.startswith(_PREFIX)
    ]
    return sorted(found, key=lambda each: -each.deployed_at)


def remove(ray: ModuleType, name: str) -> None:
    """Take a generation down; it may still finish what is under way."""
    ray.serve.delete(name)


def serving(generations: list[Deployed], before: str | None) -> Deployed | None:
    """The generation that answers clicks: the newest that is ready, until then the one that did before.

    Args:
        generations: What :func:`deployed` returns.
        before: Name of the generation that served last.

    Returns:
        None if no generation can answer.
    """
    able = [each for each in generations if each.replicas.get("RUNNING")]
    ready = [each for each in able if each.state == "RUNNING"]
    kept = [each for each in able if each.name == before]
    return next(iter([*ready, *kept, *able]), None)


def _deployment_options(settings: Settings, size: Size) -> dict[str, Any]:
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    most = size.most or size.replicas
    options: dict[str, Any] = {
        "name": DEPLOYMENT,
        "ray_actor_options": {"num_cpus": size.cpus, "num_gpus": size.gpus},
        # More than a replica's queue takes; the replica refuses what is too much. Otherwise requests would wait in
        # Ray's router, where none is superseded and a prefetch may stand before a click.
        "max_ongoing_requests": 4 * (settings.queue + PREFETCHES),
        # A busy replica keeps its images: another replica would have to prepare them once more.
        "request_router_config": RequestRouterConfig(
            request_router_class=_ROUTER,
            request_router_kwargs={"num_fallback_replicas": 0, "num_virtual_nodes": _RING_PLACES},
        ),
        "health_check_period_s": _HEALTH_PERIOD_SECONDS,
        "health_check_timeout_s": _HEALTH_TIMEOUT_SECONDS,
        "graceful_shutdown_timeout_s": _GRACE_SECONDS,
        "max_constructor_retry_count": _LOAD_ATTEMPTS,
    }
    if most > size.replicas:
        options["autoscaling_config"] = AutoscalingConfig(min_replicas=size.replicas, max_replicas=most)
    else:
        options["num_replicas"] = size.replicas
    return options
