"""What must not happen under load: another mask than the one computed alone, or an end without a reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from arrivals import Answer
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray

from m2n2_backend.commands.bench.photographs import Size
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click
from m2n2_backend.settings import Settings
from m2n2_backend.worker.replica.engine import Engine


def check_masks(segmenter: Segmenter, answers: Iterable[Answer], folder: Path, size: Size) -> dict[str, Any]:
    """Compute each mask again, one image after the other, and compare.

    Returns:
        ``checked``, ``mismatches`` (answers with any other pixel), ``largest_difference`` (share of a mask's pixels).
    """
    by_image: dict[str, dict[tuple[Click, ...], list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for each in answers:
        if each.status == 200:
            by_image[each.arrival.image][each.arrival.clicks].append(each.rle)
    differences: list[float] = []
    for image, by_clicks in by_image.items():
        state = segmenter.encode(decode_image((folder / image).read_bytes(), max_pixels=10**9))
        for clicks, given in by_clicks.items():
            mask = segmenter.segment(state, clicks).mask
            found = {rle: float((decode_mask(rle, size) != mask).mean()) for rle in set(given)}
            differences += [found[rle] for rle in given]
    return {
        "checked": len(differences),
        "mismatches": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=0.0),
    }


def faults_of(answers: Iterable[Answer], masks: Mapping[str, Any], damaged: int) -> list[str]:
    """Sentences for what must not happen: even while workers die, a request gets its mask or a 503 that says why."""
    bad = Counter((each.status, each.reason) for each in answers if each.status not in (200, 503) or not each.reason)
    found = [f"{number} requests ended with {status} {reason!r}" for (status, reason), number in bad.items()]
    if masks["mismatches"]:
        found.append(f"{masks['mismatches']} masks of {masks['checked']} differ from those computed alone")
    if damaged:
        found.append(f"{damaged} files in the cache are damaged")
    return found


def decode_mask(rle: bytes, size: Size) -> NDArray[np.bool_]:
    """Brush RLE → bool [H, W]; no RLE is an empty mask."""
    if not rle:
        return np.zeros(size[::-1], np.bool_)
    return np.asarray(decode_rle(list(rle))).reshape(size[1], size[0], 4)[..., 3] > 0


def count_damaged(segmenter: Segmenter, settings: Settings, cache: Path) -> int:
    """Files of a cache folder that cannot be used; they are removed."""
    disk = Engine(segmenter.backbone, settings.model_copy(update={"cache_dir": cache})).disk
    for path in cache.rglob("*.safetensors"):
        disk.get(path.stem)
    return disk.health.damaged
