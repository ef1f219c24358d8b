"""Label Studio without docker: its start and its account."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from m2n2_backend.commands.programs import Program

START_SECONDS = 300.0
"""The first start creates the database, which takes about a minute; later ones take ten seconds."""

_USER = "studio@example.com"
_ENVIRONMENT = {
    # Without it Label Studio refuses every backend on a private address, which 127.0.0.1 is.
    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
    "COLLECT_ANALYTICS": "False",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "0",
}


@dataclass(frozen=True)
class Account:
    """The user that Label Studio is started with.

    Attributes:
        user: Mail address to log in with.
        password: Password to log in with.
        token: Legacy token for the API.
    """

    user: str
    password: str
    token: str

    @classmethod
    def of(cls, folder: Path) -> Account:
        """The account whose database lies in ``folder``; made up the first time."""
        path = folder / "account.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made = cls(_USER, secrets.token_urlsafe(9), secrets.token_hex(20))
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(made)), encoding="utf-8")
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def start(program: Path, folder: Path, port: int, account: Account) -> Program:
    """Start Label Studio on 127.0.0.1; it is not ready yet.

    Args:
        program: ``label-studio`` of a virtual environment of its own.
        folder: Its database and uploads; ``files`` in it is the root for images from local files.
        port: A free one: Label Studio would silently take the next one.
        account: The user, who is created at the first start.

    Raises:
        StudioError: There is no such program.
    """
    files = folder.resolve() / "files"
    files.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    # With a sign of equality: a password may begin with a hyphen, and one in 64 does.
    command += [f"--username={account.user}", f"--password={account.password}"]
    command += ["--user-token", account.token, "--enable-legacy-api-token"]
    environment = {
        **_ENVIRONMENT,
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder.resolve() / "data"),
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
    }
    return Program("Label Studio", command, folder / "label-studio.log", environment)


def wait(process: Program, url: str, stopping: threading.Event | None = None) -> None:
    """Wait until Label Studio answers.

    Raises:
        StudioError: It ended, or took longer than five minutes.
        Stopped: ``stopping`` was set.
    """

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    process.wait_until(ready, START_SECONDS, stopping)
