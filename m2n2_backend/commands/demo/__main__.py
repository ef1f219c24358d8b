"""The command of the demonstration."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from m2n2_backend.backbones.weights.names import check_backbone
from m2n2_backend.commands.arguments import BACKBONE, with_settings
from m2n2_backend.commands.demo.clicking import label, server
from m2n2_backend.commands.demo.picture import before_and_after
from m2n2_backend.commands.demo.subjects import SUBJECTS, Labeled
from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import Settings


@with_settings(*BACKBONE)
def demo(
    folder: Annotated[Path, typer.Argument(help="Where demo.png goes.")] = Path("out"), *, settings: Settings
) -> None:
    """Start a server, click on three photographs, and save a picture of the answers."""
    # The server has a process group of its own, which a signal to this one does not reach.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    environment = _backbone_of(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be the folder of demo.png: {error.strerror}") from error
    console = Console()
    started = time.perf_counter()
    with server(**environment) as (base, health):
        ready = time.perf_counter() - started
        console.print(f"server: {base}  backbone: {health['backbone']}", soft_wrap=True)
        labeled = [label(base, subject) for subject in SUBJECTS]
    path = folder / "demo.png"
    before_and_after(labeled).save(path)
    count = sum(len(each.clicks) for each in labeled)
    console.print(_table(labeled))
    console.print(f"ready after {ready:.1f} s; {count} clicks, each of which changed its mask")
    console.print(f"before and after: {path}", soft_wrap=True)
    console.print("next: make studio, to click yourself in Label Studio")


def main() -> None:
    """Run it with the arguments of this process."""
    typer.run(demo)


def _backbone_of(settings: Settings) -> dict[str, str]:
    """Variables that choose the server's backbone: color, unless the settings name another one.

    Raises:
        SettingsError: The backbone and the model do not go together.
        BackboneUnavailable: The weights are not on disk.
    """
    chosen = settings.model_dump(include=set(BACKBONE), exclude_unset=True, exclude_none=True)
    check_backbone(chosen.setdefault("backbone", "color"), model=settings.model)
    if "layers" in chosen:
        chosen["layers"] = ",".join(map(str, chosen["layers"]))
    return {f"M2N2_{name.upper()}": str(value) for name, value in chosen.items()}


def _table(labeled: Sequence[Labeled]) -> Table:
    """A row for each object: clicks, waiting times, and how far each mask overlaps with the drawn one."""
    table = Table("object", "clicks", "first click", "further clicks", "overlap with a drawn mask")
    for each in labeled:
        first, *further = (f"{1000 * seconds:.0f} ms" for seconds in each.seconds)
        overlaps = " → ".join(f"{overlap:.0%}" for overlap in each.overlaps)
        table.add_row(each.subject.name, str(len(each.clicks)), first, ", ".join(further), overlaps)
    return table


if __name__ == "__main__":
    main()
