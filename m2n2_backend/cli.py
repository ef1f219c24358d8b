"""The command line."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from m2n2_backend import __version__
from m2n2_backend.errors import InvalidPrompt, M2N2Error
from m2n2_backend.prompts import Box, Click
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
    overlay: Annotated[Path | None, typer.Option(help="Picture of the result to write.")] = None,
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
        clicks = [parse_click(text) for text in click or ()]
        boxes = [parse_box(box)] if box else []
        figures = _segment(settings, image, clicks, boxes, out, overlay)
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
) -> None:
    """Serve Label Studio until stopped."""
    with _explained():
        settings = _settings(backbone, model, layers, grid, device, host=host, port=port)
        from m2n2_backend.backbones.registry import check_backbone
        from m2n2_backend.server.run import serve as run_server
        from m2n2_backend.worker.local import LocalPool

        # Before the port is bound, so that missing weights end the start and not an annotator's click.
        check_backbone(settings.backbone, model=settings.model)
        run_server(settings, LocalPool)


@app.command()
def doctor(
    backbone: BackboneOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Check weights, device and Label Studio, and print the cure of what is wrong."""
    with _explained():
        settings = _settings(backbone, model, None, None, device)
        from m2n2_backend.doctor import diagnose

        colors = {"ok": "green", "warn": "yellow", "fail": "red"}
        report = Console()
        failed = False
        for check in diagnose(settings):
            failed |= check.state == "fail"
            report.print(
                f"[{colors[check.state]}]{check.state:>4}[/] [bold]{check.name}[/]:", check.detail, soft_wrap=True
            )
            if check.cure:
                report.print("       cure:", check.cure, soft_wrap=True, highlight=False)
    raise typer.Exit(1 if failed else 0)


@app.command("fetch-weights")
def fetch_weights(backbone: BackboneOption = None, model: ModelOption = None, device: DeviceOption = None) -> None:
    """Download a backbone's weights into the Hugging Face cache, resuming what was begun."""
    with _explained():
        settings = _settings(backbone, model, None, None, device)
        from m2n2_backend.backbones.registry import kind_of, own_weights, resolve_device
        from m2n2_backend.backbones.weights import REPOSITORIES, fetch

        name = settings.backbone
        where = resolve_device(settings.device)
        repository = settings.model or own_weights(name, where)
        if repository is None:
            console.print(
                f"backbone {name} has no weights of its own" + ("; name them with --model" if name == "vit" else "")
            )
            raise typer.Exit(2 if name == "vit" else 0)
        kind = "stable-diffusion" if repository == REPOSITORIES["sd2"] else kind_of(name)
        print(fetch(repository, kind))


def parse_click(text: str) -> Click:
    """``X,Y[,fg|bg]`` → click.

    Raises:
        InvalidPrompt: Anything else.
    """
    parts = text.split(",")
    try:
        if len(parts) in (2, 3) and (len(parts) == 2 or parts[2] in ("fg", "bg")):
            return Click(int(parts[0]), int(parts[1]), len(parts) == 2 or parts[2] == "fg")
    except ValueError:
        pass
    raise InvalidPrompt(f"--click {text}: expected X,Y or X,Y,fg or X,Y,bg with whole pixels")


def parse_box(text: str) -> Box:
    """``X0,Y0,X1,Y1`` → box; the right and bottom edges are exclusive.

    Raises:
        InvalidPrompt: Anything else.
    """
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise InvalidPrompt(f"--box {text}: expected X0,Y0,X1,Y1 with whole pixels") from None
    return Box(x0, y0, x1, y1)


def _segment(
    settings: Settings, image: Path, clicks: list[Click], boxes: list[Box], out: Path, overlay: Path | None
) -> dict[str, Any]:
    """Encode, then segment with one click more each time, as a person would: each click has its own timing."""
    import numpy as np
    from PIL import Image

    from m2n2_backend.backbones.registry import load_backbone
    from m2n2_backend.images import decode_image
    from m2n2_backend.m2n2.segmenter import Segmenter
    from m2n2_backend.overlay import draw_overlay
    from m2n2_backend.worker.local import method_of

    rgb = decode_image(_read(image), max_pixels=settings.max_image_pixels)
    backbone = load_backbone(
        settings.backbone,
        model=settings.model,
        layers=settings.layers,
        grid=settings.grid,
        device=settings.device,
        cache_dir=settings.cache_dir,
    )
    segmenter = Segmenter(backbone, method_of(settings))
    started = time.perf_counter()
    state = segmenter.encode(rgb)
    encode_ms = 1000 * (time.perf_counter() - started)
    # Clicks are warmed one by one in order; only the last call's mask counts.
    clicks_ms = []
    for click in clicks:
        started = time.perf_counter()
        segmenter.prompt_map(state, click)
        clicks_ms.append(1000 * (time.perf_counter() - started))
    started = time.perf_counter()
    result = segmenter.segment(state, clicks, boxes)
    combine_ms = 1000 * (time.perf_counter() - started)
    _write_png(out, Image.fromarray(result.mask.astype(np.uint8) * 255))
    if overlay is not None:
        _write_png(overlay, Image.fromarray(draw_overlay(rgb, result.mask, clicks, boxes)))
    return {
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "area": int(result.mask.sum()),
        "score": result.score,
        "thresholds": list(result.thresholds),
        "backbone": backbone.fingerprint,
        "grid": state.grid[0],
        "timings_ms": {"encode": encode_ms, "clicks": clicks_ms, "combine": combine_ms},
    }


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
    _quiet_libraries()
    return settings


def _quiet_libraries() -> None:
    """Progress bars and load reports of libraries say nothing a user of a command could act on."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    for name in ("httpx", "httpcore", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of ours as one line and exit status 1, without a traceback."""
    try:
        yield
    except M2N2Error as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True, highlight=False)
        sys.exit(1)


def _read(path: Path) -> bytes:
    from m2n2_backend.errors import ImageUnavailable

    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageUnavailable(f"{path} cannot be read: {error.strerror}") from error


def _write_png(path: Path, picture: Any) -> None:
    from m2n2_backend.errors import SettingsError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
