"""The grid that free memory chose is kept with the cache: a later start with less memory gives the same masks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from m2n2_backend.backbones import kept_grid
from m2n2_backend.backbones.kept_grid import keep_first, load_with_kept_grid
from m2n2_backend.settings import Settings, load_settings


class Memory:
    """An accelerator whose free memory allows a grid; models are loaded with it where none is named."""

    def __init__(self, grid: int) -> None:
        self.grid = grid
        self.loaded: list[int] = []

    def loader(self, settings: Settings, device: str) -> Callable[[], Any]:
        def load() -> Any:
            self.loaded.append(settings.grid or self.grid)
            return SimpleNamespace(grid=self.loaded[-1])

        return load


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory(128)
    monkeypatch.setattr(kept_grid, "backbone_loader", memory.loader)
    monkeypatch.setattr(kept_grid, "resolve_device", torch.device)
    return memory


def grid(folder: Path, device: str = "mps", **overrides: Any) -> int:
    return load_with_kept_grid(load_settings(cache_dir=folder, **overrides), device).grid  # type: ignore[attr-defined]


def test_a_restart_with_less_memory_keeps_the_first_grid(memory: Memory, tmp_path: Path) -> None:
    assert grid(tmp_path) == 128
    memory.grid = 64

    assert grid(tmp_path) == 128
    assert memory.loaded == [128, 128]


def test_another_cache_folder_another_model_and_a_named_grid_choose_for_themselves(
    memory: Memory, tmp_path: Path
) -> None:
    grid(tmp_path / "one")
    memory.grid = 64

    assert grid(tmp_path / "two") == 64
    assert grid(tmp_path / "one", backbone="sd1") == 64
    assert grid(tmp_path / "one", grid=96) == 96
    assert grid(tmp_path / "one") == 128


def test_on_a_cpu_nothing_is_kept(memory: Memory, tmp_path: Path) -> None:
    grid(tmp_path, "cpu")

    assert not (tmp_path / "grids").exists()


def test_the_slower_of_two_workers_loads_again_with_the_grid_of_the_faster(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Memory(96)

    def loader(settings: Settings, device: str) -> Callable[[], Any]:
        if not memory.loaded:  # the faster one chooses while the slower one loads
            monkeypatch.setattr(kept_grid, "backbone_loader", other.loader)
            grid(tmp_path)
            monkeypatch.setattr(kept_grid, "backbone_loader", memory.loader)
        return memory.loader(settings, device)

    monkeypatch.setattr(kept_grid, "backbone_loader", loader)

    assert grid(tmp_path) == 96
    assert memory.loaded == [128, 96]


def test_of_many_at_once_the_first_choice_holds_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        held = set(threads.map(lambda number: keep_first(tmp_path / "grids" / "a", 64 + number), range(16)))

    assert len(held) == 1
    assert [path.name for path in (tmp_path / "grids").iterdir()] == ["a"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "grids").write_text("a file")

    assert keep_first(tmp_path / "grids" / "a", 64) == 64
