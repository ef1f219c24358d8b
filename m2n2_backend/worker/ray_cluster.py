"""The Ray cluster: how it is reached, what is deployed there, and which of it serves."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from m2n2_backend import __version__
from m2n2_backend.errors import ClusterUnavailable, SettingsError
from m2n2_backend.settings import Settings
from m2n2_backend.worker.options import WorkerOptions, load
from m2n2_backend.worker.queue import PREFETCHES

if TYPE_CHECKING:
    from m2n2_backend.m2n2.attention import Backbone

NAMESPACE = "m2n2"
DEPLOYMENT = "replica"

OBJECT_STORE_BYTES = 200 * 1024**2
"""Of a node: images on their way to a replica lie there, and nothing else."""

LOOPBACK = "127."
"""How addresses begin that no other machine can use; Ray's nodes have none of them."""

_PREFIX = "m2n2-"
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
# Places of a replica on the ring. With the router's own 100 of eight replicas the busiest has a fifth more keys than
# its share, with these 5 % more.
_RING_PLACES = 1000
_HEALTH_PERIOD_SECONDS, _HEALTH_TIMEOUT_SECONDS = 5.0, 30.0
_GRACE_SECONDS = 30.0
_LOAD_ATTEMPTS = 3  # of one replica, before a generation counts as failed


@dataclass(frozen=True)
class Size:
    """How much of a cluster is asked for.

    Attributes:
        replicas: Of the model; the first number where they are scaled automatically.
        most: Replicas at the highest load; as many as ``replicas`` if None.
        gpus: Of each replica; a fraction shares one.
        cpus: Of each replica; also its threads, unless ``M2N2_THREADS`` says otherwise.
    """

    replicas: int = 1
    most: int | None = None
    gpus: float = 0.0
    cpus: float = 1.0


@dataclass(frozen=True)
class Deployed:
    """One generation of replicas, as Ray Serve describes it.

    Attributes:
        name: Of Serve's application: it tells the options apart that decide about masks.
        state: Serve's word, such as ``RUNNING``, ``DEPLOYING`` or ``DEPLOY_FAILED``.
        message: Of a failure, perhaps with a traceback; else empty or a remark.
        deployed_at: Seconds since the epoch.
        replicas: Number of replicas by their state, such as ``RUNNING`` or ``STARTING``.
    """

    name: str
    state: str
    message: str
    deployed_at: float
    replicas: Mapping[str, int]


def import_ray() -> ModuleType:
    """Ray with Ray Serve, token authentication on unless the environment says otherwise.

    Raises:
        SettingsError: It is not installed.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")  # a line for every request; there are files
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise SettingsError(f'a cluster needs Ray Serve ({error}): pip install "m2n2-backend[cluster]"') from error
    return ray  # type: ignore[no-any-return]


def connect(address: str | None) -> ModuleType:
    """Join the cluster; nothing is done where that has happened before.

    Where an address is given and no node of that cluster runs on this machine, one without CPUs and GPUs is started:
    nothing is computed here then, but Ray needs it. It stays; ``ray stop`` ends it.

    Args:
        address: Of the head; the cluster of this machine if None.

    Raises:
        SettingsError: Ray is not installed.
        ClusterUnavailable: There is no cluster, or it does not answer or refuses the token.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    if address is not None and not _node_runs_here(address):
        here = f"--node-ip-address={own_address(address)}"
        start_node([f"--address={address}", here, "--num-cpus=0", "--num-gpus=0"])
    _join(ray, address)
    return ray


def start_node(options: Sequence[str]) -> None:
    """Start a node of a cluster on this machine, in the background.

    Raises:
        ClusterUnavailable: It cannot be started; the message holds the last words of Ray.
    """
    _run_ray("start", *options, f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats")


def start_cluster(cpus: int) -> None:
    """Start a cluster of this machine alone, with a token if this user has none yet.

    Its ports are open to other machines, as Ray knows no other way; they answer to nobody without the token.

    Raises:
        ClusterUnavailable: It cannot be started.
    """
    _run_ray("get-auth-token", "--generate")
    start_node(["--head", "--include-dashboard=false", f"--num-cpus={cpus}"])


def _run_ray(*words: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).split())[-400:]
        raise ClusterUnavailable(f"`ray {words[0]}` fails here: {last}")


def own_address(head: str) -> str:
    """This machine's address as the head sees it: replicas send their answers there.

    Ray itself asks for the way to the internet; where there is none it takes an address that others may not reach,
    and a replica that cannot give its answer away hangs.

    Args:
        head: ``host:port``.

    Raises:
        ClusterUnavailable: It is none, or there is no way to it.
    """
    host, _, port = head.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise ClusterUnavailable(f"M2N2_RAY_ADDRESS={head} is no HOST:PORT that can be reached: {error}") from error


def _node_runs_here(address: str) -> bool:
    """Whether processes of this machine can join; another one tries it, as without a node Ray ends whoever does."""
    program = "import ast, ray, sys; ray.init(**ast.literal_eval(sys.argv[1]))"
    command = [sys.executable, "-c", program, repr(_joining(address))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _joining(address: str | None) -> dict[str, Any]:
    """How a process joins a cluster."""
    options = {
        "address": address or "auto",
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "configure_logging": False,
    }
    own = own_address(address) if address is not None else LOOPBACK
    return options if own.startswith(LOOPBACK) else {**options, "_node_ip_address": own}


def _join(ray: ModuleType, address: str | None) -> None:
    options = _joining(address)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if main else None
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ClusterUnavailable(f"no Ray cluster at {address or 'this machine'}: {cause}") from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in the server's place


def application_name(settings: Settings) -> str:
    """A name that changes with whatever decides about masks, so that a new generation stands beside the old one."""
    decisive = ("backbone", "model", "layers", "grid", "device", "working_size", "despeckle", "least_cells", "refine")
    text = repr([__version__, *(getattr(settings, name) for name in decisive)])
    return _PREFIX + hashlib.sha256(text.encode()).hexdigest()[:8]


def deploy(settings: Settings, size: Size, load: Callable[[Settings, str], Backbone] = load) -> str:
    """Deploy these settings beside what is there, or change the number of its replicas, and return at once.

    Args:
        settings: Of the replicas; what only web processes may know does not travel.
        size: Number of replicas and what each gets.
        load: Settings and device → backbone; a function that every node can import.

    Returns:
        The application's name.
    """
    ray = connect(settings.ray_address)
    from m2n2_backend.worker.ray_replica import RayReplica

    name = application_name(settings)
    ray.serve.start(proxy_location="Disabled")  # no HTTP of Serve's own: handles are the only way in
    ray.serve.run_many(
        [ray.serve.RunTarget(bound(RayReplica, settings, size, load), name=name, route_prefix=None)],
        wait_for_applications_running=False,
    )
    return name


def bound(body: type, settings: Settings, size: Size, load: Callable[[Settings, str], Backbone] = load) -> Any:
    """Ray Serve's application of these settings.

    Args:
        body: The class that is to live in the cluster.
        settings: Of the replicas; what only web processes may know does not travel.
        size: Number of replicas and what each gets.
        load: Settings and device → backbone.
    """
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
    """Take a generation down; what is under way there may end."""
    ray.serve.delete(name)


def serving(generations: list[Deployed], before: str | None) -> Deployed | None:
    """Who answers clicks: the newest generation that is ready, until then whoever did before; None if nobody can.

    Args:
        generations: As :func:`deployed` gives them.
        before: Name of the one that served last.
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
        # Beyond what a replica's queue takes, or requests would wait in Ray's router, where nothing is superseded and
        # a prefetch stands before a click; the replica refuses what is too much.
        "max_ongoing_requests": 4 * (settings.queue + PREFETCHES),
        # A busy replica's images stay with it: elsewhere they would be prepared once more.
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
