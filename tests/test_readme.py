"""The README and all other pages say what the code does, and every command in them would run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import anchors, blocks, commands, inline_code, links, pages, problem, run, shell_lines
from PIL import Image
from repository import ROOT
from typer.main import get_command

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.cli import app
from m2n2_backend.commands.studio import __main__ as studio
from m2n2_backend.commands.studio.label_studio import Account
from m2n2_backend.resources import sample_photograph
from m2n2_backend.settings import Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = pages()
OF_OTHER_PROGRAMS = {"--build", "--no-cache"}
"""Options of Docker that pages name without it."""

each_page = pytest.mark.parametrize("page", PAGES, ids=str)


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def variables() -> dict[str, str]:
    """The settings' environment variables, and their names in Settings."""
    fields = Settings.model_fields.items()
    return {str(field.validation_alias or f"M2N2_{name.upper()}"): name for name, field in fields}


def test_the_table_of_settings_names_every_setting_with_its_default_and_meaning() -> None:
    table = text_of(Path("m2n2_backend/SETTINGS.md")).split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*) \|$", table, re.MULTILINE))
    expected = {}
    for variable, name in variables().items():
        field = Settings.model_fields[name]
        default = "–" if field.default in (None, ()) else f"`{field.default}`"
        if name == "cache_dir":
            default = "`~/.cache/m2n2_backend`"
        expected[variable] = f"{default} | {field.description}"
    assert rows == expected


@each_page
def test_every_variable_that_a_page_names_is_a_setting_or_one_of_the_compose_files(page: Path) -> None:
    files = [path for path in (ROOT / "docker").iterdir() if path.suffix != ".md"]
    known = {*variables(), *re.findall(r"M2N2_[A-Z0-9_]+", "".join(path.read_text() for path in files))}
    named = set(re.findall(r"\bM2N2_[A-Z0-9_]*[A-Z0-9]\b", text_of(page)))
    assert not named - known - {"M2N2_BACKEND_PORT"}, "Kubernetes makes M2N2_BACKEND_PORT"


@each_page
def test_every_file_and_section_that_a_page_links_to_exists(page: Path) -> None:
    missing = []
    for path, anchor in links(text_of(page)):
        target = (ROOT / page.parent / path) if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(f"{path}#{anchor}")
    assert not missing


@each_page
def test_every_source_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    code = " ".join([*inline_code(text_of(page)), *shell_lines(text_of(page))])
    names = {name.rstrip(".,:") for name in re.findall(r"(?<![\w./-])[\w][\w./-]*", code)}
    files = {name for name in names if name.endswith((".py", ".js", ".sh", ".xml", ".yaml"))}
    rooms = {name for name in names if re.match(r"(m2n2_backend|tests|docker|label_config)/", name)}
    package = ROOT / "m2n2_backend"
    bases = (ROOT / page.parent, ROOT, ROOT / "label_config", package, package / "m2n2")
    missing = {name for name in files | rooms if not any((base / name).exists() for base in bases)}
    assert not missing - {"docker/.env"}, "docker/.env is the one that a user makes"


@each_page
def test_the_command_line_takes_every_command_of_a_page(page: Path) -> None:
    wrong = {each: problem(each, written_out=whole) for each, whole in commands(text_of(page))}
    assert not {command: why for command, why in wrong.items() if why}


@each_page
def test_every_option_that_a_page_names_without_its_command_exists(page: Path) -> None:
    named = {name for code in inline_code(text_of(page)) for name in re.findall(r"^--[a-z0-9-]+", code)}
    known = {name for each in get_command(app).commands.values() for name in _options_of(each)}
    assert not named - known - {"--help"} - OF_OTHER_PROGRAMS


def _options_of(command: Any) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    return {name for each in command.params for name in each.opts}.union(*map(_options_of, inner))


@each_page
def test_every_make_target_compose_file_and_extra_of_a_page_exists(page: Path) -> None:
    code = "\n".join([*inline_code(text_of(page)), *shell_lines(text_of(page))])
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<![\w-])make ([a-z][a-z0-9-]*)", code)) <= targets
    assert not [file for file in re.findall(r"--file (\S+)", code) if not (ROOT / file).is_file()]
    extras = re.findall(r"^([\w-]+) = \[$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(re.findall(r'(?:m2n2-backend|"\.|\'\.)\[(\w+)\]', code)) <= set(extras)


@each_page
def test_every_option_of_a_script_is_one_that_the_script_reads(page: Path) -> None:
    for code in [*inline_code(text_of(page)), *shell_lines(text_of(page))]:
        for script, options in re.findall(r"(tests/\S+\.py)((?: -\S+(?: \w\S*)?)*)", code):
            source = (ROOT / script).read_text(encoding="utf-8")
            assert [option for option in re.findall(r"--[a-z-]+", options) if f'"{option}"' not in source] == []


def test_make_studio_takes_the_options_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [each for page in PAGES for each in re.findall(r'STUDIO="([^"]+)"', text_of(page))]
    assert options
    for each in options:
        monkeypatch.setattr(sys, "argv", ["studio", *shlex.split(each)])
        studio._options()


def test_the_readme_shows_what_make_studio_prints() -> None:
    account = Account("studio@example.com", "(made up at the first start)", "token")
    printed = studio._instructions(
        "http://127.0.0.1:8080", 1, account, ColorAffinity().description, Path("out/studio")
    )
    shown = [line for line in blocks(README, "text")[0].splitlines()[1:] if line]
    assert len(shown) == 5
    assert set(shown) <= set(printed.splitlines())


@each_page
def test_every_python_block_runs_on_a_photograph(page: Path, photograph: None) -> None:
    for code in blocks(text_of(page), "python"):
        names: dict[str, Any] = {}
        exec(code, names)
        mask = names["segmentation"].mask
        assert mask.shape == (512, 512)
        assert mask[205, 228], "on the astronaut, where all examples click"
        assert not mask[60, 60]


@each_page
def test_every_segment_command_runs_on_a_photograph(page: Path, photograph: None) -> None:
    for command, _ in commands(text_of(page)):
        if command.startswith("segment photograph.jpg"):
            run(command)
            mask = np.asarray(Image.open("mask.png"))
            assert mask[205, 228] == 255
            assert mask[60, 60] == 0


def test_the_readmes_python_and_its_command_give_the_mask_that_the_service_serves(photograph: None) -> None:
    names: dict[str, Any] = {}
    exec(blocks(README, "python")[0], names)
    (command,) = {each for each, _ in commands(README) if each.startswith("segment ")}
    run(command)
    assert np.array_equal(names["segmentation"].mask, np.asarray(Image.open("mask.png")) == 255)


@pytest.fixture
def photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with photograph.jpg, and the backbone that needs no weights."""
    (tmp_path / "photograph.jpg").write_bytes(sample_photograph().read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M2N2_BACKBONE", "color")


def test_the_readme_opens_with_the_commands_that_ci_runs() -> None:
    assert README.split("```")[1].split("#")[0].strip() == "make demo"
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_links_only_to_what_a_source_package_holds() -> None:
    included = re.search(r"\[tool.hatch.build.targets.sdist\]\ninclude = (.*)", (ROOT / "pyproject.toml").read_text())
    assert included is not None
    assert {path.split("/")[0] for path, _ in links(README)} <= set(re.findall(r'"([^"]+)"', included[1]))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("m2n2-backend evalute --project 3", "there is no command evalute"),
        ("m2n2-backend cluster stauts", "there is no command stauts"),
        ("m2n2-backend serve --adress x", "serve has no option --adress"),
        ("m2n2-backend serve --dataset grabcut", "serve has no option --dataset"),
        ("m2n2-backend serve --prot 9091 …", "serve has no option --prot"),
        ("m2n2-backend cluster up [--replica 4]", "cluster up has no option --replica"),
        ("m2n2-backend export --project 3 --format coco", "MissingParameter"),
        ("m2n2-backend export --project three --format coco --out masks", "BadParameter"),
        ("m2n2-backend export --project 3 --format tiff --out masks", "BadParameter"),
        ("LABEL_STUDIO_URL=http://x m2n2-backend doctor now # a remark", "UsageError"),
        ("m2n2-backend bench \\\n  --backbone sam", "BadParameter"),
    ],
)
def test_a_wrong_command_in_a_page_is_found(line: str, why: str) -> None:
    found = [problem(command, written_out=whole) for command, whole in commands(f"Text.\n\n```\n{line}\n```\n")]
    assert [each.split(":")[0] for each in found] == [why]


def test_a_wrong_link_is_found_by_its_file_or_its_section() -> None:
    text = (
        "# One `thing`, and more\n[a](gone.md) [b](#one-thing-and-more) [c](README.md#gone)\n```\n[d](code.md)\n```\n"
    )
    assert links(text) == [("gone.md", ""), ("", "one-thing-and-more"), ("README.md", "gone")]
    assert anchors(text) == {"one-thing-and-more"}
