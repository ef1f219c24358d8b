"""``python -m m2n2_backend.commands.studio``: Label Studio, the backend and a project to click in, until Ctrl+C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from m2n2_backend.commands.programs import Program, Stopped, require_free, start_backend, wait_for_backend
from m2n2_backend.commands.studio import label_studio, project
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.images.folders import is_of_a_person
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.resources import label_config, sample_photographs

TITLE = "M2N2 studio"
_WATCH_SECONDS = 0.5
_PHOTOGRAPHS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}


def main() -> int:
    """Run until a signal or a failure; returns the exit status."""
    options = _options()
    # All waiting asks this event, so that a signal never interrupts the stopping itself.
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with ExitStack() as running:
            _run(options, running, stopping)
    except Stopped:
        pass
    except M2N2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("stopped Label Studio and the backend")
    return 0


def _run(options: argparse.Namespace, running: ExitStack, stopping: threading.Event) -> None:
    images = _images(options.images)
    require_free("Label Studio", options.port, "--port")
    require_free("the backend", options.backend_port, "--backend-port")
    folder: Path = options.folder
    account = label_studio.Account.of(folder)
    studio_url, backend_url = f"http://127.0.0.1:{options.port}", f"http://127.0.0.1:{options.backend_port}"

    _say("starting Label Studio and the backend; the first time takes about a minute …")
    studio = running.enter_context(label_studio.start(options.label_studio, folder, options.port, account))
    environment = {"LABEL_STUDIO_URL": studio_url, "LABEL_STUDIO_API_KEY": account.token}
    server = running.enter_context(start_backend(options.backend_port, folder / "backend.log", environment))
    label_studio.wait(studio, studio_url, stopping)
    backbone = str(wait_for_backend(server, backend_url, stopping)["backbone"])

    api = LabelStudioClient(studio_url, account.token)
    number = project.project_named(api, options.title, label_config("brush").read_text(encoding="utf-8"), images)
    api.connect_backend(number, backend_url)
    _say(_instructions(studio_url, number, account, backbone, folder))
    _watch((studio, server), stopping)


def _watch(programs: tuple[Program, ...], stopping: threading.Event) -> None:
    while not stopping.wait(_WATCH_SECONDS):
        for program in programs:
            program.check()


def _instructions(url: str, number: int, account: label_studio.Account, backbone: str, folder: Path) -> str:
    return f"""
  open      {url}/projects/{number}/data
  log in    {account.user}
  password  {account.password}
  backbone  {backbone}
  logs      {folder}/label-studio.log, {folder}/backend.log

  1. Open a task and switch on Auto-Annotation at the bottom of the page.
  2. Click on the Auto-Detect tool, the last one in the toolbar beside the image.
  3. Choose a label (hotkeys 1, 2, 3) and click on an object: its mask appears.
  4. Each further click corrects the mask; Alt+click marks what does not belong to the object.
  5. The check mark at the bottom accepts the mask; click on the next object. Submit saves all of them.

Ctrl+C stops both. Everything stays in {folder} for the next time.
"""


def _images(folder: Path | None) -> list[Path]:
    if folder is None:
        return sample_photographs()
    try:
        found = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in _PHOTOGRAPHS and is_of_a_person(path, folder)
        )
    except OSError as error:
        raise SettingsError(f"--images {folder}: {error.strerror}") from error
    if not found:
        raise SettingsError(f"--images {folder}: no image lies there")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m m2n2_backend.commands.studio", description=__doc__)
    parser.add_argument("--label-studio", type=Path, default=Path("label-studio"), help="its program's path")
    parser.add_argument("--folder", type=Path, default=Path("out/studio"), help="for database, uploads and logs")
    parser.add_argument("--port", type=int, default=8080, help="port of Label Studio")
    parser.add_argument("--backend-port", type=int, default=9090, help="port of the backend")
    parser.add_argument("--images", type=Path, help="folder of photographs for a new project, instead of the samples")
    parser.add_argument("--title", default=TITLE, help="title of the project")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
