"""What is told of caches that cannot be used: a shared store, workers of one folder, machines of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from label_studio_fakes import CountingMedia, DiscPool, settings
from stored_features import LIMIT, encoded

from m2n2_backend.server.app import create_app
from m2n2_backend.worker.figures import Figures, Tier, Trouble, WorkerStats, cache_troubles
from m2n2_backend.worker.store import health as cache_health
from m2n2_backend.worker.store.features import FeatureStore
from m2n2_backend.worker.store.files import Files, FolderFiles, open_files
from m2n2_backend.worker.store.health import SHARED

WRITTEN = "images are encoded again after a restart"


class Bucket(FolderFiles):
    """A store whose service can be taken away, and whose rights can be taken back."""

    reachable = writable = True

    def exists(self, name: str) -> bool:
        self._require(self.reachable, "EndpointConnectionError: could not connect")
        return super().exists(name)

    def read(self, name: str) -> bytes | None:
        self._require(self.reachable, "EndpointConnectionError: could not connect")
        return super().read(name)

    def write(self, name: str, data: bytes) -> int | None:
        self._require_writable()
        return super().write(name, data)

    def try_out(self, size: int) -> None:
        self._require_writable()
        super().try_out(size)

    def _require_writable(self) -> None:
        self._require(self.reachable, "EndpointConnectionError: could not connect")
        self._require(self.writable, "ClientError: AccessDenied")

    @staticmethod
    def _require(allowed: bool, cause: str) -> None:
        if not allowed:
            raise OSError(cause)


def shared(files: Files) -> FeatureStore:
    return FeatureStore(files, "model 1", LIMIT, terms=SHARED)


def test_a_store_out_of_reach_is_told_until_it_is_back(tmp_path: Path, now: Callable[[float], None]) -> None:
    files = Bucket(tmp_path)
    store = shared(files)
    files.reachable = False
    assert store.get("aa11") is None
    told = str(store.health.trouble)
    assert told.startswith(f"the store {tmp_path} cannot be reached (EndpointConnectionError: could not connect)")
    assert told.endswith("images are encoded without it")

    now(cache_health.TRY_SECONDS + 1)
    store.try_again()
    assert store.health.paused
    files.reachable = True
    now(cache_health.TRY_SECONDS + 1)
    store.try_again()
    assert store.health.trouble is None
    assert store.put("aa11", encoded())
    assert [entry.name.endswith(".safetensors") for entry in files.entries()] == [True]
    store.close()
    assert not [entry.name for entry in files.entries() if "try" in entry.name]


def test_a_store_that_may_only_be_read_is_told_and_read(tmp_path: Path, now: Callable[[float], None]) -> None:
    writer = shared(FolderFiles(tmp_path))
    writer.put("aa11", encoded())
    writer.close()
    files = Bucket(tmp_path)
    files.writable = False
    store = shared(files)
    store.try_again()

    assert "cannot be written (ClientError: AccessDenied)" in str(store.health.trouble)
    assert store.get("aa11") is not None
    now(SHARED.pause_seconds + 1)
    assert not store.put("bb22", encoded())
    assert store.health.paused
    assert store.get("aa11") is not None


def test_the_password_in_a_stores_address_is_told_to_nobody() -> None:
    store = shared(open_files("memory://me:secret-word@host/x"))
    store.health.failed("reached", OSError("no route"))
    assert "secret-word" not in str(store.health.trouble)


def worker(trouble: Trouble | None, *, alive: bool = True, node: str = "") -> WorkerStats:
    tiers = {"disk": Tier(0, 10 * 1024**3, 0, 0, 0, 0, failures=3, damaged=2, paused=True, trouble=trouble)}
    return WorkerStats("paper", alive, Figures(tiers=tiers), name=node, node=node)


FULL = Trouble("the cache in /x cannot be written (No space left on device)", WRITTEN, 2000.0)


def test_workers_that_share_a_folder_are_told_of_once_with_the_earliest_time() -> None:
    later, other = replace(FULL, since=7000.0), replace(FULL, what="the store s3://x cannot be reached (none)")
    assert cache_troubles([worker(None), worker(None)]) == ""
    assert cache_troubles([worker(later), worker(FULL), worker(None)]) == str(FULL)
    assert cache_troubles([worker(FULL), worker(other)]) == f"{FULL}; {other}"
    assert cache_troubles([worker(FULL, alive=False), worker(None)]) == "", "a dead worker's cache may be well by now"


def test_the_machines_of_a_cluster_are_named_where_others_are_well() -> None:
    one, two = worker(FULL, node="10.0.0.1"), worker(FULL, node="10.0.0.2")
    assert cache_troubles([one, two]) == str(FULL)
    assert cache_troubles([one, worker(None, node="10.0.0.3")]) == f"on 10.0.0.1 {FULL}"


def test_a_trouble_of_another_day_is_told_with_its_date() -> None:
    assert " since 1970-01-0" in str(FULL)
    assert f" since {time.strftime('%H:')}" in str(replace(FULL, since=time.time()))


class Troubled(DiscPool):
    def stats(self) -> list[WorkerStats]:
        return [worker(FULL), worker(replace(FULL, what="<b>the store</b> http://x?token=secret-word cannot"))]


def test_the_page_and_the_metrics_tell_of_a_cache_that_cannot_be_used() -> None:
    client = create_app(settings(), Troubled(), CountingMedia()).test_client()
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert f'3 failures, 2 damaged files: <span class="bad state">{FULL}</span>' in page
    assert "&lt;b&gt;the store" in page
    assert "secret-word" not in page
    metrics = client.get("/metrics").text
    for line in (
        'm2n2_cache_failures_total{tier="disk",worker="0"} 3.0',
        'm2n2_cache_damaged_total{tier="disk",worker="1"} 2.0',
        'm2n2_cache_paused{tier="disk",worker="0"} 1.0',
        'm2n2_cache_troubled{tier="disk",worker="1"} 1.0',
    ):
        assert line in metrics
