"""``m2n2-backend evaluate``: a data set, or the masks that a project's annotators accepted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.evaluate.project import evaluate_project
from m2n2_backend.commands.evaluate.several import chosen_backbones
from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.run import EvaluationOptions, evaluate
from m2n2_backend.settings import Settings

_PRINTED = (
    "dataset", "method", "preset", "protocol", "backbone", "n", "noc85", "noc90", "noc95", "not_reached_90",
    "collapses",
)  # fmt: skip


def run_evaluation(
    settings: Settings,
    backbones: Sequence[str],
    project: int | None,
    console: Console,
    json_file: Path | None,
    **options: Any,
) -> bool:
    """Evaluate what the command line names, and print the figures.

    Args:
        backbones: As ``chosen_backbones`` takes them; the settings' own if there are none.
        json_file: File of the results; needed for a data set.
        options: The other attributes of :class:`EvaluationOptions`; ``dataset`` and ``root`` may be None.

    Returns:
        Whether every backbone could be measured.

    Raises:
        M2N2Error: The options exclude each other, or as for :func:`evaluate` and :func:`evaluate_project`.
    """
    chosen = chosen_backbones(settings, backbones)
    dataset, root = options.pop("dataset"), options.pop("root")
    if project is not None:
        if options.pop("mosaic") != 1:
            raise SettingsError("--mosaic belongs to --dataset")
        if dataset is not None or root is not None:
            raise SettingsError("--project measures a project's own masks: leave out --dataset and --root")
        if options["beside"] is not None or options["explain"] is not None:
            raise SettingsError("--beside and --explain belong to --dataset: --project compares with --backbone")
        if options["method"].preset != "ours":
            raise SettingsError("--preset belongs to --dataset: --project measures as the service answers")
        return evaluate_project(chosen, project, console, json_file=json_file, **options)
    if dataset is None or root is None or json_file is None:
        raise SettingsError("name a data set with --dataset, --root and --json, or a Label Studio project: --project")
    if len(chosen) > 1:
        raise SettingsError("--dataset measures one --backbone; --project measures several beside each other")
    loader = backbone_loader(chosen[0], fixed_grid=True, released=options["method"].preset == "released")
    result = evaluate(EvaluationOptions(dataset, root, json_file, **options), loader, console=console)
    print(json.dumps({name: result[name] for name in _PRINTED}))
    return True
