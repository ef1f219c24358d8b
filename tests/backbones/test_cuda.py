"""A CUDA device gives what the CPU gives, in 16-bit, within the memory that is accounted for; skipped without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.backbones.device.memory import RoomForStates
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import aggregate
from m2n2_backend.m2n2.paper.half_powers import HALF_SCALE
from m2n2_backend.m2n2.paper.markov import markov_maps
from m2n2_backend.m2n2.paper.transition import transition_matrix
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click
from m2n2_backend.resources import sample_photographs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

DEVICE = torch.device("cuda")
CPU = torch.device("cpu")
GRID = 40


def photograph(index: int = 0) -> NDArray[np.uint8]:
    return decode_image(sample_photographs()[index].read_bytes(), max_pixels=10**8)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("refine", [False, True])
def test_masks_of_clicks_and_boxes_are_those_of_the_cpu(index: int, refine: bool) -> None:
    rgb = photograph(index)
    height, width = rgb.shape[:2]
    clicks = [Click(width // 2, height // 2), Click(width // 10, height // 10, positive=False)]
    box = Box(width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    method = Hyperparameters(refine=refine)
    theirs, ours = (Segmenter(ColorAffinity(grid=GRID, device=device), method) for device in (CPU, DEVICE))
    of_cpu, of_cuda = theirs.encode(rgb), ours.encode(rgb)
    for prompts in ((clicks[:1], None), (clicks, None), (clicks[:1], box)):
        same = theirs.segment(of_cpu, *prompts).mask == ours.segment(of_cuda, *prompts).mask
        assert same.mean() >= 0.999, prompts


def test_powers_are_kept_in_16_bit_and_maps_stay_within_a_hundredth_of_their_range() -> None:
    features = ColorAffinity(grid=GRID).features(photograph())
    starts = torch.eye(GRID * GRID)[:: GRID * GRID // 7]
    single = markov_maps(transition_matrix(aggregate(features, CPU), doublings=0, half=False), starts)

    transition = transition_matrix(aggregate(features, DEVICE))

    assert {power.dtype for power in transition.powers} == {torch.float16}
    assert transition.block == 16
    for power, diagonal in zip(transition.powers, transition.diagonals, strict=True):
        sums = power.sum(dim=0, dtype=torch.float32) / HALF_SCALE + diagonal
        assert torch.allclose(sums, torch.ones((), device=DEVICE), atol=1e-3)
    maps = markov_maps(transition, starts.to(DEVICE)).cpu()
    assert ((maps - single).abs() / single.amax(dim=1, keepdim=True)).max() <= 1e-2


def test_a_state_takes_the_memory_it_is_accounted_for_and_gives_it_back() -> None:
    segmenter = Segmenter(ColorAffinity(grid=GRID, device=DEVICE))
    segmenter.segment(
        segmenter.encode(photograph()), [Click(100, 100)]
    )  # cuBLAS keeps a workspace from its first use on
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()

    state = segmenter.encode(photograph(1))

    taken = torch.cuda.memory_allocated() - before
    assert taken == pytest.approx(state.relation.nbytes, rel=0.05)
    segmenter.segment(state, [Click(100, 100)])
    assert torch.cuda.memory_allocated() - before == pytest.approx(taken, rel=0.05)
    del state
    assert torch.cuda.memory_allocated() - before <= 0.05 * taken


def test_the_room_for_images_follows_what_is_free_and_counts_what_they_hold() -> None:
    room, size = RoomForStates(DEVICE), 256 * 1024**2
    before = room.limit(0)

    taken = torch.empty(size, dtype=torch.uint8, device=DEVICE)

    assert before - room.limit(0) == pytest.approx(size, rel=0.05)
    assert room.limit(size) == pytest.approx(before, abs=0.05 * size)
    del taken
    assert room.limit(0) == pytest.approx(before, abs=0.05 * size), "what PyTorch keeps can be used again"
