"""The programs of ``make studio``, without Label Studio; tests/e2e has the real one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from processes import is_running
from repository import ROOT

from m2n2_backend.commands.programs import Program, Stopped, free_port, require_free
from m2n2_backend.commands.studio import label_studio
from m2n2_backend.commands.studio.label_studio import Account
from m2n2_backend.errors import StudioError

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
# The kernel needs longer to end a process that holds much memory than the killer needs to look.
LARGE = f"held = b'x' * 200_000_000; {DEAF}"
STUBBORN = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {LARGE!r}])
print(child.pid, flush=True)
{DEAF}
"""


def python(code: str, log: Path) -> Program:
    return Program("the program", [sys.executable, "-c", code], log, {})


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    ports = ["--port", str(free_port()), "--backend-port", str(free_port())]
    command = [sys.executable, "-m", "m2n2_backend.commands.studio", *ports, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "M2N2_BACKBONE": "color"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_a_program_that_ends_is_told_with_the_last_it_printed(tmp_path: Path) -> None:
    with (
        python("print('no disk left'); raise SystemExit(7)", tmp_path / "log") as program,
        pytest.raises(StudioError, match=r"the program ended with status 7(?s:.*)no disk left"),
    ):
        program.wait_until(lambda: False, 30)


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with (
        python("import signal; signal.pause()", tmp_path / "log") as program,
        pytest.raises(StudioError, match="not ready within 0 s"),
    ):
        program.wait_until(lambda: False, 0.1)


def test_waiting_ends_when_the_user_wants_to_stop(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with python("import signal; signal.pause()", tmp_path / "log") as program, pytest.raises(Stopped):
        program.wait_until(lambda: False, 30, stopping)


def test_stopping_ends_what_the_program_started_too_however_stubborn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2n2_backend.commands.programs._GRACE_SECONDS", 0.2)
    log = tmp_path / "log"
    with python(STUBBORN, log) as program:
        program.wait_until(lambda: log.read_text().count("up") == 2, 120)
    child = int(next(line for line in log.read_text().splitlines() if line.isdigit()))
    assert not is_running(program.pid)
    assert not is_running(child)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="the program cannot be started: /no/such: No such file"):
        Program("the program", ["/no/such"], tmp_path / "log", {})


def test_a_taken_port_is_told_with_the_option_for_another_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudioError, match=f"port {port}.*--port"):
            require_free("Label Studio", port, "--port")


def test_the_account_is_made_up_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = Account.of(tmp_path / "studio")
    assert Account.of(tmp_path / "studio") == first
    assert Account.of(tmp_path / "other").password != first.password
    assert (tmp_path / "studio" / "account.json").stat().st_mode & 0o077 == 0


def test_a_password_may_begin_with_a_hyphen(tmp_path: Path) -> None:
    program = tmp_path / "label-studio"
    program.write_text(
        f"#!{sys.executable}\nimport argparse\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--password')\nprint('password', parser.parse_known_args()[0].password)\n"
    )
    program.chmod(0o755)
    with (
        label_studio.start(program, tmp_path / "studio", 1, Account("me@example.com", "-secret", "token")) as running,
        pytest.raises(StudioError, match="password -secret"),
    ):
        running.wait_until(lambda: False, 30)


def test_where_label_studio_dies_the_command_says_so_and_leaves_no_backend(tmp_path: Path) -> None:
    broken = tmp_path / "label-studio"
    broken.write_text(f"#!{sys.executable}\nraise SystemExit('database is locked')\n")
    broken.chmod(0o755)
    done = run("--label-studio", str(broken), cwd=tmp_path)
    assert done.returncode == 1
    assert "Label Studio ended with status 1" in done.stderr
    assert "database is locked" in done.stderr
    (port,) = [argument for before, argument in pairwise(done.args) if before == "--backend-port"]
    require_free("the backend", int(port), "--backend-port")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [(["--images", "/no/such"], "/no/such: No such file"), (["--label-studio", "/no/such"], "cannot be started")],
)
def test_wrong_options_are_explained_in_one_line(arguments: list[str], cause: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, cause in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
