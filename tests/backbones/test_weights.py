from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, COMMON, HALF, NOT_NEEDED, PICKLED, PLAIN, Hub, content_of, running_hub
from processes import free_port
from waiting import LAST_RESORT_SECONDS

from m2n2_backend.backbones.weights.sources import content_hash, loading_options, resolve, revision_of, select_files
from m2n2_backend.errors import BackboneUnavailable


def write(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content_of(name))
    return folder


@pytest.mark.parametrize("present", [PLAIN, HALF, PICKLED, PLAIN + HALF, PLAIN + PICKLED, PLAIN + HALF + PICKLED])
def test_one_set_of_weights_is_chosen_half_before_plain_before_pickled(present: list[str]) -> None:
    best = next(names for names in (HALF, PLAIN, PICKLED) if set(names) <= set(present))
    assert select_files(COMMON + present + NOT_NEEDED, "stable-diffusion") == sorted(COMMON + best)


def test_of_a_vision_transformer_config_and_weights_are_chosen() -> None:
    names = ["README.md", "config.json", "preprocessor_config.json", "pytorch_model.bin", "tf_model.h5"]
    assert select_files(names, "vit") == ["config.json", "preprocessor_config.json", "pytorch_model.bin"]
    names.append("model.safetensors")
    assert select_files(names, "vit") == ["config.json", "model.safetensors", "preprocessor_config.json"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert select_files(["config.json", index, *shards], "vit") == sorted(["config.json", index, *shards])


@pytest.mark.parametrize("names", [HALF, PLAIN, [*PLAIN, "unet/diffusion_pytorch_model.fp16.bin"]])
def test_loading_takes_the_file_that_was_chosen(tmp_path: Path, names: list[str]) -> None:
    options = loading_options(write(tmp_path, COMMON + names) / "unet")
    assert options == {
        "variant": "fp16" if names == HALF else None,
        "use_safetensors": True,
        "local_files_only": True,
    }


def test_a_whole_folder_is_its_own_answer(tmp_path: Path) -> None:
    folder = write(tmp_path / "weights", COMMON + PLAIN)
    assert resolve(str(folder), "stable-diffusion", local_only=True) == folder


@pytest.mark.parametrize(
    "lost", ["unet/config.json", PLAIN[1], PLAIN[0], "tokenizer/vocab.json", "tokenizer/merges.txt"]
)
def test_a_folder_that_lacks_a_part_is_refused_with_the_part_and_the_cure(tmp_path: Path, lost: str) -> None:
    folder = write(tmp_path, COMMON + PLAIN)
    (folder / lost).unlink()
    with pytest.raises(BackboneUnavailable, match=f"lacks {lost.split('/')[0]}/.*--model") as caught:
        resolve(str(folder), "stable-diffusion")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["/no/such/folder", "./here", "~/weights", "plain", "a/b/c", "../x", "a/b--c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_said_to_be_so(model: str) -> None:
    with pytest.raises(BackboneUnavailable, match="neither a folder nor a hub id"):
        resolve(model, "vit")


def test_the_revision_of_a_snapshot_is_its_commit(tmp_path: Path) -> None:
    assert revision_of(write(tmp_path / "snapshots" / COMMIT, COMMON)) == COMMIT


def test_the_revision_of_a_folder_follows_its_content_and_not_its_place(tmp_path: Path) -> None:
    first = write(tmp_path / "one", COMMON + PLAIN)
    second = write(tmp_path / "two", COMMON + PLAIN)
    revision = revision_of(first)
    assert re.fullmatch("[0-9a-f]{16}", revision)
    assert revision_of(second) == revision
    write(second, [".cache/huggingface/x.json", "notes.md"])
    assert revision_of(second) == revision
    (second / "unet/config.json").write_text("{}")
    assert revision_of(second) != revision
    assert content_hash(first / "unet") != content_hash(first / "vae")


@pytest.mark.parametrize("place", [0, 3 * 1024**2 - 1])
def test_the_revision_sees_a_change_at_either_end_of_a_large_file(tmp_path: Path, place: int) -> None:
    write(tmp_path, COMMON + PLAIN)
    data = bytearray(3 * 1024**2)
    (tmp_path / PLAIN[1]).write_bytes(data)
    before = revision_of(tmp_path)
    data[place] = 1
    (tmp_path / PLAIN[1]).write_bytes(data)
    assert revision_of(tmp_path) != before


@pytest.fixture
def hub() -> Iterator[str]:
    with running_hub() as address:
        yield address


@pytest.fixture
def nowhere() -> str:
    """An address that refuses connections."""
    return f"http://127.0.0.1:{free_port()}"


CALL = """
import sys
from m2n2_backend.backbones.weights import sources as weights
from m2n2_backend.errors import BackboneUnavailable
try:
    print(eval(sys.argv[1]))
except BackboneUnavailable as error:
    print("refused:", error)
"""


def call(expression: str, home: Path, endpoint: str, **variables: str) -> str:
    """The answer of a process of its own: the hub client reads its settings when it is imported."""
    clean = {key: value for key, value in os.environ.items() if not re.match("HF_|HUGGING|.*_proxy$", key, re.I)}
    environment = {
        **clean,
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        **variables,
    }
    command = [sys.executable, "-c", CALL, expression]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LAST_RESORT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.strip().splitlines()
    return line


def test_a_download_takes_the_needed_files_only_and_is_found_offline_afterwards(hub: str, tmp_path: Path) -> None:
    answer = call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub)
    folder = Path(answer)
    assert folder.name == COMMIT
    assert sorted(Hub.requested) == sorted(COMMON + HALF)
    assert (folder / HALF[1]).read_bytes() == content_of(HALF[1])
    resolved = "weights.resolve('some/whole', 'stable-diffusion', local_only=True)"
    assert call(resolved, tmp_path, hub, HF_HUB_OFFLINE="1") == answer
    (folder / HALF[1]).unlink()
    assert "refused: " in call(resolved, tmp_path, hub)
    assert call("weights.available('some/whole', 'stable-diffusion')", tmp_path, hub) == answer
    assert (folder / HALF[1]).exists()


def test_a_damaged_file_of_the_cache_is_told_offline_and_fetched_again_online(hub: str, tmp_path: Path) -> None:
    folder = Path(call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub))
    damaged = folder / HALF[1]
    assert damaged.is_symlink()
    damaged.write_bytes(content_of(HALF[1])[:-3])  # through the link, as a broken download leaves it
    Hub.requested.clear()
    local = "weights.resolve('some/whole', 'stable-diffusion', local_only=True)"
    told = call(local, tmp_path, hub)
    assert f"{damaged} is cut off" in told
    assert "`m2n2-backend fetch-weights --model some/whole`" in told
    offline = call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert f"{damaged} is cut off" in offline
    assert damaged.exists(), "nothing may be removed before the hub has answered"
    assert call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub) == str(folder)
    assert Hub.requested == [HALF[1]]
    assert damaged.read_bytes() == content_of(HALF[1])


def test_a_proxys_page_in_the_place_of_the_files_is_not_taken_for_weights(hub: str, tmp_path: Path) -> None:
    Hub.proxied = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
    answer = call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub)
    assert "is a web page" in answer
    assert "proxy" in answer


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("some/missing", "the hub has no some/missing"),
        ("some/gated", "some/gated is gated: accept its terms"),
        ("some/failing", "the hub refused some/failing"),
        ("some/empty", "lacks tokenizer/"),
    ],
)
def test_a_refused_download_names_its_cause_and_the_cure(hub: str, tmp_path: Path, model: str, cause: str) -> None:
    answer = call(f"weights.resolve({model!r}, 'stable-diffusion')", tmp_path, hub)
    assert answer.startswith("refused: ")
    assert cause in answer
    assert f"`m2n2-backend fetch-weights --model {model}`" in answer
    assert "--model /path/to/folder" in answer


def test_without_connection_the_cause_and_the_command_for_sd2_are_named(nowhere: str, tmp_path: Path) -> None:
    answer = call("weights.resolve(weights.REPOSITORIES['sd2'], 'stable-diffusion')", tmp_path, nowhere)
    assert "the hub cannot be reached" in answer
    assert "`m2n2-backend fetch-weights --backbone sd2`" in answer


def test_offline_mode_is_respected_and_named(hub: str, tmp_path: Path) -> None:
    answer = call("weights.resolve('some/whole', 'stable-diffusion')", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids the network: unset it" in answer
    answer = call("weights.available('some/whole', 'stable-diffusion')", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert answer == "None"
    assert Hub.requested == []


@pytest.mark.parametrize("model", ["some/silent", "some/trickling", "some/missing"])
def test_the_attempt_of_auto_ends_though_the_hub_never_answers_to_the_end(
    hub: str, tmp_path: Path, model: str
) -> None:
    answer = call(f"weights.available({model!r}, 'vit', timeout_s=1.0)", tmp_path, hub)
    assert answer == "None"
