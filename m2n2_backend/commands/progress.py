"""The progress bar beside long work, and what there is to say of single outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from m2n2_backend.labelstudio.outcome import Outcome, State

T = TypeVar("T")

MAX_REASONS = 20
"""Outcomes that are told with their reason; there may be thousands, all with the same."""


def run_with_progress(title: str, size: int, outcomes: Iterable[Outcome], console: Console) -> Counter[State]:
    """Do the work, and print what there is to say of some of it, such as why it failed.

    Args:
        title: Beside the bar.
        size: Number of outcomes to expect.
        outcomes: Work is done as they are asked for.
        console: To print on.

    Returns:
        How often each state came.
    """
    states: Counter[State] = Counter()
    told: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(title, total=size)
        for outcome in outcomes:
            states[outcome.state] += 1
            told += [outcome] if outcome.detail else []
            progress.advance(bar)
    for outcome in told[:MAX_REASONS]:
        console.print(f"{outcome.name}: {outcome.detail}", soft_wrap=True, highlight=False, markup=False)
    if len(told) > MAX_REASONS:
        console.print(f"and {len(told) - MAX_REASONS} more")
    return states


@contextmanager
def byte_progress(title: str, done: int, total: int | None, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar of bytes, of which some came earlier; the body calls what it is given with each further number."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(title, total=total, completed=done)
        yield lambda number: progress.advance(bar, number)


def counted(title: str, items: Iterable[T], console: Console) -> Iterator[T]:
    """The same items, counted where it is not known how many there are."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=None)
        for item in items:
            yield item
            progress.advance(bar)
