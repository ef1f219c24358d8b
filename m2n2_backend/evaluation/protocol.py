"""The two protocols by which clicks are counted. Figures of different protocols cannot be compared.

``ritm`` is the protocol of RITM, SimpleClick and most papers on clicks: pixels that a data set marks as undecided do
not count; missing and superfluous regions are searched separately, and no pixel is clicked twice; SBD has an object
for each instance. ``released`` is the protocol of the authors' released code, and so of the paper's figures:
undecided pixels are object; there is one mask of errors, and earlier clicks are not remembered; SBD has an object for
each class in a photograph.
"""

from __future__ import annotations

from typing import Literal

ProtocolName = Literal["ritm", "released"]

PROTOCOLS: tuple[ProtocolName, ...] = ("ritm", "released")
"""All protocols, the default first."""
