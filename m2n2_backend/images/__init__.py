"""Files, Pillow's images and arrays → RGB pixels, by rules that all callers share."""

from m2n2_backend.images.decode import DECODING, FORMATS, decode_image, natural_size
from m2n2_backend.images.kinds import format_of
from m2n2_backend.images.pixels import rgb_of

__all__ = ["DECODING", "FORMATS", "decode_image", "format_of", "natural_size", "rgb_of"]
