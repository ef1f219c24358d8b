from __future__ import annotations

import pytest
import torch

from m2n2_backend.backbones.device_memory import (
    bytes_needed,
    default_grid,
    grid_for_memory,
    memory_advice,
    room_for_states,
)
from m2n2_backend.backbones.stable_diffusion import GRID_CHOICES
from m2n2_backend.errors import BackboneUnavailable

CPU = torch.device("cpu")


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


def test_states_may_fill_what_is_free_after_the_warm_up_less_what_a_step_needs_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gigabyte = 1024**3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100 * gigabyte, 140 * gigabyte))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 9 * gigabyte)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 * gigabyte)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    assert room_for_states(torch.device("cuda:0")) == 83 * gigabyte
