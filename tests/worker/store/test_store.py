"""What holds for every store of features: a cache of one machine, a folder, memory, a bucket (with moto and s3fs)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from stored_features import LIMIT, SharedBoard, cache_in, encoded, same

from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.store.features import FeatureStore
from m2n2_backend.worker.store.files import Files, FolderFiles, open_files, within
from m2n2_backend.worker.store.format import pack
from m2n2_backend.worker.store.health import LOCAL, SHARED, Terms

KEY = "aa11"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    for module in ("moto", "s3fs"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; make cluster-test has it")
    from s3_server import s3_server

    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["cache", "folder", "memory", "bucket"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[], Files], Terms]:
    """Opens an empty place, which each test has to itself; and the terms that such places are used on."""
    address = {"memory": f"memory://{uuid.uuid4().hex}", "bucket": f"s3://features/{uuid.uuid4().hex}"}
    if request.param == "bucket":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("endpoint"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if request.param == "cache":
        return lambda: FolderFiles(tmp_path / "store"), LOCAL
    return lambda: open_files(address.get(request.param, str(tmp_path / "store"))), SHARED


@pytest.fixture
def files(place: tuple[Callable[[], Files], Terms]) -> Files:
    return place[0]()


@pytest.fixture
def open_store(place: tuple[Callable[[], Files], Terms]) -> Callable[..., FeatureStore]:
    """Opens stores as replicas on machines of their own would, in one cluster."""
    (open_place, terms), shared = place, SharedBoard()

    def open_one(fingerprint: str = "model 1", limit: int = LIMIT) -> FeatureStore:
        claims = shared.claims(uuid.uuid4().hex)
        return FeatureStore(open_place(), fingerprint, limit, terms=terms, claims=claims)

    return open_one


Open = Callable[..., FeatureStore]


def obtain(store: FeatureStore, key: str, encode: Callable[[], EncodedImage]) -> EncodedImage:
    """As a worker does it."""
    found = store.claim(key)
    if found is None:
        try:
            found = encode()
        except BaseException:
            store.abandon(key)
            raise
        store.put(key, found)
    return found


def never() -> EncodedImage:
    raise AssertionError("the model was not to run")


def test_what_one_replica_encoded_another_one_reads_bit_for_bit(open_store: Open) -> None:
    one, other = open_store(), open_store()
    obtain(one, KEY, lambda: encoded(3))

    found = obtain(other, KEY, never)
    assert same(found, encoded(3))
    assert found.features.blocks[0].queries.dtype == torch.float16
    assert KEY in other
    assert (one.misses, other.hits) == (1, 1)


def test_another_model_or_another_image_is_a_miss(open_store: Open) -> None:
    one, other = open_store("model 1"), open_store("model 2")
    one.put(KEY, encoded())

    assert other.get(KEY) is None
    assert KEY not in other
    assert one.get("aa12") is None
    assert one.misses == 1


def damages() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    yield "cut in half", lambda data: data[: len(data) // 2]
    yield "empty", lambda _: b""
    yield "overwritten with zeros", lambda data: bytes(len(data))
    yield "another end", lambda data: data[:-3] + b"abc"
    yield "one bit of the contents", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    yield "one digit of the header", lambda data: data.replace(b"0.25", b"0.35")
    yield "a huge header", lambda data: b"\xff" * 8 + data[8:]
    yield "text", lambda _: b"<html>not found</html>"


@pytest.mark.parametrize(("name", "damage"), list(damages()), ids=[name for name, _ in damages()])
def test_a_damaged_file_is_removed_counts_as_absent_and_is_replaced(
    name: str, damage: Callable[[bytes], bytes], files: Files, open_store: Open
) -> None:
    one, other = open_store(), open_store()
    whole = pack(encoded(2), KEY, "model 1")
    files.write(one.name(KEY), damage(whole))
    assert files.read(one.name(KEY)) != whole

    assert one.get(KEY) is None
    assert one.health.damaged == 1
    assert not files.exists(one.name(KEY))
    assert same(obtain(one, KEY, lambda: encoded(2)), encoded(2))
    assert same(obtain(other, KEY, never), encoded(2))


def test_a_file_under_another_images_name_is_not_believed(files: Files, open_store: Open) -> None:
    store = open_store()
    store.put(KEY, encoded())
    files.write(store.name("aa22"), files.read(store.name(KEY)) or b"")

    assert store.get("aa22") is None
    assert store.get(KEY) is not None


def test_replicas_that_want_the_same_image_at_once_run_the_model_once(open_store: Open) -> None:
    stores = [open_store() for _ in range(4)]
    runs = []
    begin = threading.Barrier(4)

    def want(store: FeatureStore) -> bool:
        begin.wait(PATIENCE)
        return same(obtain(store, KEY, lambda: runs.append(1) or encoded(1)), encoded(1))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(want, stores))
    assert len(runs) == 1


def test_a_model_run_that_fails_lets_the_next_one_try(open_store: Open) -> None:
    one, other = open_store(), open_store()

    def fail() -> EncodedImage:
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        obtain(one, KEY, fail)
    assert same(obtain(other, KEY, encoded), encoded())


def test_a_claim_that_is_abandoned_passes_to_the_replica_that_waits(open_store: Open) -> None:
    one, other = open_store(), open_store()
    assert one.claim(KEY) is None

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.claim, KEY)
        one.abandon(KEY)
        assert waiting.result(PATIENCE) is None
    other.put(KEY, encoded(6))
    assert one.get(KEY) is not None


def test_a_replica_that_closes_leaves_its_images_to_others(open_store: Open) -> None:
    one, other = open_store(), open_store()
    assert one.claim(KEY) is None
    one.close()
    assert same(obtain(other, KEY, encoded), encoded())


def test_without_claims_an_image_that_two_machines_want_at_once_is_encoded_by_both(tmp_path: Path) -> None:
    one, other = (FeatureStore(FolderFiles(tmp_path), "model 1", LIMIT, terms=SHARED) for _ in range(2))
    assert one.claim(KEY) is None
    assert other.claim(KEY) is None
    assert one.put(KEY, encoded())
    assert other.put(KEY, encoded())
    assert same(obtain(one, KEY, never), encoded())


def test_the_limit_is_kept_for_all_models_together(files: Files, open_store: Open) -> None:
    size = len(pack(encoded(), KEY, "model 1"))
    old, new = open_store("model 1", 4 * size), open_store("model 2", 4 * size)
    for store in (old, new):
        for number in range(5):
            store.put(f"{number:04x}", encoded(number))

    held = [file for file in files.entries() if file.name.endswith(".safetensors")]
    assert sum(file.size for file in held) <= 4 * size
    assert new.get("0004") is not None, "the newest stays"
    assert old.evictions + new.evictions == 10 - len(held)


def test_nothing_is_kept_with_a_limit_of_zero(files: Files, open_store: Open, tmp_path: Path) -> None:
    store = open_store(limit=0)

    assert not store.put(KEY, encoded())
    assert same(obtain(store, KEY, encoded), encoded())
    assert store.get(KEY) is None
    assert KEY not in store
    assert files.entries() == []
    assert not (tmp_path / "store").exists()


def test_a_store_out_of_reach_costs_no_click_and_is_left_alone_for_a_while(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_bytes(b"")
    claims = SharedBoard().claims("one")
    store = FeatureStore(FolderFiles(blocked), "model 1", LIMIT, terms=SHARED, claims=claims)

    assert same(obtain(store, KEY, encoded), encoded())
    assert store.health.paused
    assert store.health.failures == 1, "it was asked once"
    assert same(obtain(store, "bb22", encoded), encoded())
    assert store.health.failures == 1


def test_a_network_that_does_not_answer_is_left_behind() -> None:
    silence = threading.Event()
    with pytest.raises(TimeoutError, match="no answer"):
        within(0.05, silence.wait)
    silence.set()


def test_a_shared_folder_holds_the_same_files_as_one_machines_cache(tmp_path: Path) -> None:
    FeatureStore(open_files(str(tmp_path)), "model 1", LIMIT, terms=SHARED).put(KEY, encoded(4))

    found = cache_in(tmp_path).get(KEY)
    assert found is not None
    assert same(found, encoded(4))


def test_files_of_earlier_versions_are_found_where_they_were(open_store: Open) -> None:
    assert open_store().name(KEY) == "15e889f42af82079/aa/aa11.safetensors"


def test_a_replica_that_is_killed_while_writing_leaves_no_half_file_under_the_images_name(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from m2n2_backend.worker.store.files import FolderFiles\n"
        "pathlib.Path.replace = lambda *_: os._exit(9)\n"
        "FolderFiles(pathlib.Path(sys.argv[1])).write('some/na/name.safetensors', b'x' * 1000)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    assert process.returncode == 9
    assert FolderFiles(tmp_path).read("some/na/name.safetensors") is None
    assert [file.name.endswith(".tmp") for file in FolderFiles(tmp_path).entries()] == [True]


def test_an_address_nothing_can_open_is_refused_with_the_settings_name() -> None:
    with pytest.raises(SettingsError, match="M2N2_STORE=nosuch://x"):
        open_files("nosuch://x")
