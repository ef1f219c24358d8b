"""What all commands of the command line share: options that override settings, and errors in one line."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from m2n2_backend.errors import M2N2Error
from m2n2_backend.files import settle_cache_home
from m2n2_backend.logs import quiet_downloads
from m2n2_backend.settings import BackboneName, DeviceName, Settings, load_settings

Command = Callable[..., bool | None]

BACKBONE = ("backbone", "model", "layers", "grid", "device")
"""The options that choose a backbone."""

_OPTIONS = {
    "backbone": Annotated[BackboneName | None, typer.Option(help="auto, sd2, sd1, dinov2, vit or color.")],
    "model": Annotated[str | None, typer.Option(help="Hub id or folder of the weights.")],
    "layers": Annotated[
        str | None,
        typer.Option(help="Layers of a ViT, such as 6 or 6,7; the middle one by default, of DINOv2 the last."),
    ],
    "grid": Annotated[int | None, typer.Option(help="Cells per side of the attention grid.")],
    "device": Annotated[DeviceName | None, typer.Option(help="auto, cpu, cuda or mps.")],
    "host": Annotated[str | None, typer.Option(help="Address to bind; 127.0.0.1 by default.")],
    "port": Annotated[int | None, typer.Option(help="Port to bind; 9090 by default.")],
}

console = Console(stderr=True)
"""Where progress and errors go; results go to standard output."""


def explained(command: Command) -> Callable[..., None]:
    """Show the package's errors in one line without a traceback; exit with 1 after them, or if False is returned."""

    @wraps(command)
    def run(**given: Any) -> None:
        with _one_line_errors():
            fine = command(**given)
            if fine is False:
                raise typer.Exit(1)

    return run


def with_settings(*options: str) -> Callable[[Command], Callable[..., None]]:
    """Give a command its ``settings``: those of the environment, over which the named options win.

    On the command line the options stand in the place of the argument ``settings``, which is passed by name. Errors
    are shown as :func:`explained` does.
    """

    def decorate(command: Command) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> bool | None:
            overrides = {name: given.pop(name) for name in options}
            return command(**given, settings=_prepared(overrides))

        parameters = list[inspect.Parameter]()
        hints = get_type_hints(command, include_extras=True)
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "settings":
                parameters += [_option(name) for name in options]
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name], kind=_BY_NAME))
        shown = explained(run)
        shown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        shown.__annotations__ = {each.name: each.annotation for each in parameters}
        return shown

    return decorate


_BY_NAME = inspect.Parameter.KEYWORD_ONLY


def _option(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, _BY_NAME, default=None, annotation=_OPTIONS[name])


def _prepared(overrides: dict[str, Any]) -> Settings:
    """The settings of this process, once its log and its cache folders are as they say."""
    settings = load_settings(**overrides)
    logging.basicConfig(
        level=settings.log_level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    quiet_downloads()
    settle_cache_home()
    return settings


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except M2N2Error as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
