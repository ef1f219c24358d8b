"""Each family of vision models is either read exactly or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_vits import FAMILIES, PATCH, save_family

from m2n2_backend.backbones.vit import VisionTransformer
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.m2n2.paper.attention import aggregate

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
GRID = 6
REFUSED = {
    "Beit": r"in layer 1 .* 0\.\d+ of a row's mass elsewhere .*0\.001 is allowed",
    "Data2VecVision": r"in layer 1 .* 0\.\d+ of a row's mass elsewhere .*0\.001 is allowed",
    "ViTMAE": "one token for each patch",
    "ViTMAE, unmasked": "one token for each patch",
    "Swin": "one token for each patch|cannot be run",
    "Swinv2": "without a self-attention that can be read",
    "Blip": "without a self-attention|elsewhere",
    "VitDet": "without a self-attention|elsewhere",
    "Pvt": "no square patches",
    "ConvNext": "cannot be run|without a self-attention",
    "ResNet": "no square patches",
    "VideoMAE": "cannot be run",
    "Bert": "no square patches",
}
READ = [family for family in FAMILIES if family not in REFUSED]


def saved(family: str, folder: Path) -> Path:
    try:
        save_family(family, folder)
    except AttributeError:
        pytest.skip(f"this release of transformers lacks {family}")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder


def load(folder: Path, **options: object) -> VisionTransformer:
    chosen = {"name": "tiny", "revision": "r", "layers": None, "grid": GRID, "device": CPU, **options}
    return VisionTransformer.load(folder, **chosen)  # type: ignore[arg-type]


def photograph() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (30, 50, 3), dtype=np.uint8)


@torch.no_grad()
def own_attention(folder: Path, layer: int) -> torch.Tensor:
    """The probabilities that the model itself gives out, of patches alone: mean over heads of renormalized rows."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager", torch_dtype=torch.float32).eval()
    side = GRID * PATCH
    square = np.asarray(Image.fromarray(photograph()).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    pixels = torch.from_numpy((square / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    resize = {} if model.config.model_type.startswith("dino") else {"interpolate_pos_encoding": True}
    attentions = getattr(model, "vision_model", model)(pixels, output_attentions=True, **resize).attentions
    patches = attentions[layer][0, :, -(GRID**2) :, -(GRID**2) :]
    return (patches / patches.sum(-1, keepdim=True)).mean(0)


@pytest.mark.parametrize("family", READ)
def test_what_is_read_is_the_attention_that_the_model_itself_gives_out(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    for layer in (0, 2):
        matrix = aggregate(load(folder, layers=[layer]).features(photograph()), CPU)
        own = own_attention(folder, layer)
        assert (matrix - own).abs().sum(dim=1).max() / 2 < 2e-3  # half the mass moved; queries and keys are 16-bit
        assert (own - 1 / GRID**2).abs().sum(dim=1).max() / 2 > 0.1, "too flat to tell anything"


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_read_exactly_is_refused_in_one_sentence(family: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    with pytest.raises(BackboneUnavailable, match=REFUSED[family]) as caught:
        load(folder)
    assert "tiny (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("saved_as", [torch.float16, torch.bfloat16])
def test_a_file_in_16_bit_is_run_in_32_bit_unless_asked_otherwise(tmp_path: Path, saved_as: torch.dtype) -> None:
    from transformers import AutoModel

    saved("ViT", tmp_path / "wide")
    AutoModel.from_pretrained(tmp_path / "wide").to(saved_as).save_pretrained(tmp_path)
    backbone, asked = load(tmp_path), load(tmp_path, dtype=torch.bfloat16)
    matrix = aggregate(backbone.features(photograph()), CPU)
    assert (matrix - own_attention(tmp_path, 1)).abs().sum(dim=1).max() / 2 < 2e-3
    assert "float32" in backbone.fingerprint
    assert backbone.fingerprint != asked.fingerprint
    assert not torch.equal(
        asked.features(photograph()).blocks[0].keys, backbone.features(photograph()).blocks[0].keys
    )


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"architecture": "vit_base_patch16_224", "num_classes": 0}, r"timm \(vit_base_patch16_224\)"),
        ({"hidden_size": 24}, "lacks model_type"),
        ({"model_type": "vit_of_tomorrow"}, "kind vit_of_tomorrow, which transformers .* later release"),
        ({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}, "kind own, .* its own code is not run"),
    ],
)
def test_a_folder_of_another_library_or_release_is_refused_with_its_kind(
    tmp_path: Path, config: dict[str, object], cause: str
) -> None:
    saved("ViT", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneUnavailable, match=cause) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", [[3], [-4], [0, 9], []])
def test_layers_out_of_range_are_named_with_those_there_are(tmp_path: Path, layers: list[int]) -> None:
    with pytest.raises(BackboneUnavailable, match="layers 0 to 2"):
        load(saved("DeiT", tmp_path), layers=layers)


def test_negative_layers_count_from_the_end(tmp_path: Path) -> None:
    assert load(saved("DeiT", tmp_path), layers=[-1, -3]).fingerprint == load(tmp_path, layers=[0, 2]).fingerprint


def test_reading_leaves_the_network_and_other_threads_as_they_are(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    backbone = load(saved("Dinov2", tmp_path), layers=[1])
    images = [photograph(), photograph()[::-1].copy(), 255 - photograph()]
    alone = [backbone.features(image).blocks[0].keys for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = [features.blocks[0].keys for features in pool.map(backbone.features, images)]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(module._forward_hooks for module in backbone._model.modules())
