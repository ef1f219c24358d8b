"""The README says what the code does."""

from __future__ import annotations

import re

import pytest
from repository import ROOT
from typer.main import get_command

from m2n2_backend.cli import app
from m2n2_backend.settings import Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("", "docker", "label_config", "m2n2_backend/evaluation", "m2n2_backend/samples")
"""Folders with a README.md."""


def test_the_table_of_settings_names_every_setting_with_its_default_and_meaning() -> None:
    table = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", table, re.MULTILINE))
    expected = {}
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"M2N2_{name.upper()}")
        default = "–" if field.default in (None, ()) else f"`{field.default}`"
        if name == "cache_dir":
            default = "`~/.cache/m2n2_backend`"
        expected[variable] = f"{default} | {field.description}"
    assert rows == expected


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_a_readme_links_to_exists(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)#]+)[)#]", text), *re.findall(r"--file (docker/\S+)", text)]
    missing = [
        link
        for link in links
        if not link.startswith("http") and not any((base / link).exists() for base in (ROOT / folder, ROOT))
    ]
    assert not missing


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_source_file_and_folder_a_readme_names_exists(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    code = " ".join(re.findall(r"`([^`\n]+)`", text) + re.findall(r"```(.*?)```", text, re.DOTALL))
    names = {name.rstrip(".,:") for name in re.findall(r"(?<![\w./-])[\w][\w./-]*", code)}
    files = {name for name in names if name.endswith((".py", ".js", ".sh", ".xml", ".yaml"))}
    rooms = {name for name in names if re.match(r"(m2n2_backend|tests|docker|label_config)/", name)}
    package = ROOT / "m2n2_backend"
    bases = (ROOT / folder, ROOT, ROOT / "label_config", package, package / "m2n2")
    missing = {name for name in files | rooms if not any((base / name).exists() for base in bases)}
    assert not missing - {"docker/.env"}, "docker/.env is the one that a user makes"


def test_every_option_the_readmes_name_is_one_of_the_command_line() -> None:
    used = set()
    for folder in ("", "m2n2_backend/evaluation"):
        text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
        used |= {
            name for line in re.findall(r"m2n2-backend[^`]*", text) for name in re.findall(r"--[a-z0-9-]+", line)
        }
    known = {name for command in get_command(app).commands.values() for each in command.params for name in each.opts}
    assert used - {"--help"} <= known


def test_the_readme_opens_with_the_commands_that_ci_runs() -> None:
    assert README.split("```")[1].split("#")[0].strip() == "make demo"
    assert "make test" in (ROOT / ".ci" / "run").read_text()
