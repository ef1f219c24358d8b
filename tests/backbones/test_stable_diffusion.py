from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from tiny_models import plain_embedding, save_stable_diffusion

from m2n2_backend.backbones.random_models import random_stable_diffusion, random_unet, random_vae
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.errors import BackboneUnavailable, SettingsError
from m2n2_backend.m2n2.paper.attention import aggregate

CPU = torch.device("cpu")
GRID = 16
MODULES = {
    "down0": "down_blocks.0.attentions.0",
    "down1": "down_blocks.0.attentions.1",
    "up0": "up_blocks.3.attentions.0",
    "up1": "up_blocks.3.attentions.1",
    "up2": "up_blocks.3.attentions.2",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {name: save_stable_diffusion(root / name, name) for name in ("sd2", "sd1")}


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    coarse = np.random.default_rng(7).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((210, 140)))


def load(folder: Path, cache: Path, **options: Any) -> StableDiffusion:
    options = {"name": "sd2", "grid": GRID, **options}
    return StableDiffusion.load(folder, device=CPU, cache_dir=cache, **options)


def tiny(**options: Any) -> StableDiffusion:
    """In-memory parts, of which the caller may pass changed ones."""
    parts = {"vae": random_vae(tiny=True), "unet": random_unet("sd2", tiny=True), **options}
    embedding = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(0))
    return StableDiffusion(
        parts["vae"], parts["unet"], embedding, name="sd2", revision="0" * 40, grid=GRID, device=CPU
    )


class RecordingProcessor:
    """diffusers' plain attention, which forms the probabilities that the optimized one never does."""

    def __init__(self) -> None:
        self.probabilities: torch.Tensor | None = None

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **_: Any
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        self.probabilities = attn.get_attention_scores(query, key)
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(self.probabilities, value)))


@torch.no_grad()
def reference_attention(folder: Path, rgb: np.ndarray) -> dict[str, torch.Tensor]:
    """Mean over heads of all five self-attentions, from one whole pass of the plain U-Net."""
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", low_cpu_mem_usage=False)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False)
    processors = {name: RecordingProcessor() for name in unet.attn_processors}
    unet.set_attn_processor(dict(processors))
    square = Image.fromarray(rgb).resize((8 * GRID, 8 * GRID), Image.Resampling.BICUBIC)
    pixels = torch.tensor(np.asarray(square) / 255.0 * 2 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    unet(latents, 100, encoder_hidden_states=plain_embedding(folder))
    return {
        block: processors[f"{module}.transformer_blocks.0.attn1.processor"].probabilities.mean(0)
        for block, module in MODULES.items()
    }


@pytest.mark.parametrize("name", ["sd2", "sd1"])
def test_the_matrix_is_the_attention_that_diffusers_computes_in_a_whole_pass(
    folders: dict[str, Path], rgb: np.ndarray, tmp_path: Path, name: str
) -> None:
    expected = reference_attention(folders[name], rgb)
    choices: list[Mapping[str, float]] = [
        {"up0": 1.0},
        {"up1": 1.0},
        {"up0": 0.5, "up1": 0.5},
        {"down0": 1.0},
        {"up2": 0.2, "down1": 0.3, "up0": 0.5},
    ]
    for weights in choices:
        matrix = aggregate(load(folders[name], tmp_path, name=name, weights=weights).features(rgb), CPU)
        target = sum(weight * expected[block] for block, weight in weights.items())
        assert (matrix - target).abs().max() < 1e-4
        # Queries and keys are kept in 16-bit: half the mass moved, as a share of each row, stays tiny.
        assert (matrix - target).abs().sum(dim=1).max() / 2 < 1e-3
    uniform = 1.0 / GRID**2
    assert (expected["up0"] - uniform).abs().max() > 100 * 1e-4, "the reference is too flat to tell anything"


def test_stopping_early_changes_no_query_and_no_key(
    folders: dict[str, Path], rgb: np.ndarray, tmp_path: Path
) -> None:
    early = load(folders["sd2"], tmp_path).features(rgb)
    late = load(folders["sd2"], tmp_path, weights=dict.fromkeys(MODULES, 1.0)).features(rgb)
    assert [block.weight for block in late.blocks] == [0.2] * 5
    for one, other in zip(early.blocks, late.blocks[2:4], strict=True):
        assert torch.equal(one.queries, other.queries)
        assert torch.equal(one.keys, other.keys)


def test_the_unet_is_as_it_was_after_a_pass_that_was_stopped(rgb: np.ndarray) -> None:
    unet = random_unet("sd2", tiny=True)
    inputs = (torch.ones(1, 4, GRID, GRID), 100, torch.ones(1, 77, 16))
    with torch.no_grad():
        before = unet(*inputs).sample
        tiny(unet=unet).features(rgb)
        assert torch.equal(unet(*inputs).sample, before)
    assert not any(module._forward_hooks for module in unet.modules())


def test_threads_that_share_a_backbone_get_what_they_would_get_alone(rgb: np.ndarray) -> None:
    backbone = tiny()
    images = [rgb, rgb[::-1].copy(), rgb[:, ::-1].copy(), 255 - rgb]
    alone = [backbone.features(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(backbone.features, images))
    for one, other in zip(alone, together, strict=True):
        # To the last digits: threads may have different numbers of threads of their own for a sum.
        torch.testing.assert_close(one.blocks[1].keys, other.blocks[1].keys)


@pytest.mark.parametrize(("height", "width", "grid"), [(30, 400, 16), (1, 1, 8), (200, 90, 12), (64, 64, 13)])
def test_any_shape_of_image_and_any_grid_give_grid_squared_cells(height: int, width: int, grid: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    features = random_stable_diffusion(grid=grid, tiny=True).features(image)
    assert (features.height, features.width) == (grid, grid)
    for block in features.blocks:
        assert block.queries.shape == block.keys.shape == (2, grid * grid, 16)
        assert block.scale == 16**-0.5
        assert not block.queries.is_inference()
        assert block.queries.is_contiguous()


def test_equal_images_give_equal_features(rgb: np.ndarray) -> None:
    backbone = tiny()
    assert torch.equal(backbone.features(rgb).blocks[0].keys, backbone.features(rgb).blocks[0].keys)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_a_part_that_overflows_in_sixteen_bit_is_run_in_thirty_two_with_one_warning(
    rgb: np.ndarray, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    vae, unet = random_vae(tiny=True, dtype=torch.float16), random_unet("sd2", tiny=True, dtype=torch.float16)
    first = vae.encoder.conv_in if part == "vae" else unet.conv_in
    with torch.no_grad():
        first.weight.mul_(60_000 / float(first.weight.abs().max()))  # in range, but sums of products are not
    backbone = tiny(vae=vae, unet=unet)
    with caplog.at_level(logging.WARNING):
        features = [backbone.features(rgb), backbone.features(rgb)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "overflows in 16-bit" in caplog.text
    matrix = aggregate(features[0], CPU)
    assert torch.isfinite(matrix).all()
    assert torch.equal(features[0].blocks[0].keys, features[1].blocks[0].keys)
    wide = tiny(vae=vae.float(), unet=unet.float())
    assert (matrix - aggregate(wide.features(rgb), CPU)).abs().sum(dim=1).max() / 2 < 0.05


def test_weights_that_are_not_numbers_are_refused_and_not_answered(rgb: np.ndarray) -> None:
    unet = random_unet("sd2", tiny=True)
    with torch.no_grad():
        unet.mid_block.resnets[0].conv1.weight[0, 0] = float("nan")
    with pytest.raises(BackboneUnavailable, match="non-finite"):
        tiny(unet=unet).features(rgb)


def test_queries_beyond_the_range_of_sixteen_bit_are_kept_in_thirty_two(rgb: np.ndarray) -> None:
    unet = random_unet("sd2", tiny=True)
    with torch.no_grad():
        unet.up_blocks[3].attentions[0].transformer_blocks[0].attn1.to_q.weight.mul_(1e6)
    features = tiny(unet=unet).features(rgb)
    assert features.blocks[0].queries.dtype == torch.float32
    assert features.blocks[0].keys.dtype == torch.float16
    assert torch.isfinite(aggregate(features, CPU)).all()


def test_the_fingerprint_changes_with_weights_grid_and_blocks_and_with_nothing_else(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["sd2"], tmp_path / "copy"))
    other = save_stable_diffusion(tmp_path / "other", seed=5)
    prints = [
        load(folders["sd2"], tmp_path).fingerprint,
        load(folders["sd2"], tmp_path, grid=8).fingerprint,
        load(folders["sd2"], tmp_path, weights={"up0": 1.0}).fingerprint,
        load(folders["sd2"], tmp_path, weights={"up0": 0.3, "up1": 0.7}).fingerprint,
        load(other, tmp_path).fingerprint,
        load(folders["sd1"], tmp_path, name="sd1").fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0].endswith("-up0-up1-g16")
    assert load(copy, tmp_path, weights={"up1": 2.0, "up0": 2.0}).fingerprint == prints[0]


def test_half_precision_files_are_read(folders: dict[str, Path], rgb: np.ndarray, tmp_path: Path) -> None:
    half = save_stable_diffusion(tmp_path / "half", variant="fp16")
    matrix = aggregate(load(half, tmp_path).features(rgb), CPU)
    full = aggregate(load(folders["sd2"], tmp_path).features(rgb), CPU)
    assert 0 < (matrix - full).abs().sum(dim=1).max() / 2 < 0.02


def test_a_damaged_weight_file_is_named_with_the_cure_in_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd2"], tmp_path / "damaged"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BackboneUnavailable, match="unet cannot be loaded, fetch it again") as caught:
        load(folder, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [{"up3": 1.0}, {"up0": -1.0, "up1": 2.0}, {"up0": 0.0}, {}])
def test_block_weights_that_make_no_average_are_refused(
    folders: dict[str, Path], tmp_path: Path, weights: dict[str, float]
) -> None:
    with pytest.raises(SettingsError, match="down0, down1, up0, up1, up2"):
        load(folders["sd2"], tmp_path, weights=weights)


def test_a_unet_of_another_structure_is_refused() -> None:
    unet = random_unet("sd2", tiny=True)
    del unet.up_blocks[3]
    unet.up_blocks[-1].attentions = unet.up_blocks[-1].attentions[:2]
    with pytest.raises(BackboneUnavailable, match="five top self-attentions"):
        tiny(unet=unet)
