"""``m2n2-backend export``: a progress bar and a report around an export."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from m2n2_backend.commands.progress import run_with_progress
from m2n2_backend.errors import ExportError
from m2n2_backend.labelstudio.export.project import ProjectExport
from m2n2_backend.labelstudio.export.shapes import Format
from m2n2_backend.settings import Settings


def export(settings: Settings, project: int, format: Format, out: Path, console: Console) -> bool:
    """Write a project's annotations into a folder, and print what became of them.

    Args:
        out: New or empty folder for the files.

    Returns:
        Whether every region that is not a prompt is in the files.

    Raises:
        M2N2Error: Label Studio cannot be asked, there is nothing to export, or the files cannot be written.
    """
    try:
        with ProjectExport(settings, project, format, out) as work:
            run_with_progress(f"project {project}", work.size, work.read(), console)
            summary = work.write()
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    for note in summary.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    if summary.unreadable:
        console.print(
            f"[red]{summary.unreadable} regions could not be exported[/], for the reasons above", highlight=False
        )
    if summary.given != summary.written:
        console.print(
            f"[red]the files hold {summary.written} of {summary.given}[/]: the SDK's converter left the others out; "
            "json holds them all",
            soft_wrap=True,
            highlight=False,
        )
    held = f": {summary.written} on {summary.images} images" if format != "json" else ""
    prompts = sum(summary.prompts.values())
    console.print(
        f"{summary.tasks} tasks exported to {out}{held}, {prompts} saved prompts left out",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return summary.complete
