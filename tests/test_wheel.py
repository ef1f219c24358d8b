"""The package without its source tree."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repository import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=900)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_configs_and_photograph_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"m2n2_backend/label_config/{name}.xml" for name in ("brush", "polygon", "bitmask")} <= names
    assert "m2n2_backend/samples/astronaut.jpg" in names
    assert not any(name.startswith("tests/") for name in names)


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = [path.relative_to(ROOT) for path in (ROOT / "m2n2_backend").rglob("*") if path.is_file()]
    assert {path.as_posix() for path in package if "__pycache__" not in path.parts} <= names
    assert "m2n2_backend/evaluation/report/page.html" in names


def test_the_installed_wheel_works_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=900)
    program = (
        "import m2n2_backend, m2n2_backend.commands.demo.__main__ as demo;"
        f"assert m2n2_backend.__file__.startswith({str(site)!r}), m2n2_backend.__file__;"
        "import sys; sys.argv = ['demo', 'out']; demo.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "demo.png").is_file()
