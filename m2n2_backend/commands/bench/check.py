"""Every mask a server gave, beside the one computed alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.commands.bench.annotators import Request
from m2n2_backend.commands.bench.client import decode_mask
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click


def check_masks(
    segmenter: Segmenter, requests: Iterable[Request], folder: Path, size: tuple[int, int]
) -> dict[str, Any]:
    """Compute each mask again, one image after the other, and compare.

    Args:
        segmenter: Of the server's backbone and method.
        requests: Those with an answer are compared.
        folder: Of the images.
        size: Width and height of all of them.

    Returns:
        ``checked`` (answers), ``mismatches`` (answers with any other pixel) and ``largest_difference`` (share of the
        pixels of a mask).
    """
    by_image: dict[str, dict[tuple[Click, ...], list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for request in requests:
        if request.answer.ok:
            by_image[request.image][request.clicks].append(request.answer.rle)
    differences: list[float] = []
    for image, by_clicks in by_image.items():
        state = segmenter.encode(decode_image((folder / image).read_bytes(), max_pixels=10**9))
        for clicks, answers in by_clicks.items():
            mask = segmenter.segment(state, clicks).mask
            differences += _differences(mask, answers, size)
    return {
        "checked": len(differences),
        "mismatches": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=0.0),
    }


def _differences(mask: NDArray[np.bool_], answers: Sequence[bytes], size: tuple[int, int]) -> list[float]:
    """Share of other pixels of each answer; equal answers are decoded once."""
    found = {rle: float((decode_mask(rle, size) != mask).mean()) for rle in set(answers)}
    return [found[rle] for rle in answers]
