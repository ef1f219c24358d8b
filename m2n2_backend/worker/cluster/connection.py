"""How a process and a machine join the Ray cluster."""

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
"""Size of a node's object store, which holds nothing but images on their way to a replica."""

LOOPBACK = "127."
"""Start of addresses that no other machine can use, and that Ray's nodes therefore never have."""


def import_ray() -> ModuleType:
    """Ray with Ray Serve; token authentication is on unless the environment says otherwise.

    Raises:
        SettingsError: Ray is not installed.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")  # otherwise a line for every request; files have them too
    try:
        import ray
        import ray.serve
    except ImportError as error:
        raise SettingsError(f'a cluster needs Ray Serve ({error}): pip install ".[cluster]" in a checkout') from error
    return ray  # type: ignore[no-any-return]


def connect(address: str | None) -> ModuleType:
    """Join the cluster, unless this process has joined it before.

    Where an address is given and no node of that cluster runs on this machine, a node without CPUs and GPUs is
    started: nothing is computed here then, but Ray needs it. It stays until ``ray stop`` ends it.

    Args:
        address: Address of the head; None means the cluster of this machine.

    Raises:
        SettingsError: Ray is not installed.
        ClusterUnavailable: The cluster does not exist, does not answer, or refuses the token.
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
        ClusterUnavailable: The node cannot be started; the message ends with Ray's last output.
    """
    _run_ray("start", *options, f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats")


def start_cluster(cpus: int) -> None:
    """Start a cluster of this machine alone, and make a token if this user does not have one yet.

    Ray cannot keep its ports closed to other machines; they answer to nobody without the token.

    Raises:
        ClusterUnavailable: The cluster cannot be started.
    """
    _run_ray("get-auth-token", "--generate")
    start_node(["--head", "--include-dashboard=false", f"--num-cpus={cpus}"])


def _run_ray(*words: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    # A node outlives this process, so it must not be in the group that a terminal or systemd signals as a whole.
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).split())[-400:]
        raise ClusterUnavailable(f"`ray {words[0]}` fails here: {last}")


def own_address(head: str) -> str:
    """This machine's address as the head sees it: replicas send their answers there.

    Ray itself takes the address on the way to the internet. Without internet that may be one which other machines
    cannot reach, and a replica that cannot deliver its answer hangs.

    Args:
        head: ``host:port``.

    Raises:
        ClusterUnavailable: ``head`` is not an address, or cannot be reached.
    """
    host, _, port = head.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(where)  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise ClusterUnavailable(
            f"M2N2_RAY_ADDRESS={head} is not a HOST:PORT that can be reached: {error}"
        ) from error


def _node_runs_here(address: str) -> bool:
    """Whether processes of this machine can join. Another process tries it, because without a node Ray ends it."""
    program = "import ast, ray, sys; ray.init(**ast.literal_eval(sys.argv[1]))"
    command = [sys.executable, "-c", program, repr(_joining(address))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _joining(address: str | None) -> dict[str, Any]:
    """Arguments of ``ray.init`` with which a process joins a cluster."""
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
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced the server's own
