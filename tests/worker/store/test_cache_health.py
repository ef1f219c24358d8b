"""A cache that cannot be used is told to the operator at once, costs no click, and is used again when it can be."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from replica_rig import Rig, click, done
from stored_features import cache_in, encoded
from waiting import until

from m2n2_backend.worker.replica import disk_writer
from m2n2_backend.worker.store import health as cache_health
from m2n2_backend.worker.store.features import FeatureStore

WRITTEN = "images are encoded again after a restart"


@contextmanager
def a_file_in_its_place(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("not a folder")
    yield
    folder.unlink()


@contextmanager
def a_full_file_system(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if sys.platform != "linux" or mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    (folder / "filler").write_bytes(bytes(60_000))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def a_read_only_file_system(folder: Path) -> Iterator[None]:
    with a_full_file_system(folder):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield


@contextmanager
def a_limit_of_the_users(_folder: Path) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WAYS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file in its place": (a_file_in_its_place, "Not a directory"),
    "full": (a_full_file_system, "No space left on device"),
    "read-only": (a_read_only_file_system, "Read-only file system"),
    "a limit": (a_limit_of_the_users, "File too large"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_cannot_be_written_is_told_with_its_cause_until_it_can(
    way: str, tmp_path: Path, now: Callable[[float], None]
) -> None:
    break_it, cause = WAYS[way]
    cache = cache_in(tmp_path / "cache")
    assert cache.health.trouble is None

    with break_it(tmp_path / "cache"):
        assert not cache.put("aa11", encoded())
        told = str(cache.health.trouble)
        assert told.startswith(f"the cache in {tmp_path / 'cache'} cannot be written (")
        assert f"({cause})" in told
        assert time.strftime(" since %H:") in told
        assert told.endswith(WRITTEN)
        assert (cache.health.paused, cache.health.failures) == (True, 1)
        now(cache_health.TRY_SECONDS + 1)
        cache.try_again()
        assert str(cache.health.trouble) == told
        assert cache.health.paused
        cache.try_again()
        assert cache.health.failures == 2, "it is not tried at every look"

    now(cache_health.TRY_SECONDS + 1)
    cache.try_again()
    assert cache.health.trouble is None
    assert cache.put("aa11", encoded()), "the pause is over"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES])
def test_whatever_the_disk_says_costs_no_click_and_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: Callable[[float], None]
) -> None:
    cache = cache_in(tmp_path / "cache")
    cache.put("aa11", encoded())

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "read_bytes", "stat", "mkdir", "unlink", "is_file", "glob"):
            patch.setattr(Path, name, fail)
        assert cache.get("aa11") is None
        assert f"cannot be read ({os.strerror(number)})" in str(cache.health.trouble)
        assert not cache.health.paused
        assert not cache.put("aa12", encoded())
        assert f"cannot be written ({os.strerror(number)})" in str(cache.health.trouble)
        assert "aa11" not in cache
        again = cache_in(tmp_path / "cache")
        assert os.strerror(number) in str(again.health.trouble), "a worker starts all the same"

    now(cache_health.TRY_SECONDS + 1)
    cache.try_again()
    assert cache.health.trouble is None
    assert cache.get("aa11") is not None


def test_a_disk_with_room_for_a_little_is_not_taken_for_cured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: Callable[[float], None]
) -> None:
    cache, real = cache_in(tmp_path / "cache"), Path.write_bytes
    large = encoded(cells=200)

    def full(self: Path, data: bytes) -> int:
        if len(data) > 2 * 1024**2:
            real(self, data[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not cache.put("aa11", large)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024**2, before[1]))
    try:
        now(cache_health.TRY_SECONDS + 1)
        cache.try_again()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache.health.trouble is not None


def test_a_full_disk_is_noticed_before_the_first_image(tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    with a_file_in_its_place(tmp_path / "cache"):
        cache.try_again()
        assert "cannot be written" in str(cache.health.trouble)


def test_a_folder_that_is_removed_while_running_is_made_again(tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    cache.put("aa11", encoded())
    shutil.rmtree(tmp_path / "cache")

    assert cache.get("aa11") is None
    assert cache.put("aa11", encoded())
    assert cache.get("aa11") is not None
    assert cache.health.trouble is None


def test_files_that_cannot_be_removed_are_told_until_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: Callable[[float], None]
) -> None:
    cache = cache_in(tmp_path / "cache", limit=20_000)

    def fail(_: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        for number in range(4):
            cache.put(f"aa{number}", encoded(number))
        assert "cannot be cleaned up (Read-only file system)" in str(cache.health.trouble)
        now(cache_health.TRY_SECONDS + 1)
        cache.try_again()
        assert "cannot be cleaned up" in str(cache.health.trouble), "writing a file says nothing of it"
    now(1000)
    cache.put("aa9", encoded(9))
    assert cache.health.trouble is None
    assert cache.nbytes <= 20_000


def test_the_log_has_one_line_for_each_cause_and_one_for_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: Callable[[float], None]
) -> None:
    cache = cache_in(tmp_path / "cache")
    with a_file_in_its_place(tmp_path / "cache"):
        for number in range(5):
            cache.put(f"aa{number}", encoded())
            now(cache_health.TRY_SECONDS + 1)
            cache.try_again()
    now(cache_health.TRY_SECONDS + 1)
    cache.try_again()
    lines = [record.message for record in caplog.records]
    assert len([line for line in lines if "cannot be written" in line]) == 1
    assert lines[-1] == f"the cache in {tmp_path / 'cache'} works again"


def test_a_worker_notices_a_full_disk_by_itself_and_its_cure_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cache_health, disk_writer):
        monkeypatch.setattr(module, "TRY_SECONDS", 0.02)
    folder = tmp_path / "images"
    folder.write_text("not a folder")
    rig = Rig(tmp_path)
    until(lambda: rig.replica.figures().tiers["disk"].troubled)
    assert done(rig.replica.submit(click(1))).mask is not None
    told = rig.replica.figures().tiers["disk"]
    assert f"the cache in {folder} cannot be written (Not a directory)" in str(told.trouble)
    assert told.failures > 0
    assert told.paused

    folder.unlink()
    until(lambda: not rig.replica.figures().tiers["disk"].troubled)
    done(rig.replica.submit(click(2)))
    rig.replica.close()
    assert len(rig.engine.disk) == 1


def test_a_disk_that_is_too_slow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, gate = Rig(tmp_path), threading.Event()
    write = FeatureStore.put
    monkeypatch.setattr(FeatureStore, "put", lambda *arguments: gate.wait(120) and write(*arguments))
    for number in range(disk_writer.WRITES_WAITING + 2):
        done(rig.replica.submit(click(number)))
    assert "cannot be written (too slow: 8 images wait)" in str(rig.replica.figures().tiers["disk"].trouble)
    gate.set()
    until(lambda: not rig.replica.figures().tiers["disk"].troubled)
    rig.replica.close()
