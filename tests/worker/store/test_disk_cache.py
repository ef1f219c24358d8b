"""The cache tier on disk: what it counts and evicts, and all that may happen to its folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import SUPPORT
from stored_features import cache_in, encoded

from m2n2_backend.worker.store import format as file_format
from m2n2_backend.worker.store.features import FeatureStore
from m2n2_backend.worker.store.format import pack, unpack
from m2n2_backend.worker.store.health import LOCAL


@pytest.fixture
def cache(tmp_path: Path) -> FeatureStore:
    return cache_in(tmp_path / "cache")


def test_the_least_recently_used_files_go_first(tmp_path: Path) -> None:
    size = len(pack(encoded(), "k0", "model 1"))
    cache = cache_in(tmp_path, "model 1", 4 * size)
    for index in range(4):
        cache.put(f"k{index}", encoded(index))
        os.utime(tmp_path / cache.name(f"k{index}"), (index, index))
    cache.get("k0")

    cache.put("k4", encoded(4))

    assert "k0" in cache
    assert "k1" not in cache
    assert "k4" in cache
    assert cache.nbytes <= 4 * size
    assert cache.evictions >= 1


def test_the_limit_is_for_all_models_together(tmp_path: Path) -> None:
    size = len(pack(encoded(), "k0", "model 1"))
    old = cache_in(tmp_path, "model 1", 3 * size)
    for index in range(3):
        old.put(f"k{index}", encoded(index))
        os.utime(tmp_path / old.name(f"k{index}"), (index, index))

    new = cache_in(tmp_path, "model 2", 3 * size)
    new.put("k9", encoded(9))

    assert "k9" in new
    assert "k0" not in old
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 3 * size


def test_a_folder_that_cannot_be_made_turns_the_tier_off_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: Callable[[float], None]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = cache_in(tmp_path / "cache")

    assert not cache.put("aa11", encoded())
    assert not cache.put("aa12", encoded())
    assert cache.get("aa11") is None
    assert cache.health.paused
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1

    (tmp_path / "cache").unlink()
    now(LOCAL.pause_seconds + 1)
    assert cache.put("aa11", encoded())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_loses_nothing_but_the_write(cache: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("aa11", encoded())
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: real(Path("/dev/full"), data))

    assert not cache.put("aa12", encoded())
    assert cache.health.paused
    assert cache.health.failures == 1
    assert cache.get("aa11") is not None


def test_no_half_written_file_is_ever_seen_although_the_writer_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from stored_features import *\n"
        "cache = cache_in(Path(sys.argv[1]))\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for index in range(50): cache.put(f'k{index}', encoded(index))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(SUPPORT)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        writer.stdout.readline()
        reader = cache_in(tmp_path)
        until = time.monotonic() + 60
        while reader.hits < 200 and time.monotonic() < until:
            for index in range(50):
                reader.get(f"k{index}")
        writer.kill()
        writer.wait()

    assert reader.hits >= 200
    assert reader.health.damaged == 0
    for path in tmp_path.rglob("*.safetensors"):
        unpack(path.read_bytes(), path.stem, "model 1")


def test_temporary_files_of_dead_processes_are_swept_up(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.put("aa11", encoded())
    path = tmp_path / cache.name("aa11")
    lost = path.with_name(".aa99.1.tmp")
    lost.write_bytes(b"half")
    os.utime(lost, (1, 1))
    young = path.with_name(".aa98.1.tmp")
    young.write_bytes(b"half")

    fresh = cache_in(tmp_path)
    fresh.put("aa12", encoded())

    assert not lost.exists()
    assert young.exists()


def test_two_containers_with_equal_process_ids_never_write_to_one_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    real = Path.write_bytes

    def note(self: Path, data: bytes) -> int:
        names.append(self.name)
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", note)
    for _ in range(2):
        assert cache_in(tmp_path).put("aa11", encoded())

    assert len(set(names)) == 2


def test_what_is_on_disk_is_counted_from_the_start_and_a_rewritten_file_once(tmp_path: Path) -> None:
    first = cache_in(tmp_path)
    for key in ("aa11", "aa12", "aa11"):
        first.put(key, encoded())
    later = cache_in(tmp_path)

    held = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert (len(first), first.nbytes) == (len(later), later.nbytes) == (2, held)


def test_servers_of_two_versions_leave_each_others_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cache_in(tmp_path)
    old.put("aa11", encoded())
    with monkeypatch.context() as patch:
        patch.setattr(file_format, "_FORMAT", "m2n2-encoded-2")
        new = cache_in(tmp_path)
        assert new.get("aa11") is None
        new.put("aa11", encoded(1))
        assert new.get("aa11") is not None

    assert old.get("aa11") is not None
    assert (old.health.damaged, new.health.damaged) == (0, 0)


def test_files_of_others_are_neither_counted_nor_removed(tmp_path: Path) -> None:
    own = len(pack(encoded(), "k0", "model 1"))
    others = [tmp_path / "weights.safetensors", tmp_path / "models" / "vit" / "weights.safetensors"]
    others[1].parent.mkdir(parents=True)
    for other in others:
        other.write_bytes(bytes(own))
        os.utime(other, (1, 1))
    cache = cache_in(tmp_path, limit=2 * own)
    for index in range(4):
        cache.put(f"k{index}", encoded(index))

    assert all(other.exists() for other in others)
    assert 0 < cache.nbytes <= 2 * own
