"""Starts the real programs: Label Studio as ``make studio`` does, the backend, and Chromium."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2n2_backend.commands.programs import Program, free_port, start_backend, wait_for_backend
from m2n2_backend.commands.studio import label_studio, project
from m2n2_backend.commands.studio.label_studio import Account
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.resources import label_config

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path("/usr/bin/chromium")
OUT = Path("out/e2e")
PLACE = OUT / os.environ.get("PYTEST_XDIST_WORKER", "alone")
"""What Label Studio and the backends of one of several test processes write."""
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a page does not wait for hosts out of reach
]


def missing() -> str | None:
    """What the tests in a browser lack on this machine; None if they can run."""
    program = os.environ.get("E2E_LABEL_STUDIO")
    if program is None:
        return "E2E_LABEL_STUDIO names no Label Studio: `make e2e` installs one and sets it"
    if shutil.which(program) is None:
        return f"E2E_LABEL_STUDIO={program} is not a program: `make e2e` installs it"
    return missing_browser()


def missing_browser() -> str | None:
    """What the tests in a browser without Label Studio lack on this machine; None if they can run."""
    if not CHROMIUM.exists():
        return f"no {CHROMIUM}: apt-get install chromium"
    if importlib.util.find_spec("playwright") is None:
        return "no playwright: pip install -e '.[e2e]'"
    return None


@dataclass(frozen=True)
class Studio:
    """A running Label Studio.

    Attributes:
        url: Its address.
        account: Account of the first user.
        api: As that user.
        files: Root of its local files.
    """

    url: str
    account: Account
    api: LabelStudioClient
    files: Path

    def project(
        self, title: str, config: str, images: Sequence[Path], model: str, **more: Any
    ) -> tuple[int, list[int]]:
        """Connect a new project with a config, or a shipped one by name; returns its id and its tasks' ids."""
        xml = config if config.startswith("<") else label_config(config).read_text(encoding="utf-8")
        number = project.create_project(self.api, title, xml, **more)
        project.upload(self.api, number, images)
        self.api.connect_backend(number, model)
        return number, self.tasks(number)

    def tasks(self, number: int) -> list[int]:
        """Ids of a project's tasks, oldest first."""
        return [task["id"] for task in self.api.tasks(number)]


@dataclass(frozen=True)
class Backend:
    """A running backend."""

    url: str
    program: Program


@dataclass(frozen=True)
class FirstRun:
    """The result of ``make studio``.

    Attributes:
        folder: Folder of the database that it created.
        printed: On both streams.
        status: With which it ended after SIGINT.
        left: Command lines of processes it left behind.
    """

    folder: Path
    printed: str
    status: int
    left: list[str]


def first_run(folder: Path) -> FirstRun:
    """Run ``python -m m2n2_backend.commands.studio`` in an empty folder, and stop it when it says what to click."""
    shutil.rmtree(folder, ignore_errors=True)
    ports = [str(free_port()), str(free_port())]
    command = [sys.executable, "-m", "m2n2_backend.commands.studio", "--folder", str(folder), "--port", ports[0]]
    command += ["--backend-port", ports[1], "--label-studio", os.environ["E2E_LABEL_STUDIO"]]
    environment = {**os.environ, "M2N2_BACKBONE": "color", "M2N2_CACHE_DIR": str((PLACE / "cache").resolve())}
    printed = ""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if "Ctrl+C stops both" in line:
                process.send_signal(signal.SIGINT)
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    left = [line for line in lines if any(f" {port} " in f"{line} " for port in ports)]
    return FirstRun(folder, printed, process.returncode, left)


@contextmanager
def running_studio(folder: Path) -> Iterator[Studio]:
    """Run Label Studio with the database in ``folder``, which is created if there is none."""
    account, port = Account.of(folder), free_port()
    url = f"http://127.0.0.1:{port}"
    with label_studio.start(Path(os.environ["E2E_LABEL_STUDIO"]), folder, port, account) as program:
        label_studio.wait(program, url)
        api = LabelStudioClient(url, account.token)
        yield Studio(url, account, api, folder / "files")


@contextmanager
def running_backend(studio: Studio, token: str, port: int | None = None, **more: str) -> Iterator[Backend]:
    """Run the backend with a token, and with the color backbone unless ``more`` variables name another."""
    port = port or free_port()
    log = OUT / "logs" / f"backend-{port}.log"
    settings = {"M2N2_BACKBONE": "color", "M2N2_CACHE_DIR": str((PLACE / "cache").resolve())}
    settings |= {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": token, **more}
    with start_backend(port, log, settings) as program:
        url = f"http://127.0.0.1:{port}"
        wait_for_backend(program, url)
        yield Backend(url, program)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield chromium
        chromium.close()


def log_in(browser: Browser, studio: Studio) -> Any:
    """Log in as the first user; returns the cookies."""
    page = browser.new_page()
    page.goto(f"{studio.url}/user/login")
    _fill_in(page, studio.account.user, studio.account.password)
    cookies = page.context.storage_state()
    page.close()
    return cookies


def sign_up(browser: Browser, studio: Studio, user: str, password: str) -> Any:
    """Create a user of the same organization; returns the cookies."""
    invitation = studio.api.call("GET", "/api/invite")["invite_url"]
    page = browser.new_page()
    page.goto(f"{studio.url}{invitation}")
    _fill_in(page, user, password)
    cookies = page.context.storage_state()
    page.close()
    return cookies


def _fill_in(page: Any, user: str, password: str) -> None:
    page.fill("input[name=email]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/" not in url, wait_until="commit")
