"""Devices are found by another process, which may fail or hang without holding up this one for ever."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.local.devices import find_devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told_with_its_cure_and_no_process_is_left() -> None:
    with pytest.raises(BackboneUnavailable, match="choose --device cpu"):
        find_devices("cuda")
    assert not multiprocessing.active_children()


def test_a_process_that_hangs_over_it_is_ended() -> None:
    with pytest.raises(TimeoutError, match="not found within 0 s"):
        find_devices("auto", seconds=0.0)
    assert not multiprocessing.active_children()


def test_what_is_there_is_found() -> None:
    assert find_devices("auto")
