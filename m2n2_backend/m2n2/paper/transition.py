"""Step 2: attention → doubly stochastic transition matrix and its powers (Sec. 3.3, Eq. 5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from m2n2_backend.m2n2.paper.half_powers import HALF_SCALE, advance_in_16_bit, powers_in_16_bit

TEMPERATURE = 0.65
"""T of the paper's experiments (Sec. 4.1)."""

TOLERANCE = 1e-4
"""Largest deviation of a row sum from 1 after IPF. The paper states none."""

MAX_SWEEPS = 300
"""Largest number of IPF sweeps; the deviation left by then is ``Transition.residual``. At most 34 were seen."""

SLOW_SWEEPS = 10
"""Matrices that IPF fits slowly also mix slowly: ViT attention takes 4 to 7 sweeps and maps of 2 to 9 steps, color
affinities 14 to 34 sweeps and maps of 50 to 1000 steps (GrabCut, grid 40). In blocks of 8 a step of the latter costs
a fourth on a CPU; for the former the powers would cost more than they save."""

_HISTORY = 8  # sweeps that are combined; 4 takes a third more of them, 12 no fewer (color affinities, GrabCut)
_LEAST = 1e-30  # IPF has a solution only for positive entries; attention underflows to 0 in 32-bit


Fit: TypeAlias = Callable[[torch.Tensor, float, int], tuple[torch.Tensor, torch.Tensor, int, float]]
"""Matrix, tolerance and limit of sweeps → u, v with diag(u)·matrix·diag(v) doubly stochastic, sweeps, residual."""


@dataclass(frozen=True)
class Transition:
    """A Markov chain, which converges to the uniform distribution for every image.

    Attributes:
        powers: P^e for each of ``exponents``, [n, n]: float32, where columns of P sum to 1 and rows to 1 within
            ``residual``; or float16, ``HALF_SCALE`` times as much, and 0 on the diagonal.
        exponents: 1 first, rising; the last is the number of steps that one pass over the last power advances.
        sweeps: IPF sweeps done.
        residual: Largest |row sum - 1| left; above the tolerance only if the limit of sweeps was reached.
        diagonals: Diagonals of the powers in 16-bit, float32 [n] each, see ``half_powers``; empty in 32-bit.
    """

    powers: tuple[torch.Tensor, ...]
    exponents: tuple[int, ...]
    sweeps: int
    residual: float
    diagonals: tuple[torch.Tensor, ...] = ()

    @property
    def matrix(self) -> torch.Tensor:
        """P, float32 [n, n]; a copy on the CPU where 16 bits are kept."""
        if not self.diagonals:
            return self.powers[0]
        matrix = self.powers[0].cpu().float().div_(HALF_SCALE)
        matrix.diagonal().copy_(self.diagonals[0])
        return matrix

    @property
    def block(self) -> int:
        """Steps that one pass over the largest power advances."""
        return self.exponents[-1]

    def step(self, distributions: torch.Tensor) -> torch.Tensor:
        """One step, p → p·P: float32 [c, n], entries ≥ 0."""
        return self._advance(distributions[:, None], 0)[:, 0]

    def distributions(self, starts: torch.Tensor) -> Iterator[torch.Tensor]:
        """p_0, p_1, p_2 … without end (Eq. 4), in blocks: [p_t, …, p_(t+b-1)]·P^b are the next b.

        So the largest matrix is read once per block instead of once per step, when its first step is requested. The
        first block is made with the smaller powers that there are.

        Args:
            starts: p_0 of c chains, float32 [c, n], entries ≥ 0, no row all zero.

        Yields:
            float32 [c, n].
        """
        block = starts[:, None]  # [c, steps, n]
        while (known := block.shape[1]) < self.block:
            number = sum(exponent <= known for exponent in self.exponents) - 1
            block = torch.cat([block, self._advance(block[:, -self.exponents[number] :], number)], dim=1)
        while True:
            yield from block.unbind(dim=1)
            block = self._advance(block, -1)

    @property
    def nbytes(self) -> int:
        """Bytes of the powers."""
        return sum(tensor.nbytes for tensor in (*self.powers, *self.diagonals))

    def _advance(self, block: torch.Tensor, number: int) -> torch.Tensor:
        """Advance distributions by one power, float32 [c, b, n]."""
        rows, power = block.flatten(0, 1), self.powers[number]
        if self.diagonals:
            following = advance_in_16_bit(rows, power, self.diagonals[number])
        elif len(rows) == 1 and rows.device.type == "cpu":
            following = torch.mv(power.T, rows[0])  # five times faster than a product of matrices
        else:
            following = rows @ power
        return following.view_as(block)


def transition_matrix(
    attention: torch.Tensor,
    *,
    temperature: float = TEMPERATURE,
    tolerance: float = TOLERANCE,
    max_sweeps: int = MAX_SWEEPS,
    doublings: int | None = None,
    half: bool | None = None,
    fit: Fit | None = None,
) -> Transition:
    """Sharpen by temperature, then fit rows and columns to sum 1 (Eq. 5, IPF).

    ``attention`` is consumed: its memory becomes P, or is freed, even if other code still refers to it.

    Args:
        attention: A, float32 [n, n], entries ≥ 0, no row all zero.
        temperature: T > 0.
        tolerance: IPF stops once no row sum is further than this from 1.
        max_sweeps: IPF stops here in any case.
        doublings: k; a chain advances 2^k steps per pass. P and P^(2^k) are kept, and on a CPU, where matrices are
            small, the powers between as well, which save passes in the first block.
            None is 4 on an accelerator, where a pass is bound by memory, and on a CPU 3 for chains that mix slowly.
        half: Keep the powers in 16-bit, which halves memory and time of a pass; sums are still taken in 32-bit.
            None does so on CUDA alone. Maps stay within 1 % of their range of those in 32-bit, also where cells
            attend to little but themselves (0.3 % at most in 2180 random chains that keep up to 0.9999). A cell whose
            probability only just touches the threshold may be reached then or much later in either.
        fit: The way to the vectors of IPF; None is :func:`accelerated_fit`.

    Raises:
        FloatingPointError: ``attention`` holds NaN, or a row of zeros.
    """
    matrix = _sharpen(attention, temperature)
    left, right, sweeps, residual = (fit or accelerated_fit)(matrix, tolerance, max_sweeps)
    # u, v are applied once here: the chain then costs one product a step instead of one product and two scalings.
    matrix.mul_(left[:, None]).mul_(right[None, :])
    if doublings is None:
        slow = 3 if sweeps > SLOW_SWEEPS else 0
        doublings = slow if matrix.device.type == "cpu" else 4
    if half is None:
        half = matrix.device.type == "cuda"
    if half:
        halves, diagonals = powers_in_16_bit(matrix, doublings)
        return Transition(halves, (1, 2**doublings)[: len(halves)], sweeps, residual, diagonals)
    powers = {1: matrix}
    if matrix.device.type == "cpu":
        for number in range(doublings):
            powers[2 ** (number + 1)] = powers[2**number] @ powers[2**number]
    elif doublings > 0:
        powers[2**doublings] = _power(matrix, doublings)
    return Transition(tuple(powers.values()), tuple(powers), sweeps, residual)


def _power(matrix: torch.Tensor, doublings: int) -> torch.Tensor:
    """P → P^(2^k), k ≥ 1; beside P two matrices are held on the way, of which the result is one."""
    power, spare = torch.empty_like(matrix), torch.empty_like(matrix)
    torch.matmul(matrix, matrix, out=power)
    for _ in range(doublings - 1):
        torch.matmul(power, power, out=spare)
        power, spare = spare, power
    return power


def _sharpen(attention: torch.Tensor, temperature: float) -> torch.Tensor:
    """A^(1/T) in place with every row scaled to maximum 1; IPF absorbs the softmax's denominator."""
    logits = attention.log_().div_(temperature)
    logits.sub_(logits.amax(dim=1, keepdim=True))
    sharp = logits.exp_().clamp_(min=_LEAST)
    if not torch.isfinite(sharp.sum()):
        raise FloatingPointError("attention has a row of zeros or a non-finite value")
    return sharp


def accelerated_fit(
    matrix: torch.Tensor, tolerance: float, max_sweeps: int
) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Vectors u, v with diag(u)·matrix·diag(v) doubly stochastic: two products a sweep, no rewrite of the matrix.

    One sweep is a map log u → log u. Its fixed point is the solution, found by Anderson acceleration (Walker & Ni,
    2011): the next point is the combination of the latest sweeps whose residuals cancel best. The solution of IPF is
    unique, so the way to it does not matter.
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
