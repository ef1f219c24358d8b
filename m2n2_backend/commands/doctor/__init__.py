"""Looks at everything a working set-up needs and names the cure of what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from m2n2_backend.commands.doctor.check import Check
from m2n2_backend.commands.doctor.machine import check_machine
from m2n2_backend.commands.doctor.studio import check_label_studio
from m2n2_backend.settings import Settings

__all__ = ["Check", "diagnose", "report"]

_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}


def diagnose(settings: Settings, address: str | None = None) -> Iterator[Check]:
    """Run all checks, cheap ones first; each is yielded as soon as it is known.

    Args:
        address: Where Label Studio reaches this backend, such as ``http://backend:9090``; guessed if None.
    """
    yield from check_machine(settings)
    yield from check_label_studio(settings, address)


def report(settings: Settings, address: str | None, console: Console) -> bool:
    """Print the findings of :func:`diagnose` with their cures; returns whether nothing failed."""
    fine = True
    for check in diagnose(settings, address):
        fine &= check.state != "fail"
        state = f"[{_COLORS[check.state]}]{check.state:>4}[/]"
        console.print(f"{state} [bold]{check.name}[/]:", check.detail, soft_wrap=True)
        if check.cure:
            console.print("       cure:", check.cure, soft_wrap=True, highlight=False)
    return fine
