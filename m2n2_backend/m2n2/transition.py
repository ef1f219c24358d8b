"""Step 2: attention → doubly stochastic transition matrix and its powers (Sec. 3.3, Eq. 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

TEMPERATURE = 0.65
"""T of the paper's experiments (Sec. 4.1)."""

TOLERANCE = 1e-4
"""Largest deviation of a row sum from 1 after IPF. The paper states none."""

MAX_SWEEPS = 300
"""Cap of IPF sweeps; what is left by then is ``Transition.residual``. Most seen: 34."""

SLOW_SWEEPS = 10
"""Matrices that IPF fits slowly also mix slowly: ViT attention takes 4 to 7 sweeps and maps of 2 to 9 steps, color
affinities 14 to 34 sweeps and maps of 50 to 1000 steps (GrabCut, grid 40). In blocks of 8 a step of the latter costs
a fourth on a CPU; for the former the powers would cost more than they save."""

HALF_SCALE = 4096.0
"""What 16-bit powers are multiplied by. P is doubly stochastic, so with rows scaled to a largest value of ``_ROW`` no
product exceeds 16 · 4096, the end of the 16-bit range, while an entry of 1e-8 still keeps three digits."""

_ROW = 15.0
_HISTORY = 8  # sweeps that are combined; 4 takes a third more of them, 12 no fewer (color affinities, GrabCut)
_LEAST = 1e-30  # IPF has a solution only for positive entries; attention underflows to 0 in 32-bit


@dataclass(frozen=True)
class Transition:
    """A Markov chain that converges to the uniform distribution, whatever the image.

    Attributes:
        powers: P, P², P⁴ … P^(2^k), each [n, n]: float32, where columns of P sum to 1 and rows to 1 within
            ``residual``; or float16, ``HALF_SCALE`` times as much.
        sweeps: IPF sweeps done.
        residual: Largest |row sum - 1| left; above the tolerance only if the cap was reached.
    """

    powers: tuple[torch.Tensor, ...]
    sweeps: int
    residual: float

    @property
    def matrix(self) -> torch.Tensor:
        """P, float32 [n, n]; a copy where 16 bits are kept."""
        first = self.powers[0]
        return first if first.dtype == torch.float32 else first.float() / HALF_SCALE

    @property
    def block(self) -> int:
        """Steps that one pass over the largest power advances, 2^k."""
        return int(2 ** (len(self.powers) - 1))

    def distributions(self, starts: torch.Tensor) -> Iterator[torch.Tensor]:
        """p_0, p_1, p_2 … without end (Eq. 4), in blocks of 2^k: [p_t, …, p_(t+2^k-1)]·P^(2^k) are the next 2^k.

        So the largest matrix is read once per block instead of once per step, when its first step is asked for.

        Args:
            starts: p_0 of c chains, float32 [c, n], entries ≥ 0, no row all zero.

        Yields:
            float32 [c, n]; each row up to a factor of its own, as only ratios within one distribution count.
        """
        block = starts[:, None]  # [c, steps, n]
        for power in self.powers[:-1]:
            block = torch.cat([block, _advance(block, power)], dim=1)
        while True:
            yield from block.unbind(dim=1)
            block = _advance(block, self.powers[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all powers."""
        return sum(power.nbytes for power in self.powers)


def transition_matrix(
    attention: torch.Tensor,
    *,
    temperature: float = TEMPERATURE,
    tolerance: float = TOLERANCE,
    max_sweeps: int = MAX_SWEEPS,
    doublings: int | None = None,
    half: bool | None = None,
) -> Transition:
    """Sharpen by temperature, then fit rows and columns to sum 1 (Eq. 5, IPF).

    The matrix of ``attention`` is reused for P: it must not be read afterwards.

    Args:
        attention: A, float32 [n, n], entries ≥ 0, no row all zero.
        temperature: T > 0.
        tolerance: IPF stops once no row sum is further than this from 1.
        max_sweeps: IPF stops here in any case.
        doublings: k; ``powers`` holds k + 1 matrices, and a chain advances 2^k steps per pass.
            None is 4 on an accelerator, where a pass is bound by memory, and on a CPU 3 for chains that mix slowly.
        half: Keep the powers in 16-bit, which halves memory and time of a pass; sums are still taken in 32-bit by
            the accelerator. None does so on CUDA alone. Maps stay within 1 % of their range of those in 32-bit.

    Raises:
        FloatingPointError: ``attention`` holds NaN, or a row of zeros.
    """
    matrix = _sharpen(attention, temperature)
    left, right, sweeps, residual = _fit(matrix, tolerance, max_sweeps)
    # u, v are applied once here: the chain then costs one product a step instead of one product and two scalings.
    matrix.mul_(left[:, None]).mul_(right[None, :])
    if doublings is None:
        slow = 3 if sweeps > SLOW_SWEEPS else 0
        doublings = slow if matrix.device.type == "cpu" else 4
    if half is None:
        half = matrix.device.type == "cuda"
    powers = [_halved(matrix * HALF_SCALE) if half else matrix]
    for _ in range(doublings):
        powers.append(_square(powers[-1]))
    return Transition(tuple(powers), sweeps, residual)


def _advance(block: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Distributions, float32 [c, b, n] → those one power later, each up to a factor of its own."""
    rows = block.flatten(0, 1)
    if power.dtype == torch.float16:
        following = ((rows * (_ROW / rows.amax(dim=1, keepdim=True))).half() @ power).float()
    elif len(rows) == 1 and rows.device.type == "cpu":
        following = torch.mv(power.T, rows[0])  # five times faster than a product of matrices
    else:
        following = rows @ power
    return following.view_as(block)


def _square(power: torch.Tensor) -> torch.Tensor:
    if power.dtype == torch.float32:
        return power @ power
    # 4096·P · 8·P stays in range, and P² is wanted 4096 times.
    return _halved((power @ (power * (8.0 / HALF_SCALE))) * 0.125)


def _halved(scaled: torch.Tensor) -> torch.Tensor:
    """A power times ``HALF_SCALE`` in 16-bit, its columns brought to their sum again.

    Rounding errors of a column's entries cancel out, but what they leave over would add up with every pass: without
    this the map of a chain of 650 steps is off by 2 % of its range, with it by 0.3 %.
    """
    sums = scaled.sum(dim=0, dtype=torch.float32)
    return (scaled * (HALF_SCALE / sums)).half()


def _sharpen(attention: torch.Tensor, temperature: float) -> torch.Tensor:
    """A^(1/T) in place with every row scaled to maximum 1; IPF absorbs the softmax's denominator."""
    logits = attention.log_().div_(temperature)
    logits.sub_(logits.amax(dim=1, keepdim=True))
    sharp = logits.exp_().clamp_(min=_LEAST)
    if not torch.isfinite(sharp.sum()):
        raise FloatingPointError("attention has a row of zeros or a non-finite value")
    return sharp


def _fit(matrix: torch.Tensor, tolerance: float, max_sweeps: int) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Vectors u, v with diag(u)·matrix·diag(v) doubly stochastic: two products a sweep, no rewrite of the matrix.

    One sweep is a map log u → log u whose fixed point is wanted, so it is found by Anderson acceleration (Walker & Ni
    2011): the next point is the combination of the latest sweeps whose residuals cancel best. The solution of IPF is
    unique, whatever the way to it.
    """
    transposed = matrix.T
    points, images = deque[torch.Tensor](maxlen=_HISTORY), deque[torch.Tensor](maxlen=_HISTORY)
    best = start = -torch.mv(matrix, torch.ones_like(matrix[0])).log()
    sweeps, least = 0, float("inf")
    while True:
        left = start.exp()
        right = 1.0 / torch.mv(transposed, left)
        image = -torch.mv(matrix, right).log()
        residual = float(torch.expm1(start - image).abs().max())
        sweeps += 1
        if residual <= tolerance or sweeps >= max_sweeps:
            return left, right, sweeps, residual
        if residual <= 2.0 * least:
            points.append(start)
            images.append(image)
            start = _extrapolate(points, images)
        else:
            # The extrapolation went astray, perhaps to infinity: on from the best sweep, as plain ones converge.
            points.clear()
            images.clear()
            start = best
        if residual < least:
            least, best = residual, image


def _extrapolate(points: Sequence[torch.Tensor], images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Affine combination of the images, weighted so that the same combination of the steps is as short as can be."""
    if len(points) == 1:
        return images[0]
    images_ = torch.stack(tuple(images)).cpu().double()
    steps = images_ - torch.stack(tuple(points)).cpu().double()
    differences = steps.diff(dim=0)  # [history - 1, n]
    gram = differences @ differences.T
    gram += 1e-10 * gram.trace() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, differences @ steps[-1])
    combined: torch.Tensor = images_[-1] - weights @ images_.diff(dim=0)
    return combined.to(points[0])
