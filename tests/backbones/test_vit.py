"""Vision transformers: tiny random ones of every family, and the real one where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from m2n2_backend.backbones.vit import VisionTransformer, described_layers
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.paper.attention import aggregate

CPU = torch.device("cpu")
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "patch_size": 4, "image_size": 16}
FAMILIES = {
    "vit": lambda: ViTModel(ViTConfig(intermediate_size=32, **SIZES), add_pooling_layer=False),
    "dinov2": lambda: Dinov2Model(Dinov2Config(mlp_ratio=2, **SIZES)),
    "dinov2-registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=4, **SIZES)
    ),
}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    FAMILIES[request.param]().save_pretrained(tmp_path)
    return tmp_path


def photograph() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (30, 50, 3), dtype=np.uint8)


def load(
    folder: Path, layers: list[int] | None = None, grid: int = 6, *, released: bool = False
) -> VisionTransformer:
    return VisionTransformer.load(
        folder, name="tiny", revision="r", layers=layers, grid=grid, device=CPU, released=released
    )


def model_attention(folder: Path, backbone: VisionTransformer, layer: int, *, released: bool = False) -> torch.Tensor:
    """Mean over heads of the model's own probabilities, special tokens removed, each head's rows renormalized.

    As released the rows are renormalized after the mean, and the image is resized by areas.
    """
    from PIL import Image
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    side = backbone.grid * 4
    square = np.asarray(Image.fromarray(photograph()).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    if released:
        square = cv2.resize(photograph(), (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    mean, std = (0.5, 0.5) if model.config.model_type == "vit" else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((square / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    extra = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    with torch.no_grad():
        attention = model(pixels, output_attentions=True, **extra).attentions[layer][0]
    patches = attention[:, -(backbone.grid**2) :, -(backbone.grid**2) :]
    if released:
        return patches.mean(0) / patches.mean(0).sum(-1, keepdim=True)
    return (patches / patches.sum(-1, keepdim=True)).mean(0)


@pytest.mark.filterwarnings("ignore")
def test_attention_of_every_family_equals_the_models_own_without_special_tokens(folder: Path) -> None:
    backbone = load(folder, [2])
    assert torch.allclose(
        aggregate(backbone.features(photograph()), CPU), model_attention(folder, backbone, 2), atol=1e-4
    )


@pytest.mark.filterwarnings("ignore")
def test_as_released_the_mean_over_heads_comes_before_the_rows_are_renormalized(folder: Path) -> None:
    backbone = load(folder, [2], released=True)
    assert torch.allclose(
        aggregate(backbone.features(photograph()), CPU),
        model_attention(folder, backbone, 2, released=True),
        atol=1e-4,
    )
    assert backbone.fingerprint == load(folder, [2]).fingerprint + "-released"


@pytest.mark.filterwarnings("ignore")
def test_named_layers_are_averaged(folder: Path) -> None:
    backbone = load(folder, [0, 1])
    expected = (model_attention(folder, backbone, 0) + model_attention(folder, backbone, 1)) / 2
    assert torch.allclose(aggregate(backbone.features(photograph()), CPU), expected, atol=1e-4)


def test_the_model_can_be_run_again_after_a_pass_was_ended_early(folder: Path) -> None:
    backbone = load(folder, [0])
    first, second = (backbone.features(photograph()).blocks[0].queries for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("family", "layers", "default"), [("vit", 12, 6), ("vit", 3, 1), ("dinov2", 12, 11)])
def test_the_middle_layer_is_read_where_none_is_named_and_the_last_one_of_dinov2(
    family: str, layers: int, default: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "num_hidden_layers", layers)
    FAMILIES[family]().save_pretrained(tmp_path)
    backbone = load(tmp_path)
    assert backbone.fingerprint == load(tmp_path, [default]).fingerprint
    assert f"layer {default} of 0 to {layers - 1}" in backbone.description
    assert described_layers(tmp_path, "tiny", None) in backbone.description  # what doctor says without the weights


def test_a_layer_the_model_lacks_is_named_in_the_error(folder: Path) -> None:
    with pytest.raises(BackboneUnavailable, match="layers 0 to 2"):
        load(folder, [7])


def test_fingerprints_tell_layers_and_grids_apart(folder: Path) -> None:
    prints = {load(folder, [0]).fingerprint, load(folder, [1]).fingerprint, load(folder, [0], 8).fingerprint}
    assert len(prints) == 3


def test_mean_and_std_of_the_checkpoint_are_used(folder: Path) -> None:
    plain = load(folder).features(photograph()).blocks[0].queries
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [9, 9, 9]}))
    assert not torch.allclose(load(folder).features(photograph()).blocks[0].queries, plain)


def test_a_folder_without_a_transformer_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(BackboneUnavailable, match=tmp_path.name):
        load(tmp_path)
