"""``m2n2-backend segment``: one object of one photograph on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2n2_backend.backbones.device.memory import memory_advice
from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.errors import ImageUnavailable, InvalidPrompt, SettingsError
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import MAX_PROMPTS, Box, Click, PointPrompt, Polygon, Prompts, Region, Scribble
from m2n2_backend.settings import Settings


def segment_file(
    settings: Settings,
    image: Path,
    clicks: Sequence[PointPrompt],
    boxes: Sequence[Region],
    *,
    out: Path,
    overlay: Path | None = None,
    explain: Path | None = None,
) -> dict[str, Any]:
    """Encode the photograph, compute each click's map as a user would make it, write the mask.

    Args:
        clicks: Clicks and scribbles, in pixels of the photograph.
        boxes: Boxes and polygons, likewise.
        out: File of the mask, an 8-bit PNG with 0 and 255.
        explain: Folder for pictures of the maps and score curves of every click.

    Returns:
        ``width``, ``height``, ``area`` (pixels), ``score``, ``thresholds``, ``backbone`` (fingerprint), ``reads``
        (model and layers, in words), ``grid``, ``timings_ms``: ``encode``, ``clicks`` (one new map each) and
        ``combine`` (thresholds to mask), ``view`` (left, top, width, height in pixels, or None), ``written`` (paths).

    Raises:
        M2N2Error: The image, a prompt, the backbone or an output path cannot be used.
    """
    rgb = decode_image(_read(image), max_pixels=settings.max_image_pixels)
    _check(clicks, boxes, rgb.shape[1], rgb.shape[0])  # before the model is loaded
    segmenter = Segmenter(backbone_loader(settings)(), settings.method())
    result, grid, timings = _segmented(segmenter, rgb, clicks, boxes)
    _write_png(out, result.mask.astype(np.uint8) * np.uint8(255))
    if overlay is not None:
        _write_png(overlay, result.overlay(rgb))
    if explain is not None:
        from m2n2_backend.evaluation.report.explain import explain as draw_explanation

        draw_explanation(segmenter, rgb, clicks, explain, boxes)
    return {
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "area": int(result.mask.sum()),
        "score": result.score,
        "thresholds": list(result.thresholds),
        "backbone": segmenter.backbone.fingerprint,
        "reads": segmenter.backbone.description,
        "grid": grid,
        "timings_ms": timings,
        "view": result.choice.view.corner_and_size if result.choice else None,
        "written": [str(path) for path in (out, overlay, explain) if path is not None],
    }


def summary(figures: Mapping[str, Any]) -> str:
    """A sentence about what :func:`segment_file` returned, and one about the files that it wrote."""
    share = figures["area"] / (figures["width"] * figures["height"])
    return (
        f"{figures['area']:,} of {figures['width']}x{figures['height']} pixels ({share:.1%}) are the object, "
        f"score {figures['score']:.2f}, {figures['reads']}\nwritten: {', '.join(figures['written'])}"
    )


def _check(clicks: Sequence[PointPrompt], boxes: Sequence[Region], width: int, height: int) -> None:
    """Check the prompts against the photograph's size.

    Raises:
        InvalidPrompt: As for :meth:`Prompts.validate`; the message names the option.
    """
    if not boxes and not any(click.positive for click in clicks):
        raise InvalidPrompt(
            "nothing says where the object is: name it with --click X,Y, --scribble, --box or --polygon "
            "(a --click or --scribble that ends in ,bg only takes away)"
        )
    if len(clicks) + len(boxes) > MAX_PROMPTS:
        raise InvalidPrompt(
            f"--click, --scribble, --box and --polygon are given {len(clicks) + len(boxes)} times in all, and at "
            f"most {MAX_PROMPTS} are allowed for one object"
        )
    for prompt in (*clicks, *boxes):
        single = Prompts(boxes=(prompt,)) if isinstance(prompt, Box | Polygon) else Prompts((prompt,))
        try:
            single.check_inside(width, height)
        except InvalidPrompt as error:
            raise InvalidPrompt(f"--{type(prompt).__name__.lower()}: {error}") from error
    Prompts(tuple(clicks), tuple(boxes)).require_few()


def _segmented(
    segmenter: Segmenter, rgb: NDArray[np.uint8], clicks: Sequence[PointPrompt], boxes: Sequence[Region]
) -> tuple[Segmentation, int, dict[str, Any]]:
    """The result, the side of the attention grid, and the milliseconds of each step as a user would wait for it."""
    backbone, marks = segmenter.backbone, [time.perf_counter()]
    with memory_advice(getattr(backbone, "grid", 128), backbone.device):
        state = segmenter.encode(rgb)
        marks.append(time.perf_counter())
        for index, click in enumerate(clicks):
            if state.views is None:
                segmenter.prompt_map(state, click)
            elif boxes or any(each.positive for each in clicks[: index + 1]):
                segmenter.segment(state, clicks[: index + 1], boxes)
            marks.append(time.perf_counter())
        result = segmenter.segment(state, clicks, boxes)
    marks.append(time.perf_counter())
    encode, *each, combine = (1000.0 * float(step) for step in np.diff(marks))
    return result, state.grid[0], {"encode": encode, "clicks": each, "combine": combine}


def parse_click(text: str) -> Click:
    """``X,Y[,fg|bg]`` → click.

    Raises:
        InvalidPrompt: Anything else.
    """
    parts = text.split(",")
    try:
        if len(parts) in (2, 3) and (len(parts) == 2 or parts[2] in ("fg", "bg")):
            return Click(int(parts[0]), int(parts[1]), len(parts) == 2 or parts[2] == "fg")
    except ValueError:
        pass
    raise InvalidPrompt(f"--click {text}: expected X,Y or X,Y,fg or X,Y,bg with whole pixels")


def parse_box(text: str) -> Box:
    """``X0,Y0,X1,Y1`` → box; the right and bottom edges are exclusive.

    Raises:
        InvalidPrompt: Anything else.
    """
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise InvalidPrompt(f"--box {text}: expected X0,Y0,X1,Y1 with whole pixels") from None
    return Box(x0, y0, x1, y1)


def parse_scribble(text: str) -> Scribble:
    """``X,Y,X,Y,…[,fg|bg]`` → a stroke of nine pixels.

    Raises:
        InvalidPrompt: Anything else.
    """
    parts, positive = text.split(","), True
    if parts[-1] in ("fg", "bg"):
        positive = parts.pop() == "fg"
    return Scribble.along(_points("--scribble", text, parts), 9, positive)


def parse_polygon(text: str) -> Polygon:
    """``X,Y,X,Y,X,Y,…`` → the polygon with these corners.

    Raises:
        InvalidPrompt: Anything else.
    """
    return Polygon(tuple(_points("--polygon", text, text.split(","))))


def _points(option: str, text: str, parts: Sequence[str]) -> list[tuple[int, int]]:
    try:
        numbers = [int(part) for part in parts]
        return list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise InvalidPrompt(f"{option} {text}: expected X,Y,X,Y,… with whole pixels") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, format="PNG")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
