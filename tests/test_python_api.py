"""The package as somebody imports it in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from PIL import Image
from repository import ROOT
from transformers import ViTConfig, ViTModel

import m2n2_backend
from m2n2_backend import Box, Click, Hyperparameters, Segmenter, load_backbone
from m2n2_backend.errors import BackboneUnavailable, InvalidImage, InvalidPrompt, SettingsError
from m2n2_backend.m2n2.paper.upsample import cell_of_pixels

DISK, GROUND = Click(22, 30), Click(45, 5, positive=False)
README = ROOT / "README.md"


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, m2n2_backend; print('torch' in sys.modules, m2n2_backend.Segmenter and 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_name_of_the_api_can_be_had_and_no_other() -> None:
    for name in m2n2_backend.__all__:
        assert getattr(m2n2_backend, name) is not None
        assert name in dir(m2n2_backend)
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        m2n2_backend.Segmentor  # noqa: B018


def test_a_vision_transformer_loads_without_settings_and_without_a_folder_of_its_own(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    ViTModel(config).save_pretrained(tmp_path)

    backbone = load_backbone("vit", model=tmp_path, layers=(1,), grid=8, device="cpu")

    state = Segmenter(backbone).encode(scene())
    assert state.grid == (8, 8)
    assert Segmenter(backbone).segment(state, [DISK]).mask[30, 22]


def test_an_unknown_backbone_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no backbone is called sam; there are auto, sd2, .*color"):
        load_backbone("sam")  # type: ignore[arg-type]
    with pytest.raises(BackboneUnavailable, match=r"lacks config\.json"):
        load_backbone("vit", model=Path(__file__).parent, device="cpu")


def test_the_maps_of_the_paper_can_be_looked_at() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(working_size=1024))
    state = segmenter.encode(scene())

    attention, matrix = segmenter.attention(scene()), segmenter.transition_matrix(state)
    cells, pixels = segmenter.markov_map(state, DISK, upsampled=False), segmenter.markov_map(state, DISK)
    flooded = segmenter.flooded_map(state, DISK)

    assert attention.shape == matrix.shape == (144, 144)
    np.testing.assert_allclose(attention.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, atol=1e-4)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-3)
    assert cells.shape == (12, 12)
    assert cells[cell_of_pixels(60, 12)[DISK.y], cell_of_pixels(90, 12)[DISK.x]] == 0.0
    assert pixels.shape == flooded.shape == scene().shape[:2]
    assert flooded[DISK.y, DISK.x] == 0.0
    # A flood has to cross at least the difference to where it began.
    assert (flooded >= np.abs(pixels - pixels[DISK.y, DISK.x]) - 2 * flooded.max() / 65535).all()
    (threshold,) = segmenter.segment(state, [DISK]).thresholds
    assert ((flooded <= threshold) == segmenter.segment(state, [DISK]).mask).mean() > 0.999


def test_looking_at_a_map_leaves_the_state_as_it_is() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())
    before = segmenter.segment(state, [DISK, GROUND]).mask
    segmenter.markov_map(state, DISK, upsampled=False)[:] = 0.0
    assert (segmenter.segment(segmenter.encode(scene()), [DISK, GROUND]).mask == before).all()
    assert (segmenter.segment(state, [DISK, GROUND]).mask == before).all()
    with pytest.raises(InvalidPrompt):
        segmenter.markov_map(state, Click(90, 10))


def test_a_baseline_has_no_transition_matrix() -> None:
    segmenter = Segmenter(FakeBackbone(), Hyperparameters(relation="kl"))
    with pytest.raises(ValueError, match="only the Markov relation"):
        segmenter.transition_matrix(segmenter.encode(scene()))


def test_a_segmentation_shows_object_clicks_and_boxes_over_the_photograph() -> None:
    rgb = scene()
    segmenter = Segmenter(FakeBackbone())
    segmentation = segmenter.segment(segmenter.encode(rgb), [DISK, GROUND], Box(4, 4, 44, 56))

    picture = segmentation.overlay(rgb)

    assert picture.dtype == np.uint8
    assert picture.shape == rgb.shape
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    assert green[DISK.y, DISK.x] > red[DISK.y, DISK.x] + 50
    assert red[GROUND.y, GROUND.x] > green[GROUND.y, GROUND.x] + 50
    inside = segmentation.mask & (np.hypot(np.arange(60)[:, None] - 30, np.arange(90) - 22) > 4)
    assert (blue[inside] - red[inside]).mean() > (rgb[inside][:, 2].astype(int) - rgb[inside][:, 0]).mean() + 30
    assert (rgb == scene()).all()


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(scene()),
        scene().astype(np.float32),
        scene() / 255.0,
        scene().tolist(),
        torch.from_numpy(scene()).permute(2, 0, 1),
        np.dstack([scene(), np.full(scene().shape[:2], 255, np.uint8)]),
    ],
)
def test_a_photograph_may_come_in_other_forms(picture: Any) -> None:
    segmenter = Segmenter(FakeBackbone())
    expected = segmenter.segment(segmenter.encode(scene()), [DISK, GROUND])

    found = segmenter.segment(segmenter.encode(picture), [DISK, GROUND])

    assert (found.mask == expected.mask).all()
    assert (found.overlay(picture) == expected.overlay(scene())).all()
    assert (segmenter.attention(picture) == segmenter.attention(scene())).all()


@pytest.mark.parametrize("scale", [1.0, 257.0, 16.0])
def test_a_photograph_of_16_bits_with_a_hot_pixel_is_answered_like_one_of_8(scale: float) -> None:
    segmenter = Segmenter(FakeBackbone())
    gray = scene().mean(axis=2)
    expected = segmenter.segment(segmenter.encode(gray.astype(np.uint8)), DISK).mask
    wide = (gray * scale).astype(np.uint16)
    wide[2, 80] = 65535

    for picture in (wide, wide[..., None], wide.astype(np.float64), Image.fromarray(wide)):
        mask = segmenter.segment(segmenter.encode(picture), DISK).mask
        assert (mask & expected).sum() / (mask | expected).sum() > 0.9


def test_one_click_needs_no_list_and_may_lie_between_pixels() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())
    expected = segmenter.segment(state, [DISK], Box(4, 4, 44, 56)).mask

    found = segmenter.segment(state, Click(DISK.x + 0.9, np.float32(DISK.y + 0.5)), Box(4.5, 4.2, 44.9, 56.7)).mask

    assert (found == expected).all()


@pytest.mark.parametrize("picture", [None, "photograph.jpg", np.zeros((2, 60, 90, 3)), np.zeros((60, 90, 3), "c8")])
def test_what_is_no_photograph_is_refused_before_the_model_runs(picture: Any) -> None:
    backbone = FakeBackbone()
    with pytest.raises(InvalidImage):
        Segmenter(backbone).encode(picture)
    assert backbone.calls == 0


def test_a_session_needs_one_thread_and_no_process_of_its_own() -> None:
    import multiprocessing

    segmenter = Segmenter(FakeBackbone())
    segmenter.segment(segmenter.encode(scene()), [DISK])
    assert not multiprocessing.active_children()
    assert torch.is_grad_enabled()
