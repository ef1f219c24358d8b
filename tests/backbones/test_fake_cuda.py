"""Backbones of full size on a CUDA device that PyTorch pretends: no mismatch, the memory we tell, few waits."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar
from unittest import mock

import pytest
from fake_cuda import build_guard, counted
from repository import ROOT

from m2n2_backend.backbones.device.memory import bytes_needed, peak_bytes
from m2n2_backend.m2n2.box import MAX_ROUNDS

GIB = 1024**3
README = ROOT / "m2n2_backend/evaluation/README.md"
FULL_SIZE = {"sd2": 128, "sd1": 112, "dinov2": 80}
SHARE = 0.05
"""What our figures may be off."""

T = TypeVar("T")
Run = Callable[..., T]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run[T]]:
    """Runs a function with the guard's library as its first argument, in a process that sees no real CUDA device."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    guard = build_guard(compiler, tmp_path_factory.mktemp("guard"))
    with (
        mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        yield lambda function, *args: process.submit(counted.readable, function, guard, *args).result()


@pytest.fixture(scope="module")
def full_size(run: Run[counted.Counted]) -> dict[str, counted.Counted]:
    return {name: run(counted.count, name, grid, True) for name, grid in FULL_SIZE.items()}


def test_tensors_of_two_devices_in_one_operation_raise(run: Run[str]) -> None:
    assert "found at least two devices, cpu and cuda:0" in run(counted.mismatch)


def test_a_state_takes_the_memory_it_is_accounted_for(full_size: dict[str, counted.Counted]) -> None:
    for name, grid in FULL_SIZE.items():
        found = full_size[name]
        # P and a power of it in 16-bit, their diagonals in 32-bit
        assert found.told == found.state == 2 * 2 * grid**4 + 2 * 4 * grid**2, name


def test_the_readme_tells_the_memory_that_full_size_takes(full_size: dict[str, counted.Counted]) -> None:
    rows = re.findall(r"^\| (\w+), grid (\d+) \|((?: [\d.]+ \|){5})$", README.read_text(encoding="utf-8"), re.M)
    assert {name: int(grid) for name, grid, _ in rows} == FULL_SIZE
    for name, _, cells in rows:
        told = [float(cell) * GIB for cell in cells.strip(" |").split(" | ")]
        found = full_size[name]
        real = [found.model, found.encode, found.beside, found.prepare, found.state]
        assert told == pytest.approx(real, rel=SHARE), name


@pytest.mark.parametrize(
    ("name", "grid", "half"),
    [("sd2", 128, True), ("sd2", 96, True), ("sd2", 64, True), ("sd2", 96, False), ("sd1", 112, True)],
)
def test_the_memory_that_chooses_the_grid_is_what_is_counted_and_a_margin(
    run: Run[counted.Counted], full_size: dict[str, counted.Counted], name: str, grid: int, half: bool
) -> None:
    is_there = half and FULL_SIZE[name] == grid
    found = full_size[name] if is_there else run(counted.count, name, grid, half)

    assert peak_bytes(grid, half=half) == pytest.approx(found.peak, rel=SHARE)
    assert found.peak + 0.5 * GIB <= bytes_needed(grid, half=half) <= found.peak + GIB


@pytest.mark.parametrize(("name", "grid"), FULL_SIZE.items())
def test_a_click_waits_for_the_device_once_in_16_steps_and_a_box_once_a_round(
    run: Run[counted.Prompted], name: str, grid: int
) -> None:
    found = run(counted.count_waits, name, grid)

    expected = {("in", "prompt_maps"): 1, ("ask", "markov"): counted.STEPS // 16, ("out", "prompt_maps"): 1}
    assert found.click == expected
    assert found.clicks == expected  # eight of them together
    assert found.box == {("in", "box"): 4, ("ask", "box"): MAX_ROUNDS, ("out", "box"): 1}
    assert found.peak <= 0.1 * GIB
