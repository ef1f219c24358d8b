"""Files of weights that are not what they seem, and what each command says of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from doctor_checks import checks
from PIL import Image
from random_vits import save_family
from tiny_models import save_stable_diffusion
from typer.testing import CliRunner

from m2n2_backend.backbones.weights.intact import damage_of
from m2n2_backend.backbones.weights.sources import resolve
from m2n2_backend.cli import app
from m2n2_backend.errors import BackboneUnavailable

pytestmark = pytest.mark.filterwarnings("ignore")

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 346345912\n" % (b"4d" * 32)
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a pointer for weights": ("model.safetensors", lambda _: POINTER, "Git LFS pointer"),
    "a pointer for the config": ("config.json", lambda _: POINTER, "Git LFS pointer"),
    "a cut file": ("model.safetensors", cut, "is cut off after"),
    "a file cut in its header": ("model.safetensors", lambda content: content[:100], "is cut off after"),
    "a file cut in its first number": ("model.safetensors", lambda content: content[:5], "is cut off after"),
    "a file that grew": ("model.safetensors", lambda content: content + b"more", "where its header says"),
    "an empty file": ("model.safetensors", lambda _: b"", "is empty"),
    "zeros": ("model.safetensors", lambda content: bytes(len(content)), "is empty|not a safetensors file"),
    "a page for weights": ("model.safetensors", lambda _: PAGE, "web page"),
    "a page for the config": ("config.json", lambda _: PAGE, "web page"),
    "a refusal": ("config.json", lambda _: b"Entry not found", "refusal"),
    "a gated refusal": ("config.json", lambda _: b"Access to model a/b is restricted", "refusal"),
    "a cut config": ("config.json", cut, "not JSON"),
    "another kind of JSON": ("config.json", lambda _: b"[1, 2]", "not a JSON object"),
    "a page for the colors": ("preprocessor_config.json", lambda _: PAGE, "web page"),
    "another text": ("model.safetensors", lambda _: b"no such weights, sorry", "not a safetensors file"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_family("ViT", tmp_path_factory.mktemp("vit"))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_it_seems_is_named_with_the_cause_and_the_cure(
    whole: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    name, change, cause = DAMAGES[damage]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(BackboneUnavailable, match=cause) as caught:
        resolve(str(folder), "vit", local_only=True)
    message = str(caught.value)
    assert str(folder / name) in message
    assert ("git lfs pull" if "pointer" in damage else "--model /path/to/folder") in message
    assert "\n" not in message


def test_a_pickled_file_is_whole_with_the_directory_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    for zipped in (True, False):
        torch.save({"weight": torch.ones(64)}, path, _use_new_zipfile_serialization=zipped)
        assert damage_of(path) is None
    torch.save({"weight": torch.ones(64)}, path)
    path.write_bytes(cut(path.read_bytes()))
    assert "is cut off" in str(damage_of(path))
    path.write_bytes(b"not a pickle at all")
    assert damage_of(path) == "is not a file of PyTorch"


def test_a_whole_file_whose_header_begins_like_a_page_is_whole(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"name":"%s"}}' % (b"x" * 32)
    assert len(header) == ord("<")
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert damage_of(path) is None


def test_a_part_that_the_index_names_and_the_folder_lacks_is_told(whole: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(whole)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    assert resolve(str(tmp_path), "vit") == tmp_path
    parts[1].write_bytes(cut(parts[1].read_bytes()))
    with pytest.raises(BackboneUnavailable, match=f"{parts[1].name} is cut off"):
        resolve(str(tmp_path), "vit")
    parts[1].unlink()
    with pytest.raises(BackboneUnavailable, match=f"index.json names {parts[1].name}, which the folder lacks"):
        resolve(str(tmp_path), "vit")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    (folder / "model.safetensors").chmod(0)
    with pytest.raises(BackboneUnavailable, match=r"model.safetensors cannot be read \(Permission denied\)"):
        resolve(str(folder), "vit")


def test_a_link_to_nothing_is_a_missing_file(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(BackboneUnavailable, match=r"lacks model\.safetensors"):
        resolve(str(folder), "vit")


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt", "vae/config.json"]
)
def test_every_part_of_stable_diffusion_is_looked_at(tmp_path: Path, name: str) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(BackboneUnavailable, match=f"{name} is a Git LFS pointer .*`git lfs pull` in {folder}"):
        resolve(str(folder), "stable-diffusion")


def test_all_commands_say_the_same_of_a_damaged_folder(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    (folder / "model.safetensors").write_bytes(POINTER)
    Image.new("RGB", (20, 20)).save(tmp_path / "photograph.png")
    common = ["--backbone", "vit", "--model", str(folder), "--device", "cpu"]
    monkeypatch.setenv("M2N2_CACHE_DIR", str(tmp_path / "cache"))
    told = "is a Git LFS pointer instead of the file itself; run `git lfs pull`"
    photograph = [str(tmp_path / "photograph.png"), "--click", "3,3", "--out", str(tmp_path / "mask.png")]
    for command in (["segment", *photograph], ["serve", "--port", "9191"], ["fetch-weights"]):
        options = common[:-2] if command == ["fetch-weights"] else common
        result = CliRunner().invoke(app, [*command, *options], env={"COLUMNS": "500", "TERM": "dumb"})
        assert result.exit_code == 1, (command, result.output)
        assert told in " ".join(result.output.split()), (command, result.output)
        assert isinstance(result.exception, SystemExit), "a traceback"
    check = checks(tmp_path, backbone="vit", model=str(folder))["weights of vit"]
    assert check.state == "fail"
    assert "Git LFS pointer" in check.detail
    assert "git lfs pull" in check.cure


def test_the_index_of_a_folder_must_name_files(tmp_path: Path) -> None:
    for content in ({}, {"weight_map": {}}, {"weight_map": []}):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps(content))
        assert damage_of(path) is not None
