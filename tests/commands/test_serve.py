"""Which pool ``serve`` starts the server with."""

from __future__ import annotations

import pytest

from m2n2_backend.commands.serve import serve
from m2n2_backend.server import run
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.cluster import connection
from m2n2_backend.worker.cluster.pool import RayPool
from m2n2_backend.worker.local.pool import ProcessPool


@pytest.mark.parametrize(("cluster", "pool"), [(True, RayPool), (False, ProcessPool)])
def test_a_server_is_started_once_with_the_pool_that_is_asked_for(
    cluster: bool, pool: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Settings, object]] = []
    monkeypatch.setattr(run, "serve", lambda *given: started.append(given))
    monkeypatch.setattr(connection, "import_ray", lambda: None)
    settings = load_settings(backbone="color")

    serve(settings, cluster=cluster)

    assert started == [(settings, pool)]
