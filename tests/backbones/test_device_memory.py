from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from m2n2_backend.backbones import random_models
from m2n2_backend.backbones.device import memory as device_memory
from m2n2_backend.backbones.device.memory import (
    LOWERED_SECONDS,
    RoomForStates,
    bytes_needed,
    default_grid,
    grid_for_memory,
    memory_advice,
    refuse_large_scores,
)
from m2n2_backend.backbones.stable_diffusion import GRID_CHOICES, StableDiffusion
from m2n2_backend.errors import BackboneUnavailable

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda:0"), torch.device("mps")
GIB = 1024**3


def test_the_grid_follows_the_free_memory() -> None:
    gib = 1024**3
    assert [grid_for_memory(size * gib) for size in (24, 12, 8, 6, 4, 1)] == [128, 128, 128, 128, 96, 64]
    assert grid_for_memory(24 * gib, GRID_CHOICES["sd1"]) == 112
    assert bytes_needed(64) < bytes_needed(96) < bytes_needed(112) < bytes_needed(128)
    assert default_grid(CPU) == default_grid(CPU, GRID_CHOICES["sd1"]) == 64


def test_running_out_of_memory_names_a_smaller_grid() -> None:
    for grid, smaller in ((128, 96), (112, 96), (96, 64), (64, 32)):
        with (
            pytest.raises(BackboneUnavailable, match=f"grid {grid}; try --grid {smaller}"),
            memory_advice(grid, CPU),
        ):
            torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), memory_advice(64, CPU):
        torch.ones(2) @ torch.ones(3)


def test_a_grid_whose_scores_metal_does_not_survive_is_neither_chosen_nor_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_memory, "free_bytes", lambda device: 24 * GIB)
    for name, heads, grid in (("sd2", 5, 128), ("sd1", 8, 112)):
        assert default_grid(MPS, GRID_CHOICES[name]) == 96
        assert default_grid(CUDA, GRID_CHOICES[name]) == grid
        with pytest.raises(BackboneUnavailable, match="--grid 96"):
            refuse_large_scores(MPS, heads, grid)
        refuse_large_scores(MPS, heads, 96)
        refuse_large_scores(CUDA, heads, grid)


def test_the_real_models_on_mps_refuse_the_papers_grid_before_metal_ends_the_process() -> None:
    for name, grid in (("sd2", 128), ("sd1", 112)):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**random_models._SHARED_UNET, **random_models._FULL_UNET[name])
        with pytest.raises(BackboneUnavailable, match="--grid 96"):
            StableDiffusion(
                random_models.random_vae(tiny=True),
                unet,
                torch.zeros(1, 77, 16),
                name=name,
                revision="",
                grid=grid,
                device=MPS,
            )


class Process:
    """One of several on a card: a model, a step's need, prepared images; what PyTorch tells it."""

    def __init__(self, card: Machine, *, workers: int) -> None:
        self.card, self.held, self.model = card, 0, 0
        self.room = RoomForStates(CUDA)
        self.room.share, self.room.need = 1 / workers, 3 * GIB // 2

    def fill(self) -> None:
        """As many images of 1 GiB as the room allows, the newest in any case."""
        self.card.speaks_to = self
        limit = self.room.limit(self.held)
        self.held = max(GIB, limit // GIB * GIB)


class Machine:
    """A card, its processes and what others have of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, others: int, workers: int, total: int = 24 * GIB) -> None:
        self.total, self.others = total, others
        self.processes = [Process(self, workers=workers) for _ in range(workers)]
        self.speaks_to = self.processes[0]
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (self.free, self.total))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: self.speaks_to.model + self.speaks_to.held)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.speaks_to.model + self.speaks_to.held)

    @property
    def free(self) -> int:
        contexts = sum(GIB // 2 for each in self.processes if each.model)
        return self.total - self.others - contexts - sum(each.model + each.held for each in self.processes)


@pytest.mark.parametrize("others", [0, 8])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_of_a_card_leave_room_for_each_others_models_and_steps(
    monkeypatch: pytest.MonkeyPatch, others: int, workers: int
) -> None:
    card = Machine(monkeypatch, others=others * GIB, workers=workers)
    for process in card.processes:  # each has filled its share before the next one has loaded
        process.model = 2 * GIB
        assert card.free >= process.room.need, "its model runs once to be warmed up"
        process.fill()
    for process in card.processes * 3:
        process.fill()

    assert card.free >= process.room.need, "of the step that comes next"
    if not others:
        assert card.free >= workers * process.room.need, "all at once"
        assert abs(card.processes[0].held - card.processes[-1].held) <= GIB
        assert card.processes[0].held >= (24 // workers - 9) * GIB


def test_a_card_of_24_gb_holds_17_images_of_the_papers_grid_and_leaves_room_for_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Machine(monkeypatch, others=0, workers=1)
    (process,) = card.processes
    process.model = 2 * GIB
    process.fill()
    assert process.held == 17 * GIB
    assert card.free >= 4 * GIB

    card.others = 9 * GIB // 2  # it has taken what was left
    process.fill()
    assert process.held == 12 * GIB, "others are made room for"

    card.others = 0
    process.fill()
    assert process.held == 17 * GIB


def test_where_memory_ran_out_although_it_looked_large_enough_less_is_held_for_a_while() -> None:
    now = [0.0]
    room = RoomForStates(CPU, 10 * GIB, clock=lambda: now[0])
    room.ran_out(0, GIB)
    assert room.limit(0) == 10 * GIB, "no image was the cause"

    room.ran_out(6 * GIB, GIB)
    assert room.limit(0) == 5 * GIB
    room.need = 2 * GIB
    room.ran_out(5 * GIB, GIB)
    assert room.limit(0) == 3 * GIB
    now[0] = LOWERED_SECONDS
    assert room.limit(0) == 10 * GIB


def test_a_card_of_8_gb_holds_the_three_views_of_a_first_click_at_the_papers_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Machine(monkeypatch, others=0, workers=1, total=8 * GIB)
    assert grid_for_memory(card.free) == 128
    (process,) = card.processes
    process.model = 2 * GIB
    process.fill()
    assert process.held == 3 * GIB
    assert card.free >= process.room.need
