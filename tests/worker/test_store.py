"""The tier of features that machines share: a folder, memory, and a bucket where moto and s3fs are installed."""

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
from test_disk_cache import encoded, same

from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.store.disk import DiskCache, pack
from m2n2_backend.worker.store.files import SharedFiles, within
from m2n2_backend.worker.store.leases import Leases
from m2n2_backend.worker.store.shared import SharedStore

LIMIT = 10**8
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


@pytest.fixture(params=["folder", "memory", "bucket"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of its own for each test."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("endpoint"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://features/{uuid.uuid4().hex}"


@pytest.fixture
def open_store(address: str) -> Iterator[Callable[..., SharedStore]]:
    """Stores as replicas on machines of their own would open them."""
    opened: list[SharedStore] = []

    def open_one(fingerprint: str = "model 1", limit: int = LIMIT) -> SharedStore:
        opened.append(SharedStore(SharedFiles(address), fingerprint, limit))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def obtain(store: SharedStore, key: str, encode: Callable[[], EncodedImage]) -> EncodedImage:
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


def test_what_one_replica_encoded_another_one_reads_bit_for_bit(open_store: Callable[..., SharedStore]) -> None:
    one, other = open_store(), open_store()
    obtain(one, KEY, lambda: encoded(3))

    assert same(obtain(other, KEY, never), encoded(3))
    assert KEY in other
    assert (one.misses, other.hits) == (1, 1)


def test_features_of_another_model_are_not_found(open_store: Callable[..., SharedStore]) -> None:
    one, other = open_store("model 1"), open_store("model 2")
    one.put(KEY, encoded())

    assert other.get(KEY) is None
    assert KEY not in other


def test_replicas_that_want_the_same_image_at_once_run_the_model_once(open_store: Callable[..., SharedStore]) -> None:
    stores = [open_store() for _ in range(4)]
    runs = []
    begin = threading.Barrier(4)

    def want(store: SharedStore) -> bool:
        begin.wait(PATIENCE)
        return same(obtain(store, KEY, lambda: runs.append(1) or encoded(1)), encoded(1))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(want, stores))
    assert len(runs) == 1


def test_a_model_run_that_fails_lets_the_next_one_try(open_store: Callable[..., SharedStore]) -> None:
    one, other = open_store(), open_store()

    def fail() -> EncodedImage:
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        obtain(one, KEY, fail)
    assert same(obtain(other, KEY, encoded), encoded())


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-3] + b"abc"]
)
def test_damaged_and_half_written_objects_are_replaced(
    damage: Callable[[bytes], bytes], address: str, open_store: Callable[..., SharedStore]
) -> None:
    one, other = open_store(), open_store()
    SharedFiles(address).write(one.name(KEY), damage(pack(encoded(2), KEY, "model 1")))

    assert same(obtain(one, KEY, lambda: encoded(2)), encoded(2))

    assert one.health.damaged > 0
    assert same(obtain(other, KEY, never), encoded(2))


def test_the_limit_is_kept_for_all_models_together(address: str, open_store: Callable[..., SharedStore]) -> None:
    size = len(pack(encoded(), KEY, "model 1"))
    old, new = open_store("model 1", 4 * size), open_store("model 2", 4 * size)
    for store in (old, new):
        for number in range(5):
            store.put(f"{number:04x}", encoded(number))

    held = [entry for entry in SharedFiles(address).entries() if entry.name.endswith(".safetensors")]
    assert sum(entry.size for entry in held) <= 4 * size
    assert new.get("0004") is not None, "the newest stays"
    assert old.evictions + new.evictions == 10 - len(held)


def test_nothing_is_kept_with_a_limit_of_zero(address: str, open_store: Callable[..., SharedStore]) -> None:
    store = open_store(limit=0)

    assert same(obtain(store, KEY, encoded), encoded())
    assert KEY not in store
    assert SharedFiles(address).entries() == []


def test_of_many_who_create_a_file_one_succeeds(address: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: SharedFiles(address).create("leases/x", b"me"), range(8)))
    assert made.count(True) == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_passes_on_when_its_file_has_not_changed_for_the_expiry(address: str) -> None:
    files, clock = SharedFiles(address), Clock()
    files.create("leases/x", b"a machine that is gone 7")
    leases = Leases(files, expiry=5.0, clock=clock)

    assert not leases.acquire("leases/x")
    clock.now = 4.9
    assert not leases.acquire("leases/x")
    clock.now = 5.1
    assert leases.acquire("leases/x")
    leases.close()
    assert files.read("leases/x") is None, "it is given back at the end"


def test_a_lease_that_is_renewed_does_not_pass_on(address: str) -> None:
    files, clock = SharedFiles(address), Clock()
    leases = Leases(files, expiry=5.0, clock=clock)
    for number in range(4):
        files.write("leases/x", b"a machine at work %d" % number)
        assert not leases.acquire("leases/x")
        clock.now += 4.0


def test_a_held_lease_changes_by_itself(address: str) -> None:
    files = SharedFiles(address)
    leases = Leases(files, expiry=0.05)
    leases.acquire("leases/x")
    first, changed = files.read("leases/x"), threading.Event()

    for _ in range(600):
        if files.read("leases/x") != first:
            changed.set()
            break
        changed.wait(0.05)
    leases.close()
    assert changed.is_set()


def test_leases_that_are_given_back_all_the_time_do_not_keep_others_from_being_renewed(tmp_path: Path) -> None:
    files = SharedFiles(str(tmp_path))
    leases = Leases(files, expiry=0.5)
    leases.acquire("leases/x")
    first = files.read("leases/x")
    for number in range(20_000):
        leases.acquire(f"leases/{number}")
        leases.release(f"leases/{number}")
        if files.read("leases/x") != first:
            break
    leases.close()
    assert number < 19_999


def test_a_store_out_of_reach_costs_no_click_and_is_left_alone_for_a_while(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_bytes(b"")
    store = SharedStore(SharedFiles(str(blocked)), "model 1", LIMIT)

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


def test_a_claim_that_is_abandoned_passes_to_whoever_waits(open_store: Callable[..., SharedStore]) -> None:
    one, other = open_store(), open_store()
    assert one.claim(KEY) is None

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.claim, KEY)
        one.abandon(KEY)
        assert waiting.result(PATIENCE) is None
    other.put(KEY, encoded(6))
    assert one.get(KEY) is not None


def test_a_folder_holds_the_same_files_as_one_machines_cache(tmp_path: Path) -> None:
    store = SharedStore(SharedFiles(str(tmp_path)), "model 1", LIMIT)
    store.put(KEY, encoded(4))

    found = DiskCache(tmp_path, "model 1", LIMIT).get(KEY)
    assert found is not None
    assert same(found, encoded(4))


def test_a_replica_that_is_killed_while_writing_leaves_no_half_file_under_the_images_name(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from m2n2_backend.worker.store.files import SharedFiles\n"
        "pathlib.Path.replace = lambda *_: os._exit(9)\n"
        "SharedFiles(sys.argv[1]).write('some/name.safetensors', b'x' * 1000)\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    assert process.returncode == 9
    assert SharedFiles(str(tmp_path)).read("some/name.safetensors") is None
    assert [entry.name.endswith(".tmp") for entry in SharedFiles(str(tmp_path)).entries()] == [True]


def test_an_address_nothing_can_open_is_refused_with_the_settings_name() -> None:
    with pytest.raises(SettingsError, match="M2N2_STORE=nosuch://x"):
        SharedFiles("nosuch://x")
