"""Tiers above the model: what is made again, and what never is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, scene
from PIL import Image
from small_data_set import one_thread

from m2n2_backend.backbones.random_models import random_stable_diffusion
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded, OutOfMemory
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.photo import Photo
from m2n2_backend.worker.replica.tiers import CPU_CACHES

CLICK = Prompts((Click(22, 30),))


def source(width: int = 90) -> SourceImage:
    file = io.BytesIO()
    Image.fromarray(scene(60, width)).save(file, "PNG")
    return SourceImage.of(file.getvalue())


def engine(tmp_path: Path, backbone: FakeBackbone | StableDiffusion | None = None, **limits: Any) -> Engine:
    return Engine(backbone or FakeBackbone(), load_settings(cache_dir=tmp_path, device="cpu", **limits))


def parts(made: Engine, image: SourceImage) -> set[str]:
    with one_thread():
        return set(made.segment(image, CLICK)[1])


def test_each_tier_saves_what_lies_below_it(tmp_path: Path) -> None:
    first, second = source(), source(91)
    one_state = engine(tmp_path, device_cache=0)
    no_memory = engine(tmp_path, device_cache=0, memory_cache=0)

    assert parts(one_state, first) == {"load", "encode", "prepare", "segment"}
    assert parts(one_state, first.without_data()) == {"segment"}
    parts(one_state, second)
    assert parts(one_state, first.without_data()) == {"prepare", "segment"}, (
        "evicted from the device, not from memory"
    )
    assert parts(no_memory, first.without_data()) == {"load", "prepare", "segment"}, "only on disk"
    assert one_state.tiers["device"].evictions == 2
    assert no_memory.tiers["disk"].hits == 1


def test_masks_are_the_same_whichever_tier_they_come_from(tmp_path: Path) -> None:
    image = source()
    made = engine(tmp_path, device_cache=0)
    masks = []
    with one_thread():
        for other in (None, source(91)):
            if other is not None:
                made.segment(other, CLICK)
            masks.append(made.segment(image, CLICK)[0].mask)
        masks.append(engine(tmp_path).segment(image.without_data(), CLICK)[0].mask)

    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_features_of_a_file_that_was_decoded_otherwise_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2n2_backend.worker.store.features.DECODING", 1)
    parts(engine(tmp_path), source())
    assert parts(engine(tmp_path), source().without_data()) == {"load", "prepare", "segment"}
    monkeypatch.undo()
    with pytest.raises(ImageNeeded):
        parts(engine(tmp_path), source().without_data())


def test_a_hot_pixel_of_a_16_bit_file_changes_no_mask(tmp_path: Path) -> None:
    gray = scene().mean(axis=2)
    masks = []
    for hot in (False, True):
        wide = (gray * 16).astype(np.uint16)
        wide[2, 80] = 65535 if hot else wide[2, 80]
        file = io.BytesIO()
        Image.fromarray(wide).save(file, "PNG")
        with one_thread():
            found, _ = engine(tmp_path).segment(SourceImage(f"{hot}", file.getvalue()), CLICK)
        masks.append(found.mask)
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.95


def test_without_any_cache_the_file_is_needed_each_time_for_another_image(tmp_path: Path) -> None:
    made = engine(tmp_path, device_cache=0, memory_cache=0, disk_cache=0)
    first, second = source(), source(91)
    parts(made, first)
    parts(made, second)

    with pytest.raises(ImageNeeded):
        parts(made, first.without_data())


def test_the_steps_before_the_last_fill_memory_and_displace_no_state(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    made = engine(tmp_path, backbone, device_cache=0)
    worked_on, upcoming = source(), source(91)
    parts(made, worked_on)
    photo = Photo(upcoming)
    with one_thread():
        while not (step := made.step(photo)).is_click:
            made.advance(photo, step)

    assert backbone.calls == 2
    assert parts(made, worked_on.without_data()) == {"segment"}
    assert parts(made, upcoming.without_data()) == {"prepare", "segment"}


class Hungry(FakeBackbone):
    """Runs out of memory as long as it is told to."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        super().__init__()
        self.failures = failures
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory")

    def features(self, rgb: np.ndarray) -> AttentionFeatures:
        if self.failures:
            self.failures -= 1
            raise self.error
        return super().features(rgb)


def test_out_of_memory_drops_what_can_be_made_again_and_tries_once_more(tmp_path: Path) -> None:
    backbone = Hungry(0)
    made = engine(tmp_path, backbone)
    parts(made, source())
    backbone.failures = 1

    assert parts(made, source(91)) == {"load", "encode", "prepare", "segment"}
    assert made.tiers["device"].entries == 1


@pytest.mark.parametrize(
    ("error", "kept"), [(torch.cuda.OutOfMemoryError("CUDA out of memory"), True), (MemoryError(), False)]
)
def test_beside_an_accelerator_only_the_memory_that_ran_out_is_freed(
    error: Exception, kept: bool, tmp_path: Path
) -> None:
    backbone = Hungry(0, error)
    made = engine(tmp_path, backbone)
    made.memory.on_cpu = False
    parts(made, source())
    backbone.failures = 1
    parts(made, source(91))

    assert source().key not in made.memory.states
    assert (source().key in made.memory.features) == kept


@pytest.fixture
def stable_diffusion() -> StableDiffusion:
    return random_stable_diffusion(grid=8, tiny=True)


def run_out_of_memory(model: StableDiffusion, times: int) -> None:
    """As PyTorch says it, in the U-Net, so many times from now on."""
    left = [times]

    def fail(*_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 640.00 MiB. GPU 0 has a total")

    model._unet.mid_block.register_forward_pre_hook(fail)


def test_each_image_that_runs_out_of_memory_in_stable_diffusion_succeeds_as_others_make_room(
    stable_diffusion: StableDiffusion, tmp_path: Path
) -> None:
    made = engine(tmp_path, stable_diffusion)
    for width in (90, 91, 92):
        parts(made, source(width))
    held = made.tiers["device"].bytes

    for width in (93, 94, 95):
        run_out_of_memory(stable_diffusion, 1)
        assert parts(made, source(width)) == {"load", "encode", "prepare", "segment"}
        assert made.tiers["device"].limit < held, "or the next round would run into it again"
        assert made.tiers["device"].entries == 1
    run_out_of_memory(stable_diffusion, 2)
    with pytest.raises(OutOfMemory, match="at grid 8; try --grid 8"):
        parts(made, source(96))
    parts(made, source(97))


def test_a_click_that_runs_out_of_memory_succeeds_with_a_state_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(tmp_path)
    parts(made, source())
    segment, errors = made._segmenter.segment, [torch.OutOfMemoryError("CUDA out of memory")]

    def fail_once(*given: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return segment(*given, **options)

    monkeypatch.setattr(made._segmenter, "segment", fail_once)

    assert "prepare" in parts(made, source().without_data())


def test_states_of_long_requests_that_wait_are_given_up_where_memory_runs_out(
    stable_diffusion: StableDiffusion, tmp_path: Path
) -> None:
    made = engine(tmp_path, stable_diffusion)
    parts(made, source())
    photo = Photo(source())
    clicks = Prompts((Click(22, 30), Click(60, 30), Click(70, 10, positive=False)))
    with one_thread():
        assert made.answer(photo, clicks, pause=lambda: True) is None
        assert photo.state is not None
        run_out_of_memory(stable_diffusion, 1)
        made.segment(source(91), CLICK)

    assert photo.state is None
    assert not made.step(photo).is_click


class NotANumber(FakeBackbone):
    """Gives what is not finite as long as it is told to."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value: float | None = value

    def features(self, rgb: np.ndarray) -> AttentionFeatures:
        features = super().features(rgb)
        if self.value is not None:
            features.blocks[0].keys[0, 3, 1] = self.value
        return features


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_before_any_tier_has_them(value: float, tmp_path: Path) -> None:
    backbone = NotANumber(value)
    made = engine(tmp_path, backbone)
    with pytest.raises(BackboneUnavailable, match="not finite"):
        parts(made, source())
    assert len(made.disk) == made.tiers["memory"].entries == 0

    backbone.value = None
    assert parts(made, source()) == {"load", "encode", "prepare", "segment"}


def test_a_file_of_an_earlier_release_with_features_that_are_not_finite_is_made_anew(tmp_path: Path) -> None:
    spoiled = NotANumber(float("nan"))
    made = engine(tmp_path, spoiled)
    made.disk.put(source().key, made._segmenter.extract(scene(60, 90)))
    assert len(made.disk) == 1

    assert parts(engine(tmp_path), source()) == {"load", "encode", "prepare", "segment"}


def test_room_is_made_before_another_state_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(tmp_path, device_cache=0)
    held: list[int] = []
    prepare = made._segmenter.prepare
    monkeypatch.setattr(
        made._segmenter, "prepare", lambda *given: held.append(len(made.memory.states)) or prepare(*given)
    )
    for width in (90, 91, 92):
        parts(made, source(width))

    assert held == [0, 0, 0]


def test_beside_an_accelerator_its_bytes_and_the_maps_in_memory_are_counted_apart(tmp_path: Path) -> None:
    made = engine(tmp_path, memory_cache=4 * 60_000)
    made.memory.on_cpu, made.memory.maps_limit = False, 60_000
    with one_thread():
        for width in (90, 91):
            for x in range(5, 55, 10):
                made.segment(source(width), Prompts((Click(x, 30),)))
    (state,) = made.memory.states.values()

    assert made.tiers["device"].bytes == state.device_bytes == state.relation.nbytes
    assert state.memo_bytes > 60_000, "one image's maps stay whatever their size"
    assert made.tiers["memory"].bytes >= state.memo_bytes
    assert made.tiers["device"].evictions >= 1, "the other image's maps were too much"


def test_out_of_memory_twice_names_a_smaller_grid(tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailable, match="try --grid"):
        parts(engine(tmp_path, Hungry(2)), source())


def test_many_images_and_clicks_stay_within_the_bounds(tmp_path: Path) -> None:
    made = engine(tmp_path, device_cache=8_000_000, memory_cache=1_200_000)
    with one_thread():
        for width in range(60, 90):
            for x in range(5, 55, 10):
                made.segment(source(width), Prompts((Click(x, 30),)))
            tiers = made.tiers
            assert tiers["device"].bytes <= 8_000_000
            assert tiers["memory"].bytes <= 1_200_000
    assert tiers["device"].evictions > 0
    assert tiers["memory"].evictions > 0


def test_the_defaults_on_a_cpu_leave_room_for_the_model_within_a_gigabyte(tmp_path: Path) -> None:
    tiers = engine(tmp_path).tiers

    assert (tiers["device"].limit, tiers["memory"].limit) == CPU_CACHES
    assert sum(CPU_CACHES) <= 512 * 1024**2


def test_what_is_asked_for_again_is_not_displaced_by_what_comes_once() -> None:
    cache = ByteCache[np.ndarray](8_000, spared=0.5)
    entry = np.zeros(488, np.uint8)  # with its key and what Python needs, 1 kB
    cache.put("annotated", entry)
    for number in range(100):
        cache.put(f"{number:02}", entry)
        if number % 5 == 0:
            assert cache.get("annotated") is entry
    for number in range(100, 200):
        cache.put(f"{number:03}", entry)
    assert "annotated" in cache
    assert cache.nbytes <= 8_000
    for number in range(8):  # others are asked for again: then it is the one that was for the longest time
        cache.put(f"again {number}", entry)
        cache.get(f"again {number}")
    for number in range(8):
        cache.put(f"once {number}", entry)
    assert "annotated" not in cache
    assert "again 7" in cache


def test_the_least_recently_used_entry_goes_first_and_the_newest_stays_however_large() -> None:
    cache = ByteCache[np.ndarray](100_000)
    for name, size in (("a", 40_000), ("b", 40_000)):
        cache.put(name, np.zeros(size, np.uint8))
    cache.get("a")
    cache.put("c", np.zeros(40_000, np.uint8))
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)

    cache.put("d", np.zeros(500_000, np.uint8))
    assert len(cache) == 1
    assert cache.get("d") is not None
    assert (cache.hits, cache.misses, cache.evictions) == (2, 0, 3)


def test_where_nobody_will_click_the_warm_up_needs_no_memory_for_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(tmp_path)
    monkeypatch.setattr(made._segmenter, "prepare", lambda encoded: pytest.fail("a matrix was built"))
    made.warm_up(clicks=False)

    assert made.encoder.slowest_seconds > 0, "by which a hang is told"


def test_a_warm_up_that_runs_out_of_memory_over_its_matrix_names_a_smaller_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(tmp_path)

    def prepare(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made._segmenter, "prepare", prepare)
    with pytest.raises(OutOfMemory, match="try --grid 96"):
        made.warm_up()
