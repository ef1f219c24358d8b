"""``m2n2-backend evaluate --project``: which backbone needs the fewest clicks on the pictures of this project?"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.backbones.weights.names import check_backbone
from m2n2_backend.commands.progress import run_with_progress
from m2n2_backend.errors import DatasetError, M2N2Error
from m2n2_backend.evaluation.data.datasets import Sample, check_limit
from m2n2_backend.evaluation.report.comparison import HEAD, Row, cells, write_comparison
from m2n2_backend.evaluation.run import EvaluationOptions, evaluate, write_json
from m2n2_backend.evaluation.workers import in_fresh_process
from m2n2_backend.labelstudio.accepted.masks import AcceptedMasks
from m2n2_backend.labelstudio.outcome import State
from m2n2_backend.settings import Settings

WORST = 10
"""Objects that each backbone's page shows as its worst."""


def evaluate_project(
    backbones: Sequence[Settings],
    project: int,
    console: Console,
    *,
    json_file: Path | None,
    report: Path | None,
    limit: int | None,
    **options: Any,
) -> bool:
    """Measure each backbone on the accepted masks of a project, in a process of its own, and print a table.

    Args:
        backbones: The settings of each backbone.
        json_file: File for all figures.
        report: Folder of the page; it also keeps what an interrupted run measured.
        limit: Number of objects, from the first task on; None for all.
        options: Further attributes of :class:`EvaluationOptions`.

    Returns:
        Whether every backbone could be measured and every object read.

    Raises:
        M2N2Error: Label Studio cannot be asked, a backbone's weights are missing, or there is no accepted mask.
    """
    check_limit(limit, "objects")
    if options["method"].hyperparameters is None:
        backbones = backbones[:1]  # a classic reads no backbone
    else:
        for settings in backbones:
            check_backbone(settings.backbone, model=settings.model)
    with tempfile.TemporaryDirectory(prefix="m2n2-project-") as temporary:
        folder = Path(temporary)
        accepted = AcceptedMasks(backbones[0], project, folder, limit)
        states = run_with_progress(f"masks of project {project}", accepted.size, accepted.read(), console)
        samples = [Sample(one.name, one.image, one.mask, "strict") for one in accepted.objects]
        if not samples:
            raise DatasetError(f"project {project} has no accepted mask: {_counted(states)}")
        name, title = f"project {project}", f"project {project}, {accepted.title}"
        base = EvaluationOptions(name, folder, folder / "result.json", title=title, worst=WORST, **options)
        rows = [_measured(settings, base, samples, report, folder, console) for settings in backbones]
    method, told = base.method.name, list(accepted.team.sentences())
    if json_file is not None:
        figures = {"project": project, "title": accepted.title, "method": method, "objects": len(samples)}
        figures |= {"team": accepted.team.figures(), "backbones": [_as_json(row) for row in rows]}
        write_json(json_file, figures)
    if report is not None:
        page = write_comparison(report, title, method, rows, told)
        console.print(f"page written: {page}", soft_wrap=True, highlight=False, markup=False)
    _print(rows, title, method, told)
    return not states["failed"] and not any(row.error for row in rows)


def _as_json(row: Row) -> dict[str, Any]:
    return {"asked": row.name, **(row.result or {"error": row.error})}


def _counted(states: Counter[State]) -> str:
    return f"{states['no annotations']} tasks have no annotation with a mask, {states['failed']} cannot be read"


def _measured(
    settings: Settings,
    base: EvaluationOptions,
    samples: Sequence[Sample],
    report: Path | None,
    folder: Path,
    console: Console,
) -> Row:
    """The row of one backbone; one that cannot be loaded has its reason in it."""
    name = settings.backbone + (f"={settings.model}" if settings.model else "")
    if base.method.hyperparameters is None:
        name = base.method.name
    place = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    console.print(f"{name}:", highlight=False, markup=False)
    options = replace(
        base, json=(report or folder) / place / "result.json", report=report / place if report else None
    )
    try:
        result: Mapping[str, Any] = in_fresh_process(_evaluate, settings, options, samples)
    except M2N2Error as error:
        return Row(name, place, None, str(error))
    return Row(name, place, result)


def _evaluate(settings: Settings, options: EvaluationOptions, samples: Sequence[Sample]) -> dict[str, Any]:
    return evaluate(options, backbone_loader(settings, fixed_grid=True), samples=samples)


def _print(rows: Sequence[Row], title: str, method: str, told: Sequence[str]) -> None:
    """Print the table and the figures of the team to standard output."""
    out = Console(highlight=False)
    table = Table(*HEAD, title=escape(f"{title}: {method}"))
    for row in rows:
        table.add_row(*(escape(cell) for cell in cells(row)))
    out.print(table)
    for sentence in told:
        out.print(sentence, soft_wrap=True, markup=False)
