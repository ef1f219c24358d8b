"""Users without a home folder: containers under any user id, services, OpenShift."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT
from waiting import LAST_RESORT_SECONDS

from m2n2_backend.errors import SettingsError
from m2n2_backend.files import cache_home, is_temporary, settle_cache_home
from m2n2_backend.settings import load_settings

PHOTOGRAPH = ROOT / "m2n2_backend" / "samples" / "cat.jpg"
NAMED = ("HOME", "XDG_CACHE_HOME", "M2N2_CACHE_DIR", "HF_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")
# A user of which the system has heard nothing, who is root or this user elsewhere.
STRANGER = ("unshare", "--user", "--map-user=54321")


def as_stranger(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user without an entry in the list of users, in a folder of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMED}
    environment |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "300", **variables}
    command = [*STRANGER, sys.executable, "-m", "m2n2_backend", *arguments]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LAST_RESORT_SECONDS
    )


@pytest.fixture(scope="module")
def strangers() -> None:
    try:
        subprocess.run([*STRANGER, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces on this machine")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """This process without a home folder; yields the folder for temporary files."""
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/home")  # put back at the end, with what is set over it
    monkeypatch.setenv("HOME", "/dev/null/home")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.mark.parametrize("home", [None, "/dev/null/home"])
@pytest.mark.usefixtures("strangers")
def test_a_stranger_without_a_home_segments_and_is_told_where_caches_go(tmp_path: Path, home: str | None) -> None:
    variables = {} if home is None else {"HOME": home}
    options = ("--click", "200,150", "--out", "mask.png", "--backbone", "color")
    done = as_stranger(tmp_path, "segment", str(PHOTOGRAPH), *options, **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "set M2N2_CACHE_DIR and HF_HOME to folders that are kept" in done.stderr
    (folder,) = tmp_path.glob("m2n2-backend-*")
    assert {path.name for path in tmp_path.iterdir()} == {"mask.png", folder.name}
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("strangers")
def test_a_stranger_precomputes_into_a_folder_that_the_next_command_finds(tmp_path: Path) -> None:
    command = ("precompute", "--images", str(PHOTOGRAPH.parent), "--backbone", "color", "--grid", "8")
    assert "3 encoded, 0 were there" in as_stranger(tmp_path, *command).stderr
    assert "0 encoded, 3 were there" in as_stranger(tmp_path, *command).stderr


@pytest.mark.usefixtures("strangers")
def test_doctor_warns_a_stranger_that_the_cache_is_temporary(tmp_path: Path) -> None:
    done = as_stranger(tmp_path, "doctor", "--backbone", "color")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "is temporary: there is no home to write to" in done.stdout


@pytest.mark.usefixtures("strangers")
def test_nothing_is_said_where_the_folders_are_named(tmp_path: Path) -> None:
    named = {"M2N2_CACHE_DIR": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    done = as_stranger(tmp_path, "precompute", "--images", str(PHOTOGRAPH.parent), "--backbone", "color", **named)
    assert "3 encoded" in done.stderr
    assert "folders that are kept" not in done.stderr


def test_a_home_that_can_be_written_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache"
    settle_cache_home()
    assert "XDG_CACHE_HOME" not in os.environ
    assert load_settings().cache_dir == tmp_path / ".cache" / "m2n2_backend"


def test_libraries_read_the_temporary_folder_from_the_environment(homeless: Path) -> None:
    settle_cache_home()
    ask = "import json, numba, huggingface_hub.constants as hub; print(json.dumps([hub.HF_HOME]))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [str(cache_home() / "huggingface")]
    assert homeless in cache_home().parents
    assert is_temporary(load_settings().cache_dir)


@pytest.mark.parametrize("left", ["folder of others", "link", "file"])
def test_a_folder_that_another_user_could_have_put_there_is_not_used(homeless: Path, left: str) -> None:
    expected = cache_home()
    expected.rmdir()
    if left == "folder of others":
        expected.mkdir()
        expected.chmod(0o777)
    elif left == "link":
        (homeless / "elsewhere").mkdir()
        expected.symlink_to(homeless / "elsewhere")
    else:
        expected.touch()
        with pytest.raises(SettingsError, match="no folder to write to"):
            cache_home()
        return
    assert cache_home() != expected
    assert cache_home().stat().st_mode & 0o077 == 0


def test_no_folder_at_all_is_one_clear_error_unless_the_settings_name_some(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/home")
    with pytest.raises(SettingsError, match=r"no folder to write to.*set HOME, or M2N2_CACHE_DIR and HF_HOME"):
        settle_cache_home()
    monkeypatch.setenv("M2N2_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    settle_cache_home()
    assert load_settings().cache_dir == tmp_path
