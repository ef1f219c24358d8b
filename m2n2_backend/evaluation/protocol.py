"""The two protocols by which clicks are counted. Figures of different protocols do not compare.

``ritm`` is that of RITM, SimpleClick and most papers on clicks: pixels that a data set marks as undecided count
nowhere; missing and superfluous regions are looked at apart, and no pixel is clicked twice; SBD has an object per
instance. ``released`` is that of the authors' released code, and so behind the paper's figures: an undecided
pixel is object; there is one mask of errors and no memory; SBD has an object per class and photograph.
"""

from __future__ import annotations

from typing import Literal

ProtocolName = Literal["ritm", "released"]

PROTOCOLS: tuple[ProtocolName, ...] = ("ritm", "released")
"""All of them, the default first."""
