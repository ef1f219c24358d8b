"""``m2n2-backend predict-project``: a progress bar and a report around a batch."""

from __future__ import annotations

import logging

from rich.console import Console

from m2n2_backend.commands.progress import run_with_progress
from m2n2_backend.labelstudio.batch import ProjectBatch
from m2n2_backend.labelstudio.contract.saved_prompts import Source
from m2n2_backend.settings import Settings
from m2n2_backend.worker.local.pool import ProcessPool


def predict_project(
    settings: Settings, project: int, column: str | None, console: Console, source: Source = "annotations"
) -> bool:
    """Post predictions for the tasks of a project that hold prompts, and print what became of them.

    Args:
        column: Key of the tasks' data with the prompts; None reads those that were drawn and saved.
        source: Where drawn prompts are saved.

    Returns:
        Whether no task failed.

    Raises:
        M2N2Error: Label Studio, the project or the model cannot be used at all.
    """
    batch = ProjectBatch(settings, project, column=column, source=source)
    pool = ProcessPool(settings)
    lines = logging.getLogger("m2n2_backend.labelstudio.predictor")
    level = lines.level
    lines.setLevel(logging.WARNING)  # one line a task is for a server's log
    try:
        states = run_with_progress(f"project {project}", batch.size, batch.run(pool), console)
    finally:
        lines.setLevel(level)
        pool.close()
    console.print(
        f"{states['posted']} posted, {states['present']} had one already, {states['no prompts']} without prompts, "
        f"{states['failed']} failed",
        highlight=False,
    )
    return not states["failed"]
