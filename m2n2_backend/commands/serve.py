"""``m2n2-backend serve``: everything that can fail is tried before the port is bound."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import Settings


def serve(settings: Settings, *, cluster: bool) -> None:
    """Serve Label Studio until a signal comes.

    Args:
        cluster: Whether the replicas of a Ray cluster are asked instead of models of this machine.

    Raises:
        SettingsError: gunicorn does not run on this system, or Ray is wanted and not installed.
        BackboneUnavailable: The weights of a named backbone are not on disk.
        SystemExit: Otherwise always.
    """
    if sys.platform == "win32" or find_spec("fcntl") is None:  # gunicorn, which watches the web process, needs it
        raise SettingsError(
            "m2n2-backend serve runs on Linux and macOS: on Windows, run it in Docker (docker/README.md) or in WSL 2"
        )
    if cluster:
        _serve_cluster(settings)
    else:
        _serve_models(settings)


def _serve_cluster(settings: Settings) -> None:
    from m2n2_backend.server.run import serve as run_server
    from m2n2_backend.worker.cluster.connection import import_ray
    from m2n2_backend.worker.cluster.pool import RayPool

    import_ray()
    run_server(settings, RayPool)


def _serve_models(settings: Settings) -> None:
    from m2n2_backend.backbones.weights.names import check_backbone
    from m2n2_backend.server.run import serve as run_server
    from m2n2_backend.worker.local.pool import ProcessPool

    check_backbone(settings.backbone, model=settings.model)
    run_server(settings, ProcessPool)
