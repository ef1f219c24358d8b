"""The command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from m2n2_backend import __version__
from m2n2_backend.commands.arguments import BACKBONE, console, explained, with_settings
from m2n2_backend.errors import SettingsError
from m2n2_backend.files import replace_file
from m2n2_backend.settings import Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, add_completion=False)


@app.callback()
def _main() -> None:
    """Clicks to masks without training."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
@with_settings(*BACKBONE)
def segment(
    image: Annotated[Path, typer.Argument(help="The photograph.")],
    out: Annotated[Path, typer.Option(help="Mask to write: 8-bit PNG, 0 and 255, size of the photograph.")],
    click: Annotated[list[str] | None, typer.Option(help="X,Y[,fg|bg] in pixels; may be repeated.")] = None,
    box: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1 in pixels; the object lies inside.")] = None,
    scribble: Annotated[
        list[str] | None, typer.Option(help="X,Y,X,Y,…[,fg|bg] in pixels, a stroke of 9; may be repeated.")
    ] = None,
    polygon: Annotated[str | None, typer.Option(help="X,Y,X,Y,X,Y,… in pixels; the object lies inside.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Picture of the result to write.")] = None,
    explain: Annotated[Path | None, typer.Option(help="Folder for pictures of why the mask is as it is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON.")] = False,
    *,
    settings: Settings,
) -> None:
    """Segment one object of one photograph."""
    from m2n2_backend.commands import segment as command

    clicks = [command.parse_click(text) for text in click or ()]
    scribbles = [command.parse_scribble(text) for text in scribble or ()]
    boxes = [command.parse_box(box)] if box else []
    polygons = [command.parse_polygon(polygon)] if polygon else []
    figures = command.segment_file(
        settings, image, [*clicks, *scribbles], [*boxes, *polygons], out=out, overlay=overlay, explain=explain
    )
    console.print(command.summary(figures), soft_wrap=True, highlight=False, markup=False)
    if as_json:
        print(json.dumps(figures))


@app.command()
@with_settings("host", "port", *BACKBONE)
def serve(
    *,
    settings: Settings,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Ask the replicas of a Ray cluster instead of models of this machine.")
    ] = False,
) -> None:
    """Serve Label Studio until stopped."""
    from m2n2_backend.commands.serve import serve as run_serve

    run_serve(settings, cluster=cluster)


clusters = typer.Typer(no_args_is_help=True, help="Replicas of the model on a Ray cluster (extra: cluster).")
app.add_typer(clusters, name="cluster")


@clusters.command("up")
@with_settings(*BACKBONE)
def cluster_up(
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the model.")] = 1,
    most: Annotated[
        int | None,
        typer.Option("--max-replicas", min=1, help="Largest number of replicas under load."),
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-replica", min=0.0, help="GPUs of each replica; 0.5 shares one.")
    ] = 0.0,
    cpus: Annotated[float, typer.Option("--cpus-per-replica", min=0.1, help="CPUs of each replica.")] = 1.0,
    wait: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for the model.")] = 900.0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the old generation down first, where there is no room for both.")
    ] = False,
    *,
    settings: Settings,
) -> None:
    """Deploy the model, or change the number of its replicas; what serves goes on until the new one is ready."""
    from m2n2_backend.commands.cluster import up
    from m2n2_backend.worker.cluster.deployment import Size

    up(settings, Size(replicas, most, gpus, cpus), patience=wait, replace=replace, console=console)


@clusters.command("status")
@with_settings()
def cluster_status(settings: Settings) -> None:
    """Show what is deployed and every replica's figures."""
    from m2n2_backend.commands.cluster import status

    status(settings, Console())


@clusters.command("down")
@with_settings()
def cluster_down(settings: Settings) -> None:
    """Take all replicas down; Ray itself goes on."""
    from m2n2_backend.commands.cluster import down

    down(settings, console)


@app.command()
@with_settings("backbone", "model", "device")
def doctor(
    address: Annotated[
        str | None, typer.Option(help="Where Label Studio reaches this backend, such as http://backend:9090.")
    ] = None,
    *,
    settings: Settings,
) -> bool:
    """Check weights, device and Label Studio, and print the cure of what is wrong."""
    from m2n2_backend.commands.doctor import report

    return report(settings, address, Console())


@app.command()
@with_settings(*BACKBONE)
def precompute(
    images: Annotated[Path | None, typer.Option(help="Folder of images, searched with all its folders.")] = None,
    project: Annotated[int | None, typer.Option(help="Label Studio's id of a project.")] = None,
    *,
    settings: Settings,
) -> bool:
    """Fill the disk cache, so that no first click waits for the model; may be interrupted and continued."""
    from m2n2_backend.commands.precompute import precompute as run_precompute

    return run_precompute(settings, images=images, project=project, console=console)


@app.command("predict-project")
@with_settings(*BACKBONE)
def predict_project(
    project: Annotated[int, typer.Option(help="Label Studio's id of the project.")],
    column: Annotated[
        str | None, typer.Option(help="Data column with prompts; those of annotations and drafts by default.")
    ] = None,
    source: Annotated[
        Literal["annotations", "predictions"],
        typer.Option("--from", help="Where prompts are saved: annotations and drafts, or predictions."),
    ] = "annotations",
    *,
    settings: Settings,
) -> bool:
    """Post predictions for every task of a project that holds prompts; done tasks are passed over."""
    from m2n2_backend.commands.predict_project import predict_project as run_batch

    return run_batch(settings, project, column, console, source)


@app.command()
@with_settings()
def export(
    project: Annotated[int, typer.Option(help="Label Studio's id of the project.")],
    format: Annotated[
        Literal["coco", "yolo", "voc", "png", "json"], typer.Option(help="coco, yolo, voc, png or json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files; a new or an empty one.")],
    settings: Settings,
) -> bool:
    """Export the annotations of a project without the saved prompts; exit with 1 if anything could not be."""
    from m2n2_backend.commands.export import export as run_export

    return run_export(settings, project, format, out, console)


@app.command("fetch-weights")
@with_settings("backbone", "model", "device")
def fetch_weights(settings: Settings) -> None:
    """Download a backbone's weights into the Hugging Face cache, resuming what was begun."""
    from m2n2_backend.commands.fetch_weights import fetch_weights as run_fetch

    folder = run_fetch(settings)
    if folder is None:
        console.print(f"backbone {settings.backbone} needs no weights")
    else:
        print(folder)


@app.command()
@with_settings(*BACKBONE)
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
    only: Annotated[Literal["model", "service"] | None, typer.Option(hidden=True)] = None,
    size: Annotated[str, typer.Option(help="Width and height of the photographs, in pixels.")] = "854x480",
    repeats: Annotated[int, typer.Option(min=1, help="Number of clicks of each kind.")] = 20,
    max_grid: Annotated[
        int | None, typer.Option(help="Largest grid to measure; by default 64 on a CPU and 128 on a GPU.")
    ] = None,
    sd2: Annotated[
        bool, typer.Option("--sd2", help="Also measure full-size Stable Diffusion 2 with random weights.")
    ] = False,
    dense: Annotated[
        bool, typer.Option("--dense", help="Also time the reference with dense guidance, which takes a minute.")
    ] = False,
    *,
    settings: Settings,
) -> None:
    """Time the model beside a plain reference."""
    from m2n2_backend.commands.bench import parse_size, run_bench

    if only == "service":
        raise SettingsError("bench measures the model alone; the server under load is python tests/load/service.py")
    figures = run_bench(
        settings, Console(), size=parse_size(size), repeats=repeats, max_grid=max_grid, sd2=sd2, dense=dense
    )
    if json_file is not None:
        replace_file(json_file, (json.dumps(figures, indent=1) + "\n").encode())


@app.command()
@explained
def prepare_data(
    dataset: Annotated[str, typer.Option(help="grabcut, berkeley, davis, sbd or coco_mval.")],
    root: Annotated[Path, typer.Option(help="Folder for this data set.")],
) -> None:
    """Download a benchmark and lay it out for evaluate, continuing what was begun."""
    from m2n2_backend.commands.prepare_data import prepare_data as prepare

    prepare(dataset, root, console)


@app.command()
@with_settings("model", "layers", "grid", "device")
def evaluate(
    dataset: Annotated[str | None, typer.Option(help="grabcut, berkeley, davis, sbd, coco_mval or folder.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    project: Annotated[int | None, typer.Option(help="Label Studio's project whose masks are the truth.")] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, sd2, sd1, dinov2, vit or color. With --project it may be repeated, also as NAME=MODEL; "
            "--model and --layers then belong to vit, --grid and --device to all."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the results.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="refined (served; the default), m2n2 (the paper's; the default with --preset released), "
            "m2n2-no-flood, attention-nn, kl-nn, grabcut, random-walker or geodesic."
        ),
    ] = None,
    preset: Annotated[
        Literal["ours", "released"],
        typer.Option(help="What the paper leaves open: as chosen here, or as the authors' released code does it."),
    ] = "ours",
    protocol: Annotated[
        Literal["ritm", "released"],
        typer.Option(help="Labels and simulated user: of most papers, or of the released code and the paper."),
    ] = "ritm",
    limit: Annotated[int | None, typer.Option(help="Number of objects, from the first on; all by default.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with tables and pictures.")] = None,
    explain: Annotated[str | None, typer.Option(help="Sample whose maps the page shows.")] = None,
    beside: Annotated[Path | None, typer.Option(help="JSON of another method's run, shown side by side.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes; the results do not depend on them.")] = 1,
    fresh: Annotated[bool, typer.Option(help="Do not continue an unfinished run.")] = False,
    mosaic: Annotated[int, typer.Option(help="Evaluate photographs of N times N, with the object in one.")] = 1,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter, such as tau=0.4; may be repeated."),
    ] = None,
    *,
    settings: Settings,
) -> bool:
    """Measure the number of clicks (NoC) on a data set, or on what the annotators of a project accepted."""
    from m2n2_backend.commands.evaluate import run_evaluation
    from m2n2_backend.evaluation.methods import MethodChoice

    return run_evaluation(
        settings, backbone or (), project, console, json_file, dataset=dataset, root=root,
        method=MethodChoice.of(method, values or (), preset), protocol=protocol, limit=limit, jobs=jobs,
        fresh=fresh, report=report, explain=explain, beside=beside, mosaic=mosaic,
    )  # fmt: skip
