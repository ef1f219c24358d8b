"""A Ray cluster of one machine for tests: small, private, and gone afterwards."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
OBJECT_STORE_BYTES = 200 * 1024**2


@contextmanager
def ray_machine(cpus: int) -> Iterator[ModuleType]:
    """Ray, started in this process; replicas can import what lies beside this file."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    from m2n2_backend.worker.cluster.connection import import_ray

    ray = import_ray()
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        yield ray
    finally:
        ray.serve.shutdown()
        ray.shutdown()
