"""The real engine on the real tiny Stable Diffusion, on a model of a card that others use, too."""

from __future__ import annotations

import gc
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modeled_card import CARD, Card, modeled_card
from PIL import Image
from small_data_set import one_thread
from tiny_models import save_stable_diffusion
from transformers import ViTConfig, ViTModel

from m2n2_backend.backbones import registry
from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.backbones.registry import load_backbone
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.backbones.vit import VisionTransformer
from m2n2_backend.errors import BackboneUnavailable, OutOfMemory
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.steps import load_replica

MIB = 2**20
MODEL, STATE = 12.3 * MIB, MIB // 4
"""Of the tiny Stable Diffusion at grid 16, in 32-bit; a step takes 2.2 MiB."""

FITS_TEN = 20 * MIB


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with one_thread(), modeled_card(FITS_TEN, monkeypatch) as card:
        yield card


def source(number: int) -> SourceImage:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC).save(file, "PNG")
    return SourceImage.of(file.getvalue())


def started(folder: Path, backbone: StableDiffusion | None = None, **settings: Any) -> Engine:
    backbone = backbone or random_stable_diffusion(grid=16, tiny=True, device=CARD, dtype=torch.float32)
    made = Engine(backbone, load_settings(cache_dir=folder, disk_cache=0, **settings))
    made.warm_up()
    return made


def test_160_requests_over_more_images_than_fit_all_succeed_also_when_memory_is_taken_away(
    card: Card, tmp_path: Path
) -> None:
    made, order = started(tmp_path), np.random.default_rng(0)
    masks: dict[int, np.ndarray] = {}
    held: list[int] = []
    for request in range(160):
        if request == 60:
            card.others += card.free  # another program takes all that is left
        if request == 110:
            card.others = 0
        number = int(order.integers(0, 8 + request // 8))  # new ones to the end
        mask = made.segment(source(number), Prompts((Click(22, 30),)))[0].mask
        assert np.array_equal(mask, masks.setdefault(number, mask)), request
        held.append(made.tiers["device"].entries)

    assert len(masks) > 20
    assert made.tiers["device"].evictions > 20
    assert max(held[:60]) >= 8
    assert max(held[70:110]) < max(held[:60]), "what was taken away is not counted on"
    assert max(held[120:]) == max(held[:60]), "and is when it is back"
    assert card.failures <= 2


def test_the_start_tells_how_many_images_the_card_holds(
    card: Card, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = started(tmp_path)

    fit = made.tiers["device"].limit // made.memory.next_state
    assert 8 <= fit <= 14
    assert f"cuda:0 holds {fit} prepared images of 0 MiB at once" in caplog.text
    for number in range(fit + 4):
        made.segment(source(number), Prompts((Click(22, 30),)))
    assert made.tiers["device"].entries == fit
    assert card.failures == 0
    assert card.free + card.reserved - card.used >= card.total / 8 + made.memory.room.need, "the margin"


def test_a_model_that_grows_as_its_weights_are_widened_takes_the_room_of_images(card: Card, tmp_path: Path) -> None:
    backbone = random_stable_diffusion(grid=16, tiny=True, device=CARD, dtype=torch.float16)
    made = started(tmp_path, backbone)
    before, used = made.memory.room.limit(0), card.used
    with torch.no_grad():
        backbone._unet.conv_in.weight.mul_(60_000 / float(backbone._unet.conv_in.weight.abs().max()))
    with torch.no_grad():
        made.segment(source(0), Prompts((Click(22, 30),)))
    grown = card.used - used - made.memory.states.nbytes

    assert grown > 5 * MIB
    assert made.memory.states.limit <= before - grown
    assert made.tiers["device"].limit == made.memory.states.limit


def test_a_card_that_is_too_small_to_warm_up_names_a_smaller_grid(card: Card, tmp_path: Path) -> None:
    card.total = int(MODEL + MIB)
    with pytest.raises(OutOfMemory, match="out of memory on cuda:0 at grid 16; try --grid 8"):
        started(tmp_path)

    def load(*_: object) -> StableDiffusion:
        return random_stable_diffusion(grid=16, tiny=True, device=CARD, dtype=torch.float32)

    options = WorkerOptions.of(load_settings(cache_dir=tmp_path), "cuda:0", load=load)
    with pytest.raises(BackboneUnavailable, match="try --grid 8"):
        load_replica(options)


def test_a_worker_takes_its_share_of_the_card_before_the_others_have_loaded(card: Card, tmp_path: Path) -> None:
    def load(*_: object) -> StableDiffusion:
        return random_stable_diffusion(grid=16, tiny=True, device=CARD, dtype=torch.float32)

    card.total = 64 * MIB
    limits = []
    for workers in (1, 2):
        settings = load_settings(cache_dir=tmp_path, disk_cache=0)
        replica = load_replica(WorkerOptions.of(settings, "cuda:0", on_device=workers, load=load))
        limits.append(replica.engine.tiers["device"].limit)
        replica.close()
        del replica
        gc.collect()

    left = card.total * 7 / 8
    assert limits[1] < left / 2 - MODEL < left / 2 < limits[0]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Stable Diffusion and of DINOv2, small ones, and a CUDA device."""
    folders = {"stable-diffusion": save_stable_diffusion(tmp_path / "sd"), "vit": tmp_path / "vit"}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    ViTModel(config).save_pretrained(folders["vit"])
    monkeypatch.setattr(registry, "available", lambda model, kind: folders[kind])
    monkeypatch.setattr(registry, "resolve_device", torch.device)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    ("total", "kind"),
    [(64 * MIB, StableDiffusion), (7 * MIB, VisionTransformer), (5 * MIB, VisionTransformer), (MIB, ColorAffinity)],
)
def test_auto_takes_the_next_backbone_where_the_card_is_too_small(
    card: Card, total: int, kind: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card.total = total

    backbone = load_backbone("auto", grid=16, device="cuda:0", cache_dir=tmp_path)

    assert type(backbone) is kind
    assert ("out of memory on cuda:0 at grid 16" in caplog.text) == (kind is not StableDiffusion)


@pytest.mark.usefixtures("weights")
def test_auto_does_not_become_another_backbone_while_memory_is_short_once_its_first_choice_has_fitted(
    card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "GRID_CHOICES", {"sd2": (16,)})
    monkeypatch.setattr("m2n2_backend.backbones.stable_diffusion.GRID_CHOICES", {"sd2": (16,)})
    first = load_backbone("auto", device="cuda:0", cache_dir=tmp_path)
    assert isinstance(first, StableDiffusion)
    del first
    card.total = MIB

    with pytest.raises(OutOfMemory, match="grid 16"):
        load_backbone("auto", device="cuda:0", cache_dir=tmp_path)
