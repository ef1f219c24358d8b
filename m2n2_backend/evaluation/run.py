"""``m2n2-backend evaluate``: runs a method on a data set and writes the JSON of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from m2n2_backend.errors import SettingsError
from m2n2_backend.evaluation.data.datasets import Sample, data_fingerprint, load_samples
from m2n2_backend.evaluation.data.mosaic import mosaics
from m2n2_backend.evaluation.fingerprint import identity, make_fingerprint
from m2n2_backend.evaluation.journal import FinishedSample, Journal
from m2n2_backend.evaluation.methods import MethodChoice, start_method
from m2n2_backend.evaluation.noc import summary
from m2n2_backend.evaluation.protocol import PROTOCOLS, ProtocolName
from m2n2_backend.evaluation.workers import (
    Assignment,
    Group,
    evaluate_group,
    evaluate_in_processes,
    group_by_photograph,
    one_torch_thread,
    peak_memory,
)
from m2n2_backend.files import replace_file
from m2n2_backend.m2n2.paper.attention import Backbone

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[running]}"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate on what, and where the results go.

    Attributes:
        dataset: One of ``datasets.DATASETS``, or any name where the samples are given.
        root: Folder of the data set.
        json: File of the results; ``<json>.partial`` beside it keeps finished samples until all are done.
        method: What is evaluated; what the service serves by default.
        protocol: Decides how labels are read, clicks made and masks compared.
        limit: Number of samples to use, from the first on; None for all.
        jobs: Number of processes, which does not change the results. Each has one thread of PyTorch; the compiled
            kernels of all share the cores.
        fresh: Do not continue an unfinished run.
        report: Folder of the HTML page; None for no page.
        explain: Sample whose maps and score curves the page shows; the median one by default.
        beside: JSON of another method on the same samples, which the page shows too.
        mosaic: Photographs in a row and a column of the large ones that are evaluated instead; 1 for the set's own.
        title: What the page calls the data set; a folder's name by default.
        worst: Number of samples that the page shows as worst; None is its default.
    """

    dataset: str
    root: Path
    json: Path
    method: MethodChoice = field(default_factory=MethodChoice.of)
    protocol: ProtocolName = "ritm"
    limit: int | None = None
    jobs: int = 1
    fresh: bool = False
    report: Path | None = None
    explain: str | None = None
    beside: Path | None = None
    mosaic: int = 1
    title: str | None = None
    worst: int | None = None


def evaluate(
    options: EvaluationOptions,
    load_backbone: Callable[[], Backbone] | None = None,
    *,
    samples: Sequence[Sample] | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run or finish one evaluation; write its JSON and, if wanted, its page.

    Args:
        options: What to evaluate, and where the results go.
        load_backbone: Needed by the framework's methods. It has to be picklable if ``jobs`` > 1, as each process
            calls it.
        samples: The objects, sorted by photograph and name; those of the data set by default.
        console: Where progress is shown; standard error by default.

    Returns:
        The JSON's content: ``dataset``, ``method``, ``preset``, ``protocol``, ``backbone`` and ``grid`` (None for a
        classic), the figures of ``noc.summary``, ``seconds_per_click`` and ``seconds_per_encode`` (medians over the
        samples), ``ipf_residual`` (the largest), ``peak_memory`` (most bytes of the largest process so far, and of
        the GPU or None), ``fingerprint`` (with all hyperparameters and the versions of the libraries), and
        ``samples``: the 20 IoUs of each, sorted by name. Only seconds and memory differ from run to run.

    Raises:
        DatasetError: Files are missing or cannot be read.
        SettingsError: A name is unknown, or the journal belongs to other settings.
        BackboneUnavailable: The backbone cannot be loaded.
    """
    if options.jobs < 1:
        raise SettingsError(f"{options.jobs} jobs cannot do anything")
    if options.protocol not in PROTOCOLS:
        raise SettingsError(f"unknown protocol {options.protocol}: there are {', '.join(PROTOCOLS)}")
    console = console or Console(stderr=True)
    if samples is None:
        with console.status(f"finding the objects of {escape(str(options.root))}"):  # SBD's are in thousands of files
            samples = _samples(options)
    names = {sample.name for sample in samples}
    if options.report and options.explain and options.explain not in names:
        raise SettingsError(f"there is no sample {options.explain} to explain")
    if options.beside:
        _read_beside(options, samples)  # before hours of work
    with one_torch_thread():
        return _run(options, samples, load_backbone, console)


def _samples(options: EvaluationOptions) -> list[Sample]:
    """The samples of the data set, or of mosaics of it."""
    if options.mosaic == 1:
        return load_samples(options.dataset, options.root, options.limit, options.protocol)
    return mosaics(load_samples(options.dataset, options.root, None, options.protocol), options.mosaic, options.limit)


def _run(
    options: EvaluationOptions,
    samples: Sequence[Sample],
    load_backbone: Callable[[], Backbone] | None,
    console: Console,
) -> dict[str, Any]:
    """Run an evaluation whose options are valid."""
    backbone = None
    if load_backbone and options.method.hyperparameters:
        with console.status("loading the model"):
            backbone = load_backbone()
    loaded = (lambda: backbone) if backbone is not None else None
    fingerprint = make_fingerprint(_name(options), options.method, options.protocol, samples, backbone)
    journal = Journal(options.json.with_name(f"{options.json.name}.partial"), fingerprint, fresh=options.fresh)
    with closing(journal):
        groups = group_by_photograph([sample for sample in samples if sample.name not in journal.entries])
        if options.jobs > 1 and len(groups) > 1:
            assignment = Assignment(options.method, load_backbone, options.protocol, identity(backbone))
            finished = evaluate_in_processes(groups, assignment, options.jobs)
        else:
            finished = _one_by_one(groups, options, loaded)
        with closing(finished):
            _follow(finished, journal, len(samples), options, console)
        result = _result(options, backbone, fingerprint, journal.entries)
        write_json(options.json, result)
        journal.remove()
    if options.report:
        _write_page(options, options.report, result, samples, loaded, console)
    return result


def _write_page(
    options: EvaluationOptions,
    folder: Path,
    result: dict[str, Any],
    samples: Sequence[Sample],
    loaded: Callable[[], Backbone] | None,
    console: Console,
) -> None:
    from m2n2_backend.evaluation.report.build import Beside, write_report

    beside = None
    if options.beside:
        other, choice = _read_beside(options, samples)
        beside = Beside(other, start_method(choice, loaded))
    method = start_method(options.method, loaded)
    title = options.title or (options.root.resolve().name if options.dataset == "folder" else None)
    with Progress(*_COLUMNS, console=console) as progress:
        task = progress.add_task("pictures of the page", total=None, running="")
        page = write_report(
            result,
            samples,
            method,
            folder,
            explain=options.explain,
            beside=beside,
            title=title,
            worst=options.worst,
            step=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console.print(f"page written: {page}", soft_wrap=True, highlight=False, markup=False)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Replace the file in one step: it is never seen half written."""
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())


def _name(options: EvaluationOptions) -> str:
    """The data set in words."""
    return options.dataset if options.mosaic == 1 else f"{options.dataset}, mosaics {options.mosaic}x{options.mosaic}"


def _read_beside(options: EvaluationOptions, samples: Sequence[Sample]) -> tuple[dict[str, Any], MethodChoice]:
    """Result and method of the run that is shown beside this one.

    Raises:
        SettingsError: The file is not a result of ``evaluate``, or belongs to other samples or to the same method.
    """
    path = options.beside
    assert path is not None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        choice = MethodChoice.parse(result["fingerprint"]["method"])
        theirs = result["fingerprint"]["preset"], result["fingerprint"]["protocol"]
        same = result["fingerprint"]["data"]["files"] == data_fingerprint(samples)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is not a result of evaluate: {error}") from error
    if not same:
        raise SettingsError(f"{path} belongs to other samples: run both with the same --dataset, --root and --limit")
    if theirs != (options.method.preset, options.protocol):
        raise SettingsError(f"{path} belongs to preset {theirs[0]} and protocol {theirs[1]}: run both with the same")
    if choice.name == options.method.name:
        raise SettingsError(f"{path} belongs to {choice.name} too: run another --method")
    return result, choice


def _one_by_one(
    groups: Sequence[Group], options: EvaluationOptions, load_backbone: Callable[[], Backbone] | None
) -> Generator[list[FinishedSample], None, None]:
    method = start_method(options.method, load_backbone)
    for group in groups:
        yield evaluate_group(method, group, options.protocol)


def _follow(
    finished: Iterable[list[FinishedSample]],
    journal: Journal,
    count: int,
    options: EvaluationOptions,
    console: Console,
) -> None:
    """Journal finished samples and show the progress, the NoC so far and the time left."""
    with Progress(*_COLUMNS, console=console) as progress:
        title = f"{options.method.name} on {options.dataset}"
        task = progress.add_task(
            escape(title), total=count, completed=len(journal.entries), running=_running(journal)
        )
        for entries in finished:
            for entry in entries:
                journal.add(entry)
            progress.update(task, completed=len(journal.entries), running=_running(journal))


def _running(journal: Journal) -> str:
    if not journal.entries:
        return ""
    figures = summary({name: entry.ious for name, entry in journal.entries.items()})
    return f"NoC85 {figures['noc85']:.2f} NoC90 {figures['noc90']:.2f}"


def _result(
    options: EvaluationOptions,
    backbone: Backbone | None,
    fingerprint: dict[str, Any],
    entries: dict[str, FinishedSample],
) -> dict[str, Any]:
    """The JSON's content."""
    done = [entries[name] for name in sorted(entries)]
    ious = {entry.sample: list(entry.ious) for entry in done}
    encodes = [entry.encode_seconds for entry in done if entry.encode_seconds is not None]
    residuals = [entry.ipf_residual for entry in done if entry.ipf_residual is not None]
    return {
        "dataset": _name(options),
        "method": options.method.name,
        "preset": options.method.preset,
        "protocol": options.protocol,
        "backbone": backbone.description if backbone else None,
        "grid": done[0].grid,
        **summary(ious),
        # Medians: the first sample compiles kernels, and others may meet a busy machine.
        "seconds_per_click": median(entry.click_seconds / entry.clicks for entry in done),
        "seconds_per_encode": median(encodes),
        "ipf_residual": max(residuals, default=None),
        "peak_memory": peak_memory(),
        "fingerprint": fingerprint,
        "samples": ious,
    }
