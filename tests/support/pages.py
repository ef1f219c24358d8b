"""The Markdown pages, what they link to, and the commands that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repository import ROOT
from typer.main import get_command
from typer.testing import CliRunner

from m2n2_backend.cli import app

FOLDERS = ("docker", "label_config", "m2n2_backend", "tests")
"""Folders of the project that hold pages, beside the ones in its root."""

PLACEHOLDER = re.compile(r"[…\[(|<]")
"""Signs of a line that shows how a command is built, and cannot be run as it stands."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"(?<![\w\"'/.:-])m2n2-backend\s+([a-z].*)", re.DOTALL)


def pages() -> list[Path]:
    """Every Markdown page, as paths below the root."""
    found = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path.relative_to(ROOT) for path in found)


def blocks(text: str, language: str = "") -> list[str]:
    """The code blocks of a language; those without one hold shell commands."""
    return [code for name, code in _BLOCK.findall(text) if name == language]


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", _BLOCK.sub("", text))]


def shell_lines(text: str) -> list[str]:
    """The lines of the shell blocks: continued lines are joined, comments left out."""
    joined = "\n".join(blocks(text)).replace("\\\n", " ")
    return [re.sub(r"(^|\s)#\s.*", "", line).strip() for line in joined.splitlines()]


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Every ``m2n2-backend …`` without its first word, and whether it is written out to be run."""
    for line in shell_lines(text):
        if found := _COMMAND.search(line):
            yield found[1], not PLACEHOLDER.search(found[1])
    for code in inline_code(text):
        if found := _COMMAND.search(code):
            yield found[1], False


def problem(command: str, *, written_out: bool) -> str:
    """Why the command line would not take a command; empty if it would.

    Args:
        command: All but ``m2n2-backend``.
        written_out: Parse it as the command line does. Otherwise only the names of command and options count.
    """
    words = command.split()
    found: Any = get_command(app)
    path = []
    while words and hasattr(found, "commands"):
        if words[0] not in found.commands:
            return "" if path and words[0].startswith("[") else f"there is no command {words[0]}"
        found = found.commands[words[0]]
        path.append(words.pop(0))
    known = {name for each in found.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    unknown = set(re.findall(r"(?<![\w-])--[a-z0-9-]+", command)) - known
    if unknown:
        return f"{' '.join(path)} has no option {', '.join(sorted(unknown))}"
    if not written_out:
        return ""
    arguments = ["1" if word == "ID" else word for word in shlex.split(command)[len(path) :]]
    try:
        found.make_context(" ".join(path), arguments)
    except (
        Exception
    ) as error:  # whatever click raises about arguments, which typer may bring along under its own name
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return ""


def run(command: str) -> str:
    """Run a command in this process; its output."""
    done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def links(text: str) -> list[tuple[str, str]]:
    """Links of a page that do not leave the project: path (empty for the page itself) and anchor."""
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", _BLOCK.sub("", text))
    return [(path, anchor) for path, anchor in found if not path.startswith(("http:", "https:"))]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
