"""The progress bar beside long work, and the reasons of single outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
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
"""How many outcomes are printed with their reason; there may be thousands with the same one."""


def run_with_progress(title: str, size: int, outcomes: Iterable[Outcome], console: Console) -> Counter[State]:
    """Do the work, and print the details of its outcomes, such as why some failed; returns how often each state came.

    Args:
        size: Number of outcomes to expect.
        outcomes: An iterator that does the work as it is read.
    """
    states: Counter[State] = Counter()
    explained: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(escape(title), total=size)
        for outcome in outcomes:
            states[outcome.state] += 1
            explained += [outcome] if outcome.detail else []
            progress.advance(bar)
    for outcome in explained[:MAX_REASONS]:
        console.print(f"{outcome.name}: {outcome.detail}", soft_wrap=True, highlight=False, markup=False)
    if len(explained) > MAX_REASONS:
        console.print(f"and {len(explained) - MAX_REASONS} more")
    return states


@contextmanager
def byte_progress(title: str, done: int, total: int | None, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar of bytes that starts at ``done``; the body calls the given function with each further number of bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(escape(title), total=total, completed=done)
        yield lambda number: progress.advance(bar, number)


def counted(title: str, items: Iterable[T], console: Console) -> Iterator[T]:
    """The same items, beside a count; for items whose number is not known."""
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(escape(title), total=None)
        for item in items:
            yield item
            progress.advance(bar)
