"""The hyperparameters of the whole path, each with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from m2n2_backend.m2n2.markov import MAX_ITERATIONS, THRESHOLD
from m2n2_backend.m2n2.threshold import PRIOR, Scores
from m2n2_backend.m2n2.transition import MAX_SWEEPS, TEMPERATURE, TOLERANCE
from m2n2_backend.m2n2.upsample import RADIUS, SAMPLES


@dataclass(frozen=True)
class Method:
    """Every choice between attention and mask; the defaults are the paper's where it states one.

    Attributes:
        relation: ``markov`` is M2N2; the others are the paper's baselines (Sec. 8).
        temperature: T of Eq. 5 for ``markov``; the baselines use 10 and 2.
        tolerance: Of IPF, largest |row sum - 1|.
        max_sweeps: Of IPF.
        threshold: τ of Eq. 6.
        max_iterations: Of the chain.
        doublings: k; the chain advances 2^k steps per pass. None decides by device and by how fast the chain mixes.
        half: Keep the powers of P in 16-bit. None does so on CUDA alone.
        batch: Chains of new clicks that run together; None decides by device.
        radius: Of the JBU window, in cells.
        samples: JBU guidance samples per side of a cell; 0 reads every pixel.
        flood_fill: False is the paper's "without flood fill".
        scores: Factors of Eq. 9.
        prior: Share of the image from which on s_prior is 0.
        fixed_threshold: Share of each map's maximum that is taken as λ instead of Eq. 8; 0.5 is the first row of
            the paper's Table 2.
        least_cells: Thresholds whose segment is smaller than so many cells are no candidates; 0 takes all, as the
            paper does.
        working_size: Longest side, in pixels, at which steps 4 to 7 run; larger photographs are reduced for them.
        despeckle: Specks and holes of less than this share of the image are removed; 0 is the paper's exact output.
    """

    relation: Literal["markov", "attention", "kl"] = "markov"
    temperature: float = TEMPERATURE
    tolerance: float = TOLERANCE
    max_sweeps: int = MAX_SWEEPS
    threshold: float = THRESHOLD
    max_iterations: int = MAX_ITERATIONS
    doublings: int | None = None
    half: bool | None = None
    batch: int | None = None
    radius: int = RADIUS
    samples: int = SAMPLES
    flood_fill: bool = True
    scores: Scores = field(default_factory=Scores)
    prior: float = PRIOR
    fixed_threshold: float | None = None
    least_cells: float = 0.0
    working_size: int = 1024
    despeckle: float = 0.0
