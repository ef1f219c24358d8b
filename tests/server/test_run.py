"""The server as it is started from the command line: it says where it is, and goes when it is told to."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from fake_label_studio import png
from label_studio_fakes import DiscPool, key_point, payload, send, settings
from processes import free_port, wait_until_ready
from repository import SUPPORT
from typer.testing import CliRunner
from waiting import LAST_RESORT_SECONDS

from m2n2_backend.cli import app
from m2n2_backend.server.run import _Server

SCRIPT = """
import socket
import sys
sys.path.insert(0, sys.argv[1])
from label_studio_fakes import DiscPool, settings
from waiting import until
from m2n2_backend.server.run import serve

class Loud(DiscPool):
    def segment(self, work):
        print("segmenting", file=sys.stderr, flush=True)
        until(lambda: socket.socket().connect_ex(("127.0.0.1", int(sys.argv[2]))))  # until nobody listens any more
        return super().segment(work)

    def close(self):
        print("pool closed", file=sys.stderr, flush=True)

serve(settings(port=int(sys.argv[2]), host=sys.argv[3]), lambda settings: Loud())
"""
PIXELS = "data:image/png;base64," + base64.b64encode(png()).decode()


@contextmanager
def running(host: str = "127.0.0.1") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the address at which it answers."""
    port = free_port()
    command = [sys.executable, "-c", SCRIPT, str(SUPPORT), str(port), host]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_ready(process, lambda: send(port, "GET", "/health"))
            yield process, url
        finally:
            process.kill()


def stopped(process: subprocess.Popen[str]) -> str:
    """What it wrote until it was gone."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=LAST_RESORT_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in log
    return log


def test_serve_answers_says_where_it_listens_and_closes_the_model_on_a_signal() -> None:
    with running() as (process, url):
        answer = httpx.post(f"{url}/predict", json=payload(key_point(150, 0)))
        assert answer.status_code == 422
        assert "coordinate 150" in answer.reason_phrase
        assert httpx.get(f"{url}/none%0ACRITICAL%20forged%1B[2J").status_code == 404
        log = stopped(process)
    assert f"listening on {url}, backbone discs" in log
    assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in log
    assert "M2N2_BASIC_AUTH_USER" not in log
    assert "pool closed" in log
    assert "GET /none\\nCRITICAL forged\\x1b[2J: 404 " in log
    assert "\x1b" not in log


def test_a_click_that_was_begun_is_answered_before_the_server_goes() -> None:
    with running("0.0.0.0") as (process, url), ThreadPoolExecutor(1) as threads:
        click = threads.submit(httpx.post, f"{url}/predict", json=payload(key_point(), image=PIXELS), timeout=120)
        assert process.stderr is not None
        before = ""
        while "segmenting" not in before:
            before += process.stderr.readline()
        assert "pool closed" in stopped(process)
        assert click.result().json()["results"][0]["result"]
    assert "any program that reaches 0.0.0.0" in before
    assert "M2N2_BASIC_AUTH_USER" in before


def test_a_web_process_that_hangs_is_killed_after_a_minute() -> None:
    assert _Server(settings(), lambda _: DiscPool()).cfg.timeout == 60


def test_the_serving_process_knows_the_credentials_before_it_receives_a_body() -> None:
    guarded = settings(basic_auth_user="annotator", basic_auth_password="sesame")
    assert _Server(guarded, lambda _: DiscPool()).limits.credentials == ("annotator", "sesame")
    assert "sesame" not in repr(_Server(guarded, lambda _: DiscPool()).limits)


def test_serve_says_on_windows_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("M2N2_BASIC_AUTH_USER", "alone")  # a mistake that would end the start elsewhere
    done = CliRunner().invoke(app, ["serve", "--backbone", "color"])
    assert done.exit_code == 1
    assert "runs on Linux and macOS: on Windows, run it in Docker (docker/README.md) or in WSL 2" in done.stderr


def test_serve_says_the_same_where_what_it_needs_of_unix_is_missing() -> None:
    start = "import sys; sys.modules['fcntl'] = None; from m2n2_backend.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", start, "serve"], capture_output=True, text=True, timeout=LAST_RESORT_SECONDS
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "WSL 2" in done.stderr
