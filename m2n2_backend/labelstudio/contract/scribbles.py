"""Strokes of Label Studio's brush and bitmask tools → scribbles, in pixels."""

from __future__ import annotations

import base64
import binascii
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.labelstudio.contract.drawn import DrawnItem, Value
from m2n2_backend.labelstudio.contract.reading import Text
from m2n2_backend.labelstudio.contract.strokes import alpha_of_code, alpha_of_png
from m2n2_backend.prompts import Scribble

MAX_STROKES = 50
"""Strokes of one object; each is an image to decode."""

MAX_CODE = 1_000_000
"""Run-length codes of all strokes of one object, in bytes; one across a photograph of 12 megapixels has 14,000."""

MAX_URL = 2_000_000
"""Characters of a stroke's PNG; an empty one of 24 megapixels has 130,000."""

MAX_PIXELS = 300_000_000
"""Pixels of all strokes of one object, as the code of each spans the image: 12 on a photograph of 24 megapixels."""

_OPAQUE = 128  # strokes have smooth edges


class DrawnStroke(DrawnItem):
    """A prompt that is an image of its pixels, which has to be decoded."""

    is_object = False

    @abstractmethod
    def alpha(self, width: int, height: int) -> NDArray[np.uint8]:
        """How opaque each pixel is, uint8 [height, width].

        Raises:
            InvalidPrompt: It belongs to an image of another size, or is damaged.
        """

    def prompt(self, width: int, height: int) -> Scribble:
        """See :meth:`DrawnItem.prompt`; call it only where the image is known to have this size."""
        alpha = self.alpha(width, height)
        least = _OPAQUE if alpha.max() >= _OPAQUE else 1
        np.greater_equal(alpha, least, out=alpha.view(np.bool_))  # in place: it may be large
        return Scribble.of_bits(np.packbits(alpha, axis=1), self.is_positive is not False)


class BrushValue(Value):
    """The image's RGBA values where a brush painted, run-length encoded by Label Studio's own scheme."""

    rle: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(fail_fast=True)]


class Brush(DrawnStroke):
    """A stroke drawn with ``<Brush>`` or ``<BrushLabels>``."""

    names = ("brushlabels", "brush")

    value: BrushValue

    def alpha(self, width: int, height: int) -> NDArray[np.uint8]:
        """See :meth:`DrawnStroke.alpha`."""
        return alpha_of_code(bytes(self.value.rle), width, height)


class BitmaskValue(Value):
    """A PNG of the image's size, opaque where the bitmask tool painted."""

    image_url: Text = Field(alias="imageDataURL")


class Bitmask(DrawnStroke):
    """A stroke drawn with ``<Bitmask>`` or ``<BitmaskLabels>``."""

    names = ("bitmasklabels", "bitmask")

    value: BitmaskValue

    def alpha(self, width: int, height: int) -> NDArray[np.uint8]:
        """See :meth:`DrawnStroke.alpha`."""
        head, _, data = self.value.image_url.partition(",")
        if head != "data:image/png;base64":
            raise InvalidPrompt("the stroke must be a PNG as a data URL")
        try:
            png = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise InvalidPrompt("the stroke's PNG cannot be read") from error
        return alpha_of_png(png, width, height)


def require_short(strokes: Sequence[DrawnStroke], width: int, height: int) -> None:
    """Refuse the strokes of an object that take long to read, before any is read.

    ``width`` and ``height`` are what the browser says of the image, which need not be true yet.

    Raises:
        InvalidPrompt: They are too many or too long.
    """
    if len(strokes) > MAX_STROKES:
        raise InvalidPrompt(f"more than {MAX_STROKES} strokes for one object")
    if len(strokes) * width * height > MAX_PIXELS:
        raise InvalidPrompt(
            f"{len(strokes)} strokes on an image of {width}x{height} pixels are more than can be read at once: "
            f"draw at most {MAX_PIXELS // (width * height)}, or click instead"
        )
    if sum(len(item.value.rle) for item in strokes if isinstance(item, Brush)) > MAX_CODE:
        raise InvalidPrompt(
            f"the strokes' codes have more than {MAX_CODE} bytes: draw fewer or simpler ones, or click instead"
        )
    if any(len(item.value.image_url) > MAX_URL for item in strokes if isinstance(item, Bitmask)):
        raise InvalidPrompt(
            f"a stroke's PNG has more than {MAX_URL} characters: draw a simpler one, or click instead"
        )
