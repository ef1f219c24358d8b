"""How a process and a machine get into the Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from m2n2_backend.errors import ClusterUnavailable, SettingsError, one_line

NAMESPACE = "m2n2"

OBJECT_STORE_BYTES = 200 * 1024**2
"""Of a node: images on their way to a replica lie there, and nothing else."""

LOOPBACK = "127."
"""How addresses begin that no other machine can use; Ray's nodes have none of them."""


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
    # A node outlives this process, and so must not be in its group, which a terminal or systemd signals as a whole.
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
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
        cause = one_line(error)
        raise ClusterUnavailable(f"no Ray cluster at {address or 'this machine'}: {cause}") from error
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in the server's place
