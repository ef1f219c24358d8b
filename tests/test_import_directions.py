from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import m2n2_backend

PACKAGE = Path(m2n2_backend.__file__).parent
BASE = {"errors", "prompts", "rasters"}
SHARED = BASE | {"files", "images", "settings", "tls"}

# What each room may import of the package, beside itself. `cli` stands above all and may import everything; as it is
# in no list below, nothing here may import it.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "rasters": {"errors"},
    "prompts": {"errors", "rasters"},
    "logs": set(),
    "images": {"errors"},
    "resources": set(),
    "overlay": {"prompts"},
    "tls": {"errors"},
    "settings": {"errors", "files", "m2n2"},  # the method as the product runs it
    "m2n2": BASE | {"images", "overlay"},
    "backbones": BASE | {"files", "m2n2", "settings", "tls"},
    "worker": SHARED | {"logs", "m2n2", "backbones"},
    "labelstudio": SHARED | {"worker"},
    "labelstudio/contract": BASE | {"images", "worker"},
    "labelstudio/images": SHARED | {"worker"},
    "server": SHARED | {"logs", "worker", "labelstudio"},
    "evaluation": SHARED | {"overlay", "m2n2", "backbones"},
    "commands": SHARED
    | {
        "logs",
        "overlay",
        "resources",
        "m2n2",
        "backbones",
        "worker",
        "labelstudio",
        "server",
        "evaluation",
    },
    # It starts the other parts as programs, and imports the client of Label Studio's API alone.
    "commands/studio": SHARED | {"resources", "labelstudio"},
}


def part_of(path: Path) -> str:
    """errors.py → errors, m2n2/box.py → m2n2, labelstudio/contract/request.py → labelstudio/contract."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = "/".join(parts[:2])
    return room if room in ALLOWED else parts[0]


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) in ALLOWED]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = [name.split(".") for name in imports_of(path) if name.split(".")[0] == "m2n2_backend"]
    parts = {name[1] for name in own if len(name) > 1} - {"__version__"}

    assert parts - {part_of(path).split("/")[0]} <= ALLOWED[part_of(path)]


@pytest.mark.parametrize("part", ["m2n2", "backbones", "evaluation"])
def test_the_method_knows_nothing_of_servers(part: str) -> None:
    roots = {name.split(".")[0] for path in (PACKAGE / part).rglob("*.py") for name in imports_of(path)}

    assert not roots & {"flask", "gunicorn", "label_studio_sdk", "label_studio_ml", "httpx", "pydantic_settings"}


def test_the_method_touches_neither_files_nor_the_network() -> None:
    roots = {name.split(".")[0] for path in (PACKAGE / "m2n2").rglob("*.py") for name in imports_of(path)}

    assert not roots & {"os", "pathlib", "io", "socket", "urllib", "requests", "httpx", "logging", "PIL"}


def test_only_the_segmenter_knows_the_released_code() -> None:
    released = "m2n2_backend.m2n2.released"
    knowing = {path.name for path in files() if any(name.startswith(released) for name in imports_of(path))}
    own = {path.name for path in (PACKAGE / "m2n2" / "released").glob("*.py")}

    assert knowing - own == {"segmenter.py"}


def test_every_folder_of_the_package_has_its_place_in_the_order() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert folders <= set(ALLOWED)


@pytest.mark.parametrize(
    "module", ["m2n2_backend.m2n2.segmenter", "m2n2_backend.backbones", "m2n2_backend.backbones.vit"]
)
def test_method_and_backbones_import_without_flask_and_the_label_studio_sdk(module: str) -> None:
    code = f"import sys, {module}; print([n for n in ('flask', 'label_studio_sdk', 'diffusers') if n in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
