"""The command line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from m2n2_backend import __version__
from m2n2_backend.backbones.quiet import quiet_downloads
from m2n2_backend.cache_home import settle_cache_home
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.settings import BackboneName, DeviceName, Settings, load_settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, add_completion=False)

BackboneOption = Annotated[BackboneName | None, typer.Option(help="auto, sd2, sd1, dinov2, vit or color.")]
ModelOption = Annotated[str | None, typer.Option(help="Hub id or folder of the weights.")]
LayersOption = Annotated[str | None, typer.Option(help="Layers of a ViT, such as 6 or 6,7; the last by default.")]
GridOption = Annotated[int | None, typer.Option(help="Cells per side of the attention grid.")]
DeviceOption = Annotated[DeviceName | None, typer.Option(help="auto, cpu, cuda or mps.")]

console = Console(stderr=True)


@app.callback()
def _main() -> None:
    """Clicks to masks without training."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
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
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Segment one object of one photograph."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.commands import segment as command

        clicks = [command.parse_click(text) for text in click or ()]
        scribbles = [command.parse_scribble(text) for text in scribble or ()]
        boxes = [command.parse_box(box)] if box else []
        polygons = [command.parse_polygon(polygon)] if polygon else []
        figures = command.segment_file(
            settings, image, [*clicks, *scribbles], [*boxes, *polygons], out=out, overlay=overlay, explain=explain
        )
        if as_json:
            print(json.dumps(figures))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 9090 by default.")] = None,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Ask the replicas of a Ray cluster instead of models of this machine.")
    ] = False,
) -> None:
    """Serve Label Studio until stopped."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device, host=host, port=port)
        _require_posix()
        from m2n2_backend.server.run import serve as run_server

        if cluster:
            from m2n2_backend.worker.cluster.connection import import_ray
            from m2n2_backend.worker.cluster.pool import RayPool

            import_ray()  # a missing Ray is to be heard of before the port is bound
            run_server(settings, RayPool)
        from m2n2_backend.backbones.weights.names import check_backbone
        from m2n2_backend.worker.local.pool import ProcessPool

        # Before the port is bound, so that missing weights end the start and not an annotator's click.
        check_backbone(settings.backbone, model=settings.model)
        run_server(settings, ProcessPool)


clusters = typer.Typer(no_args_is_help=True, help="Replicas of the model on a Ray cluster (extra: cluster).")
app.add_typer(clusters, name="cluster")


@clusters.command("up")
def cluster_up(
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the model.")] = 1,
    most: Annotated[
        int | None, typer.Option("--max-replicas", min=1, help="Scale up to so many with the load.")
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-replica", min=0.0, help="GPUs of each replica; 0.5 shares one.")
    ] = 0.0,
    cpus: Annotated[float, typer.Option("--cpus-per-replica", min=0.1, help="CPUs of each replica.")] = 1.0,
    wait: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for the model.")] = 900.0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the old generation down first, where there is no room for both.")
    ] = False,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Deploy the model, or change the number of its replicas; what serves goes on until the new one is ready."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.commands.cluster import up
        from m2n2_backend.worker.cluster.deployment import Size

        up(settings, Size(replicas, most, gpus, cpus), patience=wait, replace=replace, console=console)


@clusters.command("status")
def cluster_status() -> None:
    """Show what is deployed and every replica's figures."""
    with _explained():
        from m2n2_backend.commands.cluster import status

        status(load_settings(), Console())


@clusters.command("down")
def cluster_down() -> None:
    """Take all replicas down; Ray itself goes on."""
    with _explained():
        from m2n2_backend.commands.cluster import down

        down(load_settings(), console)


@app.command()
def doctor(
    address: Annotated[
        str | None, typer.Option(help="Where Label Studio reaches this backend, such as http://backend:9090.")
    ] = None,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Check weights, device and Label Studio, and print the cure of what is wrong."""
    with _explained():
        settings = _settings(backbone, model, None, None, device)
        from m2n2_backend.commands.doctor import report

        fine = report(settings, address, Console())
    raise typer.Exit(0 if fine else 1)


@app.command()
def precompute(
    images: Annotated[Path | None, typer.Option(help="Folder of images, searched with all its folders.")] = None,
    project: Annotated[int | None, typer.Option(help="Label Studio's id of a project.")] = None,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Fill the disk cache, so that no first click waits for the model; may be interrupted and continued."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.commands.precompute import precompute as run_precompute

        complete = run_precompute(settings, images=images, project=project, console=console)
    raise typer.Exit(0 if complete else 1)


@app.command("predict-project")
def predict_project(
    project: Annotated[int, typer.Option(help="Label Studio's id of the project.")],
    column: Annotated[
        str | None, typer.Option(help="Data column with prompts; those of annotations and drafts by default.")
    ] = None,
    source: Annotated[
        Literal["annotations", "predictions"],
        typer.Option("--from", help="Where prompts are saved: annotations and drafts, or predictions."),
    ] = "annotations",
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Post predictions for every task of a project that holds prompts; done tasks are passed over."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.commands.predict_project import predict_project as run_batch

        complete = run_batch(settings, project, column, console, source)
    raise typer.Exit(0 if complete else 1)


@app.command()
def export(
    project: Annotated[int, typer.Option(help="Label Studio's id of the project.")],
    format: Annotated[
        Literal["coco", "yolo", "voc", "png", "json"], typer.Option(help="coco, yolo, voc, png or json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files; a new or an empty one.")],
) -> None:
    """Export the annotations of a project without the saved prompts; exit with 1 if anything could not be."""
    with _explained():
        settings = _settings(None, None, None, None, None)
        from m2n2_backend.commands.export import export as run_export

        complete = run_export(settings, project, format, out, console)
    raise typer.Exit(0 if complete else 1)


@app.command("fetch-weights")
def fetch_weights(backbone: BackboneOption = None, model: ModelOption = None, device: DeviceOption = None) -> None:
    """Download a backbone's weights into the Hugging Face cache, resuming what was begun."""
    with _explained():
        settings = _settings(backbone, model, None, None, device)
        from m2n2_backend.commands.fetch_weights import fetch_weights as run_fetch

        folder = run_fetch(settings)
        if folder is None:
            console.print(f"backbone {settings.backbone} needs no weights")
        else:
            print(folder)


@app.command()
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the figures.")] = None,
    only: Annotated[
        Literal["model", "service"] | None, typer.Option(help="Measure this part alone; both by default.")
    ] = None,
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
    rate: Annotated[float, typer.Option(min=0.01, help="Mean number of requests per second at the server.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for which requests arrive.")] = 30.0,
    images: Annotated[int, typer.Option(min=1, help="Number of photographs that requests ask about.")] = 40,
    kill_every: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between two kills of a worker process; none by default.")
    ] = None,
    abuse_disk: Annotated[
        Literal["damaged", "removed", "full", "readonly"] | None,
        typer.Option(help="Damage cache files, remove the folder, or let the disk be full or read-only (root)."),
    ] = None,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Time the model beside a plain reference, and a server under load; exit with 1 if a mask was wrong."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.commands.bench import Load, parse_size, run_bench

        load = Load(rate, seconds, images, kill_every, abuse_disk)
        of_model = {"repeats": repeats, "max_grid": max_grid, "sd2": sd2, "dense": dense}
        figures = run_bench(settings, Console(), only=only, size=parse_size(size), load=load, **of_model)
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        for fault in (faults := figures.get("service", {}).get("faults", [])):
            console.print(f"[red]fault:[/] {fault}", soft_wrap=True, highlight=False)
        if faults:
            sys.exit(1)


@app.command()
def prepare_data(
    dataset: Annotated[str, typer.Option(help="grabcut, berkeley, davis, sbd or coco_mval.")],
    root: Annotated[Path, typer.Option(help="Folder for this data set.")],
) -> None:
    """Download a benchmark and lay it out for evaluate, continuing what was begun."""
    with _explained():
        from m2n2_backend.commands.prepare_data import prepare_data as prepare

        prepare(dataset, root, console)


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Option(help="grabcut, berkeley, davis, sbd, coco_mval or folder.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    json_file: Annotated[Path, typer.Option("--json", help="File for the results.")],
    method: Annotated[
        str,
        typer.Option(help="m2n2, refined, m2n2-no-flood, attention-nn, kl-nn, grabcut, random-walker or geodesic."),
    ] = "m2n2",
    preset: Annotated[
        Literal["ours", "released"],
        typer.Option(help="What the paper leaves open: as chosen here, or as the authors' released code does it."),
    ] = "ours",
    protocol: Annotated[
        Literal["ritm", "released"],
        typer.Option(help="Labels and simulated user: of most papers, or of the released code and the paper."),
    ] = "ritm",
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for a page with tables and pictures.")] = None,
    explain: Annotated[str | None, typer.Option(help="Sample whose maps the page shows.")] = None,
    beside: Annotated[Path | None, typer.Option(help="JSON of another method's run, shown side by side.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes; the results do not depend on them.")] = 1,
    fresh: Annotated[bool, typer.Option(help="Do not continue an unfinished run.")] = False,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter, such as tau=0.4; may be repeated."),
    ] = None,
    backbone: BackboneOption = None,
    model: ModelOption = None,
    layers: LayersOption = None,
    grid: GridOption = None,
    device: DeviceOption = None,
) -> None:
    """Measure the number of clicks (NoC) on a data set, as the paper does."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device)
        from m2n2_backend.backbones.registry import backbone_loader
        from m2n2_backend.evaluation.methods import MethodChoice
        from m2n2_backend.evaluation.run import EvaluationOptions
        from m2n2_backend.evaluation.run import evaluate as run_evaluation

        chosen = MethodChoice.of(method, values or (), preset)
        options = EvaluationOptions(
            dataset, root, json_file, chosen, protocol, limit, jobs, fresh, report, explain, beside
        )
        loader = backbone_loader(settings, fixed_grid=True, released=preset == "released")
        result = run_evaluation(options, loader, console=console)
        shown = (
            "dataset",
            "method",
            "preset",
            "protocol",
            "n",
            "noc85",
            "noc90",
            "noc95",
            "not_reached_90",
            "collapses",
        )
        figures = {name: result[name] for name in shown}
        print(json.dumps(figures))


def _settings(
    backbone: BackboneName | None,
    model: str | None,
    layers: str | None,
    grid: int | None,
    device: DeviceName | None,
    **others: object,
) -> Settings:
    settings = load_settings(backbone=backbone, model=model, layers=layers, grid=grid, device=device, **others)
    logging.basicConfig(
        level=settings.log_level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    quiet_downloads()
    settle_cache_home()
    return settings


def _require_posix() -> None:
    """Raise ``SettingsError`` on Windows, where gunicorn, which watches the web process, cannot be imported."""
    if sys.platform == "win32" or find_spec("fcntl") is None:
        raise SettingsError(
            "m2n2-backend serve runs on Linux and macOS: on Windows, run it in Docker (docker/README.md) or in WSL 2"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of ours as one line and exit status 1, without a traceback."""
    try:
        yield
    except M2N2Error as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
