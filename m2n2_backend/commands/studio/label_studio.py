"""Label Studio without docker: its start, its account, its API."""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from m2n2_backend.commands.studio.processes import Program
from m2n2_backend.errors import StudioError

START_SECONDS = 300.0
"""The first start creates the database, which takes about a minute; later ones take ten seconds."""

_USER = "studio@example.com"
_API_SECONDS = 30.0
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
    """Of the user Label Studio is started with.

    Attributes:
        user: Mail address to log in with.
        password: For the browser.
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
        port: Must be free: Label Studio would silently take the next one.
        account: Created at the first start.

    Raises:
        StudioError: There is no such program.
    """
    files = folder.resolve() / "files"
    files.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    command += ["--username", account.user, "--password", account.password]
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


class Api:
    """Label Studio's API as one user."""

    def __init__(self, url: str, authorization: str) -> None:
        """Nothing is sent yet.

        Args:
            url: Without a slash at its end.
            authorization: The header's value, such as ``Token …``.
        """
        # trust_env: a proxy of the environment has no business with this machine's own address.
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": authorization}, timeout=_API_SECONDS, trust_env=False
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """One request.

        Args:
            method: Of HTTP.
            path: Begins with a slash.
            body: Sent as JSON unless it is None.
            more: Handed to httpx.

        Returns:
            The answer's JSON, None where it has no body.

        Raises:
            StudioError: Label Studio refuses it or does not answer.
        """
        try:
            answer = self._client.request(method, path, json=body, **more)
        except httpx.TransportError as error:
            raise StudioError(f"Label Studio did not answer {method} {path}: {error}") from error
        if answer.is_error:
            raise StudioError(f"Label Studio refused {method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer.json() if answer.content else None
