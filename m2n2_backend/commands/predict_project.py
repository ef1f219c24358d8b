"""``m2n2-backend predict-project``: a progress bar and a report around a batch."""

from __future__ import annotations

import logging
from collections import Counter

from rich.console import Console
from rich.progress import Progress

from m2n2_backend.labelstudio.batch import Outcome, ProjectBatch
from m2n2_backend.settings import Settings
from m2n2_backend.worker.process_pool import ProcessPool

MAX_REASONS = 20
"""Failed tasks that are told with their reason; there may be thousands, all with the same."""


def predict_project(settings: Settings, project: int, column: str | None, console: Console) -> bool:
    """Post predictions for the tasks of a project that hold prompts, and print what became of them.

    Args:
        settings: Label Studio, backbone, limits.
        project: Label Studio's id of the project.
        column: Key of the tasks' data with the prompts; those saved in annotations and drafts if None.
        console: For the progress bar and the report.

    Returns:
        True where no task failed.

    Raises:
        M2N2Error: Label Studio, the project or the model cannot be used at all.
    """
    # One line a task is for a server's log.
    logging.getLogger("m2n2_backend.labelstudio.predictor").setLevel(logging.WARNING)
    batch = ProjectBatch(settings, project, column=column)
    states: Counter[str] = Counter()
    failed: list[Outcome] = []
    pool = ProcessPool(settings)
    try:
        with Progress(console=console) as progress:
            bar = progress.add_task(f"project {project}", total=batch.size)
            for outcome in batch.run(pool):
                states[outcome.state] += 1
                failed += [outcome] if outcome.state == "failed" else []
                progress.advance(bar)
    finally:
        pool.close()
    for outcome in failed[:MAX_REASONS]:
        console.print(f"task {outcome.task_id}: {outcome.detail}", soft_wrap=True, highlight=False)
    if len(failed) > MAX_REASONS:
        console.print(f"and {len(failed) - MAX_REASONS} more")
    console.print(
        f"{states['posted']} posted, {states['present']} had one already, {states['no prompts']} without prompts, "
        f"{len(failed)} failed",
        highlight=False,
    )
    return not failed
