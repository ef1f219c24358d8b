"""One project: its tasks page by page from Label Studio, through the SDK's converter, into a folder."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from m2n2_backend.errors import ExportError, one_line
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.contract.reading import objects_in
from m2n2_backend.labelstudio.export.controls import converter_config, read_controls
from m2n2_backend.labelstudio.export.items import Items
from m2n2_backend.labelstudio.export.names import write_table
from m2n2_backend.labelstudio.export.regions import Json, without_prompts
from m2n2_backend.labelstudio.export.shapes import Format
from m2n2_backend.labelstudio.export.written import Counts, complete_coco, written
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.settings import Settings

_CONVERTER_FORMATS: Mapping[Format, str] = {
    "coco": "COCO",
    "yolo": "YOLO",
    "voc": "VOC",
    "png": "BRUSH_TO_PNG",
    "json": "JSON",
}


@dataclass
class Summary:
    """What an export did.

    Attributes:
        tasks: Number of tasks with annotations.
        images: Number of images, each counted once for each annotation.
        given: What there was to write; nothing is counted for JSON.
        written: What is in the files.
        prompts: How many saved prompts of each control were left out.
        notes: What else was left out or looks different from what one may expect, a sentence each.
        unreadable: Number of regions that could not be exported; their tasks' outcomes say why.
    """

    tasks: int = 0
    images: int = 0
    given: Counts = field(default_factory=Counts)
    written: Counts = field(default_factory=Counts)
    prompts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    unreadable: int = 0

    @property
    def complete(self) -> bool:
        """Whether all regions but the prompts are in the files."""
        return self.given == self.written and not self.unreadable


class ProjectExport:
    """Reads a project and writes its files; a context manager, which removes a folder without files at its end."""

    def __init__(self, settings: Settings, project: int, format: Format, out: Path) -> None:
        """Ask Label Studio for the project.

        Args:
            out: The folder for the files; created where it is missing.

        Raises:
            SettingsError: Address or token is not set.
            LabelStudioUnavailable: Label Studio does not answer, or refuses this token or project.
            InvalidLabelConfig: The project's labeling config is not XML.
            ExportError: The folder cannot be used, or holds files.
        """
        _require_empty(out)
        self._studio = LabelStudioClient.of(settings)
        self._project = project
        self._format = format
        self._out = out
        found = self._studio.project(project)
        self.size = int(found.get("task_number") or 0)
        self._controls = read_controls(str(found.get("label_config") or ""))
        self._summary = Summary()
        self._kept = 0
        self._skipped = 0
        self._only_drafts = 0
        self._is_new = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
            # In the folder itself, so that what is done moves in one step and what failed leaves nothing behind.
            self._temporary = tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out)
        except OSError as error:
            raise ExportError(f"{out} cannot be written: {error}") from error
        self._folder = Path(self._temporary.name)
        self._items = Items(self._controls, format, self._folder)

    def __enter__(self) -> ProjectExport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.cleanup()
        if self._is_new and not any(self._out.iterdir()):
            self._out.rmdir()

    def read(self) -> Iterator[Outcome]:
        """Read all tasks.

        Yields:
            ``exported``; ``no annotations``; ``failed`` where a region cannot be exported, with the reason.

        Raises:
            LabelStudioUnavailable: The list of tasks cannot be read.
        """
        with (self._folder / "tasks.json").open("w", encoding="utf-8") as file:
            separator = "["
            for task in self._studio.tasks(self._project, whole=True):
                name = f"task {task['id']}"
                if not (cleaned := self._without_prompts(task)):
                    yield Outcome(name, "no annotations")
                    continue
                items, unreadable = self._items.of_task(cleaned)
                for item in items:
                    file.write(separator + json.dumps(item, ensure_ascii=False))
                    separator = ","
                self._summary.unreadable += len(unreadable)
                yield Outcome(name, "failed", "; ".join(unreadable)) if unreadable else Outcome(name, "exported")
            file.write("]" if separator == "," else "[]")

    def write(self) -> Summary:
        """Convert what was read.

        Raises:
            ExportError: There is nothing to export, or the converter or the disk failed.
        """
        self._require_something()
        summary, items = self._summary, self._items
        config = converter_config(self._controls, items.emitted, sorted(items.classes))
        files = self._folder / "files"
        try:
            files.mkdir()
            _convert(config, self._folder / "tasks.json", files, self._format)
            sizeless = complete_coco(files, items.coco_images, items.masks) if self._format == "coco" else 0
            if self._format != "json":
                write_table(files, items.images)
                summary.written = written(files, self._format, pose=bool(self._controls.key_points.known))
            for path in files.iterdir():
                path.rename(self._out / path.name)
        except OSError as error:
            raise ExportError(f"{self._out} cannot be written: {error}") from error
        summary.given = items.given
        summary.images = len(items.images)
        summary.notes = [*self._notes(), *items.notes(sizeless)]
        return summary

    def _without_prompts(self, task: Json) -> Json | None:
        """The task as its project would hold it without the prompts; None where it has no annotation."""
        annotations, drafts = ([dict(one) for one in objects_in(task.get(key))] for key in ("annotations", "drafts"))
        if not annotations:
            self._only_drafts += bool(drafts)
            return None
        self._summary.tasks += 1
        for entry in [*annotations, *drafts] if self._format == "json" else annotations:
            found = without_prompts(entry.get("result"), self._controls.prompts)
            entry["result"] = found.kept
            if entry.get("was_cancelled") and self._format != "json":
                self._skipped += 1
            else:
                self._summary.prompts += found.prompts
                self._kept += len(found.kept)
        return {**task, "annotations": annotations, "drafts": drafts}

    def _require_something(self) -> None:
        prompts = self._summary.prompts
        if not self._summary.tasks:
            drafts = f" ({self._only_drafts} hold drafts that were not submitted)" if self._only_drafts else ""
            raise ExportError(f"project {self._project} has no task with an annotation{drafts}")
        if not self._kept and prompts:
            raise ExportError(
                f"all {sum(prompts.values())} saved regions of project {self._project} are prompts {self._cure()}"
            )
        if self._format != "json" and self._items.empty:
            raise ExportError(
                f"project {self._project} has no region that can be exported as {self._format}"
                + (": export its answers as json" if self._items.answers else "")
            )

    def _cure(self) -> str:
        """The number of saved prompts of each control, and what to change where they are not prompts."""
        tags, counts = self._controls.prompts, sorted(self._summary.prompts.items())
        each = ", ".join(f'{count} of <{tags[name]} name="{name}">' for name, count in counts)
        return f'({each}); write smart="false" in a control whose regions are annotations and not prompts'

    def _notes(self) -> Iterator[str]:
        prompts = self._summary.prompts
        if prompts:
            yield f"{sum(prompts.values())} saved prompts left out {self._cure()}"
        if self._skipped:
            yield f"{self._skipped} skipped annotations left out"
        if self._only_drafts:
            yield f"{self._only_drafts} tasks left out whose drafts were not submitted"
        if self._format != "json":
            yield from self._controls.warnings


def _require_empty(out: Path) -> None:
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ExportError(f"{out} cannot be read: {error.strerror}") from error
    if used:
        raise ExportError(f"{out} already exists: name a new or empty folder, because files are not overwritten")


def _convert(config: str, tasks: Path, out: Path, format: Format) -> None:
    from label_studio_sdk.converter import Converter  # takes seconds to import

    # It logs each image that it should not download, with a traceback.
    lines = logging.getLogger("label_studio_sdk")
    level = lines.level
    lines.setLevel(logging.CRITICAL)
    try:
        converter: Any = Converter(config, project_dir=None, download_resources=False)
        converter.convert(str(tasks), str(out), _CONVERTER_FORMATS[format], is_dir=False)
    except OSError:
        raise
    except Exception as error:
        # The SDK raises whatever it stumbles over, ValueError for key points without model_index among it.
        raise ExportError(f"the SDK's converter failed: {one_line(error)}") from error
    finally:
        lines.setLevel(level)
