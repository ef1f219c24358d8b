"""Published figures, for comparison with measured ones."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("grabcut", "berkeley", "sbd", "davis")
"""The data sets of the published table."""

TITLES = {"grabcut": "GrabCut", "berkeley": "Berkeley", "sbd": "SBD", "davis": "DAVIS", "coco_mval": "COCO_MVal"}
"""The data sets' names as they are usually written."""

COUNTS = {"grabcut": 50, "berkeley": 100, "sbd": 6671, "davis": 345}
"""Number of objects over which each column is a mean."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of Table 3 in Karmann & Urfalioglu, CVPR 2025.

    Attributes:
        method: The paper's name of the method.
        figures: NoC85 and NoC90 for each of ``COLUMNS``; None where the paper has a dash.
    """

    method: str
    figures: tuple[tuple[float | None, float], ...]


PUBLISHED: tuple[PublishedRow, ...] = (
    PublishedRow("M2N2, SD2", ((1.62, 1.90), (2.45, 3.88), (7.72, 10.94), (4.60, 6.72))),
    PublishedRow("M2N2, SD1.1", ((1.84, 2.20), (2.90, 4.93), (8.56, 11.66), (5.16, 7.80))),
    PublishedRow("M2N2, DINOv2 ViT-B", ((1.92, 3.40), (3.55, 5.68), (7.94, 11.53), (6.85, 10.86))),
    PublishedRow("M2N2 without flood fill, SD2", ((3.06, 4.50), (4.80, 6.51), (9.16, 12.26), (5.50, 7.42))),
    PublishedRow("KL-NN, SD2", ((3.80, 5.32), (5.11, 7.71), (10.78, 14.00), (7.60, 10.89))),
    PublishedRow("Attention-NN, SD2", ((5.48, 7.16), (6.45, 9.61), (11.67, 14.97), (9.66, 13.12))),
    PublishedRow("MIS (trained on pseudo labels)", ((1.94, 2.32), (3.09, 4.58), (6.91, 9.51), (6.33, 8.44))),
    PublishedRow("GraphCut", ((7.98, 10.00), (None, 14.22), (13.60, 15.96), (15.13, 17.41))),
    PublishedRow("Random Walk", ((11.36, 13.77), (None, 14.02), (12.22, 15.04), (16.71, 18.31))),
    PublishedRow("Geodesic Matting", ((13.32, 14.57), (None, 15.96), (15.36, 17.60), (18.59, 19.50))),
    PublishedRow("SimpleClick ViT-H (supervised)", ((1.32, 1.44), (1.36, 2.09), (2.51, 4.15), (4.20, 5.34))),
)
"""Rows in the order in which they are shown."""
