"""The picture of the demonstration: a row for each photograph, its first mask beside its last one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from m2n2_backend.commands.demo.subjects import Labeled
from m2n2_backend.overlay import draw_overlay

_WIDTH = 600
_GAP = 8
_CAPTION = 30


def before_and_after(labeled: Sequence[Labeled]) -> Image.Image:
    """The masks of the first click and of all clicks, side by side, each with its clicks and a line of words."""
    rows = [[_panel(each, count) for count in (1, len(each.clicks))] for each in labeled]
    height = sum(row[0].height + _GAP for row in rows) - _GAP
    picture = Image.new("RGB", (2 * _WIDTH + _GAP, height), "white")
    top = 0
    for row in rows:
        for column, panel in enumerate(row):
            picture.paste(panel, (column * (_WIDTH + _GAP), top))
        top += row[0].height + _GAP
    return picture


def _panel(labeled: Labeled, count: int) -> Image.Image:
    """A photograph with the mask of the first ``count`` clicks."""
    with Image.open(labeled.subject.path) as image:
        rgb = np.asarray(image.convert("RGB"))
    drawn = Image.fromarray(draw_overlay(rgb, labeled.masks[count - 1], labeled.clicks[:count]))
    height = round(drawn.height * _WIDTH / drawn.width)
    panel = Image.new("RGB", (_WIDTH, height + _CAPTION), "white")
    panel.paste(drawn.resize((_WIDTH, height), Image.Resampling.LANCZOS), (0, _CAPTION))
    removing = sum(not click.positive for click in labeled.clicks[:count])
    clicks = f"{count} click{'s' * (count > 1)}" + f" ({removing} with Alt, red)" * bool(removing)
    words = f"{labeled.subject.name}: {clicks}, {labeled.overlaps[count - 1]:.0%} overlap with a drawn mask"
    ImageDraw.Draw(panel).text((4, 4), words, "black", ImageFont.load_default(18))
    return panel
