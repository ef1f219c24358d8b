"""The cache tier on disk: what is read back, and all that may happen to its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from repository import SUPPORT

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.store import disk
from m2n2_backend.worker.store.disk import DiskCache, pack, unpack

LIMIT = 10**8


def encoded(seed: int = 0, cells: int = 6) -> EncodedImage:
    generator = torch.Generator().manual_seed(seed)
    blocks = tuple(
        AttentionBlock(
            torch.randn(2, cells * cells, 4, generator=generator).half(),
            torch.randn(2, cells * cells, 4, generator=generator).half(),
            0.5,
            weight,
            torch.randn(2, 3, 4, generator=generator).half() if weight == 0.75 else None,
        )
        for weight in (0.25, 0.75)
    )
    guide = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return EncodedImage((300, 400), AttentionFeatures(blocks, cells, cells), guide)


def same(one: EncodedImage, other: EncodedImage) -> bool:
    blocks = zip(one.features.blocks, other.features.blocks, strict=True)
    return (
        (one.size, one.features.height, one.features.width)
        == (other.size, other.features.height, other.features.width)
        and np.array_equal(one.guide, other.guide)
        and all(
            torch.equal(a.queries, b.queries)
            and torch.equal(a.keys, b.keys)
            and (a.special is None) == (b.special is None)
            and (a.special is None or torch.equal(a.special, b.special))
            and (a.scale, a.weight) == (b.scale, b.weight)
            for a, b in blocks
        )
    )


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache", "model 1", LIMIT)


def test_what_was_put_is_got_back_bit_for_bit_also_by_another_process(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("aa11", encoded())

    found = DiskCache(tmp_path / "cache", "model 1", LIMIT).get("aa11")

    assert found is not None
    assert same(found, encoded())
    assert found.features.blocks[0].queries.dtype == torch.float16


def test_another_model_or_another_image_is_a_miss(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("aa11", encoded())

    assert DiskCache(tmp_path / "cache", "model 2", LIMIT).get("aa11") is None
    assert cache.get("aa12") is None
    assert cache.misses == 1


def damages() -> Iterator[tuple[str, object]]:
    yield "cut in half", lambda data: data[: len(data) // 2]
    yield "empty", lambda _: b""
    yield "overwritten with zeros", lambda data: bytes(len(data))
    yield "one bit of the contents", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    yield "one digit of the header", lambda data: data.replace(b"0.25", b"0.35")
    yield "a huge header", lambda data: b"\xff" * 8 + data[8:]
    yield "text", lambda _: b"<html>not found</html>"


@pytest.mark.parametrize(("name", "damage"), list(damages()), ids=[name for name, _ in damages()])
def test_a_damaged_file_is_removed_and_counts_as_absent(name: str, damage, cache: DiskCache) -> None:  # noqa: ANN001
    cache.put("aa11", encoded())
    path = cache.path("aa11")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole

    assert cache.get("aa11") is None
    assert cache.health.damaged == 1
    assert not path.exists()
    assert cache.put("aa11", encoded())
    assert cache.get("aa11") is not None


def test_a_file_under_another_images_name_is_not_believed(cache: DiskCache) -> None:
    cache.put("aa11", encoded())
    cache.path("aa22").parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(cache.path("aa11"), cache.path("aa22"))

    assert cache.get("aa22") is None
    assert cache.get("aa11") is not None


def test_the_least_recently_used_files_go_first(tmp_path: Path) -> None:
    size = len(pack(encoded(), "k0", "model 1"))
    cache = DiskCache(tmp_path, "model 1", 4 * size)
    for index in range(4):
        cache.put(f"k{index}", encoded(index))
        os.utime(cache.path(f"k{index}"), (index, index))
    cache.get("k0")

    cache.put("k4", encoded(4))

    assert "k0" in cache
    assert "k1" not in cache
    assert "k4" in cache
    assert cache.nbytes <= 4 * size
    assert cache.evictions >= 1


def test_the_limit_is_for_all_models_together(tmp_path: Path) -> None:
    size = len(pack(encoded(), "k0", "model 1"))
    old = DiskCache(tmp_path, "model 1", 3 * size)
    for index in range(3):
        old.put(f"k{index}", encoded(index))
        os.utime(old.path(f"k{index}"), (index, index))

    new = DiskCache(tmp_path, "model 2", 3 * size)
    new.put("k9", encoded(9))

    assert "k9" in new
    assert "k0" not in old
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 3 * size


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", "model 1", 0)

    assert not cache.put("aa11", encoded())
    assert cache.get("aa11") is None
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_made_turns_the_tier_off_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = DiskCache(tmp_path / "cache", "model 1", LIMIT)

    assert not cache.put("aa11", encoded())
    assert not cache.put("aa12", encoded())
    assert cache.get("aa11") is None
    assert cache.health.paused
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1

    (tmp_path / "cache").unlink()
    later = time.monotonic() + disk.PAUSE_SECONDS + 1
    monkeypatch.setattr(disk.time, "monotonic", lambda: later)
    assert cache.put("aa11", encoded())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_loses_nothing_but_the_write(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "from pathlib import Path; from test_disk_cache import *\n"
        "cache = DiskCache(Path(sys.argv[1]), 'model 1', LIMIT)\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for index in range(50): cache.put(f'k{index}', encoded(index))\n"
    )
    folders = [str(Path(__file__).parent), str(SUPPORT)]
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *folders], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        writer.stdout.readline()
        reader = DiskCache(tmp_path, "model 1", LIMIT)
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


def test_temporary_files_of_dead_processes_are_swept_up(cache: DiskCache) -> None:
    cache.put("aa11", encoded())
    lost = cache.path("aa11").with_name(".aa99.1.tmp")
    lost.write_bytes(b"half")
    os.utime(lost, (1, 1))
    young = cache.path("aa11").with_name(".aa98.1.tmp")
    young.write_bytes(b"half")

    fresh = DiskCache(cache.path("aa11").parents[2], "model 1", LIMIT)
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
        assert DiskCache(tmp_path, "model 1", LIMIT).put("aa11", encoded())

    assert len(set(names)) == 2


def test_what_is_on_disk_is_counted_from_the_start_and_a_rewritten_file_once(tmp_path: Path) -> None:
    first = DiskCache(tmp_path, "model 1", LIMIT)
    for key in ("aa11", "aa12", "aa11"):
        first.put(key, encoded())
    later = DiskCache(tmp_path, "model 1", LIMIT)

    held = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert (len(first), first.nbytes) == (len(later), later.nbytes) == (2, held)


def test_servers_of_two_versions_leave_each_others_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = DiskCache(tmp_path, "model 1", LIMIT)
    old.put("aa11", encoded())
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_FORMAT", "m2n2-encoded-2")
        new = DiskCache(tmp_path, "model 1", LIMIT)
        assert new.get("aa11") is None
        new.put("aa11", encoded(1))
        assert new.get("aa11") is not None

    assert old.get("aa11") is not None
    assert (old.health.damaged, new.health.damaged) == (0, 0)
