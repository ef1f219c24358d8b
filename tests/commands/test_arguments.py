"""Options that override settings, and errors in one line: once for all commands."""

from __future__ import annotations

import inspect
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from m2n2_backend.commands.arguments import BACKBONE, explained, with_settings
from m2n2_backend.errors import InvalidPrompt
from m2n2_backend.settings import Settings

seen: list[Settings] = []
app = typer.Typer()


@app.command()
@with_settings("host", *BACKBONE)
def show(
    name: Annotated[str, typer.Argument()],
    before: Annotated[bool, typer.Option("--before")] = False,
    *,
    settings: Settings,
    after: Annotated[int, typer.Option()] = 1,
) -> bool:
    """Show settings."""
    seen.append(settings)
    return after < 2


@app.command()
@explained
def fail() -> None:
    """Fail."""
    raise InvalidPrompt("no [prompt]")


def test_options_stand_in_the_place_of_the_settings_and_win_over_the_environment() -> None:
    options = ["--grid", "16", "--backbone", "color", "--layers", "6,7", "--host", "::1"]
    environment = {"M2N2_GRID": "8", "M2N2_PORT": "9999", "M2N2_BACKBONE": "sd2"}

    done = CliRunner().invoke(app, ["show", "x", *options], env=environment)

    settings = seen.pop()
    assert done.exit_code == 0
    assert (settings.grid, settings.backbone, settings.layers, settings.host) == (16, "color", (6, 7), "::1")
    assert settings.port == 9999
    assert list(inspect.signature(show).parameters) == ["name", "before", "host", *BACKBONE, "after"]


def test_a_command_that_returns_false_exits_with_1() -> None:
    assert CliRunner().invoke(app, ["show", "x", "--after", "5"]).exit_code == 1


def test_an_error_of_the_package_is_one_line_and_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    done = CliRunner().invoke(app, ["fail"])

    assert done.exit_code == 1
    assert (done.output + capfd.readouterr().err).strip() == "error: no [prompt]"
