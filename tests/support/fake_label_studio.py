"""A Label Studio on a real socket. Its tokens, files, projects and models answer as recorded from release 1.23.2.

It also serves files with redirects, from buckets, and in many ways in which servers misbehave.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image
from repository import ROOT
from waiting import RunningClock

WIDTH, HEIGHT = 64, 48
LEGACY = "0123456789abcdef0123456789abcdef01234567"
BRUSH_CONFIG = (ROOT / "label_config" / "old" / "brush.xml").read_text(encoding="utf-8")
DISABLED = "Authentication token no longer valid: legacy token authentication has been disabled for this organization"


def jwt(**claims: Any) -> str:
    """A token whose claims can be read; its signature is not checked."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".c2lnbmF0dXJl"


PERSONAL = jwt(token_type="refresh", exp=4102444800, user_id="1")


def png(width: int = WIDTH, height: int = HEIGHT, **save: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(file, "PNG", **save)
    return file.getvalue()


class FakeLabelStudio:
    """The server, from its creation until ``close``.

    ``projects`` holds labeling configs by project id, and ``models`` by project id what GET /api/ml says about each.
    ``requests`` and ``posted`` keep what was sent.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.posted: list[tuple[str, Any]] = []
        self.generation = 0
        self.files: dict[str, bytes] = {"a.png": png()}
        self.kinds: dict[str, str] = {}
        # The Content-Encoding of a file, by its name; the bytes are sent unchanged.
        self.encodings: dict[str, str] = {}
        # The address behind s3:// addresses, and the tasks that may not read from it.
        self.bucket = ""
        self.denied_tasks: set[int] = set()
        # The ETag of every versioned file; made from the file if empty.
        self.etag = ""
        # Each part of a dripping answer puts this clock forward by a second.
        self.clock = RunningClock()
        self.release = "1.23.2"
        self.legacy_tokens = True
        self.bans_private = False
        self.unknown_hosts: set[str] = set()
        self.projects: dict[int, str] = {}
        self.titles: dict[int, str] = {}
        self.models: dict[int, list[dict[str, Any]]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.declines_predictions = False
        # A request below /held is answered with an error once this is set; an answer below /almost is finished then.
        self.held = threading.Event()
        self._stop = threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._stop.set()
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def tokens(self, prefix: str) -> list[str | None]:
        """The Authorization headers of the requests below a path."""
        return [headers.get("Authorization") for path, headers in self.requests if path.startswith(prefix)]

    def access(self) -> str:
        """The newest access token, which is the only one accepted."""
        return jwt(token_type="access", exp=4102444800, generation=self.generation)

    def connect(self, url: str, *, state: str = "CO", config: str = BRUSH_CONFIG, **fields: Any) -> int:
        """Add a project with one model; returns the project's id."""
        project = len(self.projects) + 1
        self.projects[project] = config
        model = {"id": project, "state": state, "url": url, "is_interactive": True, "error_message": None}
        self.models[project] = [{**model, "model_version": "m2n2-0.1.0-color-2-g40", **fields}]
        return project

    def add_task(self, project: int, *regions: dict[str, Any], drafts: bool = False, **data: Any) -> int:
        """Add a task with prompts saved in an annotation or a draft; returns its id."""
        number = len(self.tasks) + 1
        saved = [{"id": number, "result": list(regions), "was_cancelled": False}] if regions else []
        task = {
            "id": number,
            "project": project,
            "data": {"image": "/data/upload/1/a.png", **data},
            "annotations": [] if drafts else saved,
            "drafts": saved if drafts else [],
            "predictions": [],
        }
        self.tasks.append(task)
        return number

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions that were posted for a task."""
        return list(self.tasks[task - 1]["predictions"])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if url.path.startswith("/api/"):
                    fake._json(self, *fake._api(url.path, query, self.headers.get("Authorization", "")))
                else:
                    fake._file(self, url.path, query)

            def do_POST(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.posted.append((self.path, sent))
                fake._json(self, *fake._post(self.path, sent, self.headers.get("Authorization", "")))

            do_PATCH = do_POST  # noqa: N815

        return Handler

    # The API

    def _api(self, path: str, query: dict[str, str], given: str) -> tuple[int, Any]:
        project = re.fullmatch(r"/api/projects/(\d+)/", path)
        if path == "/api/version":
            return 200, {"release": self.release}
        if refusal := self._refusal(given):
            return _error(401, refusal)
        if path == "/api/current-user/whoami":
            return 200, {"id": 1, "email": "annotator@example.com"}
        if path == "/api/projects/":
            found = [self._project(number) for number in self.projects]
            return 200, {"count": len(found), "next": None, "previous": None, "results": found}
        if path == "/api/ml/":
            return 200, self.models.get(int(query["project"]), [])
        if path == "/api/tasks/":
            return 200, self._tasks(query)
        if project and int(project[1]) in self.projects:
            return 200, self._project(int(project[1]))
        return _error(404, "Not found.")

    def _tasks(self, query: dict[str, str]) -> dict[str, Any]:
        asked = json.loads(query["query"])
        assert asked["ordering"] == ["tasks:id"]
        least, *unlabeled = asked["filters"]["items"]
        assert (least["filter"], least["operator"], query["page"]) == ("filter:tasks:id", "greater", "1")
        found = [
            task
            for task in self.tasks
            if task["project"] == int(query["project"]) and task["id"] > least["value"]
            if not (unlabeled and task["annotations"])
        ]
        saved = ["annotations", "drafts", "predictions"] if query["fields"] == "all" else []
        part = [{key: task[key] for key in ["id", "data", *saved]} for task in found[: int(query["page_size"])]]
        return {"tasks": part, "total": len(found)}

    def _post(self, path: str, sent: Any, given: str) -> tuple[int, Any]:
        if path == "/api/token/refresh/":
            if sent != {"refresh": PERSONAL}:
                return _error(401, "Token is invalid")
            self.generation += 1
            return 200, {"access": self.access()}
        if refusal := self._refusal(given):
            return _error(401, refusal)
        if path == "/api/predictions/":
            if self.declines_predictions:
                return _error(400, "Validation error")
            prediction = {"id": len(self.posted), **sent}
            self.tasks[sent["task"] - 1]["predictions"].append(prediction)
            return 201, prediction
        if "project" in sent:
            return self._connected(path, sent)
        return self._judged(urlsplit(sent["url"]).hostname or "")

    def _connected(self, path: str, sent: Any) -> tuple[int, Any]:
        models = self.models.setdefault(sent["project"], [])
        if changed := re.fullmatch(r"/api/ml/(\d+)", path):
            (model,) = [model for model in models if model["id"] == int(changed[1])]
            model.update(sent)
            return 200, model
        models.append({"id": 100 + len(models), **sent})
        return 201, models[-1]

    def _judged(self, host: str) -> tuple[int, Any]:
        private = host == "localhost" or (
            re.fullmatch(r"[0-9.:a-f]+", host) is not None and ipaddress.ip_address(host).is_private
        )
        if host in self.unknown_hosts:
            return _error(500, f"Can't resolve hostname {host}")
        if private and self.bans_private:
            return _error(403, "URL resolves to a reserved network address (block: 127.0.0.0/8)")
        return _error(400, "Validation error", validation_errors={"project": ["This field is required."]})

    def _refusal(self, given: str) -> str:
        """Why Label Studio refuses an Authorization header; empty if it accepts it."""
        if given == f"Bearer {self.access()}" or (given == f"Token {LEGACY}" and self.legacy_tokens):
            return ""
        if given == f"Token {LEGACY}":
            return DISABLED
        return "Invalid token." if given.startswith("Token ") else "Authentication credentials were not provided."

    def _project(self, number: int) -> dict[str, Any]:
        count = len([task for task in self.tasks if task["project"] == number])
        config = self.projects[number]
        return {
            "id": number,
            "title": self.titles.get(number, f"project {number}"),
            "label_config": config,
            "task_number": count,
        }

    # Files, and answers that are not files

    def _file(self, to: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        _, first, *rest = path.split("/")
        refusal = self._refusal(to.headers.get("Authorization", "")) if first in ("data", "tasks") else ""
        answers: dict[str, Callable[[], None]] = {
            "data": lambda: (
                self._reply(to, int(rest[1]), b"", "text/plain")
                if rest[0] == "status"
                else self._found(to, rest[-1] or query["d"])
            ),
            "tasks": lambda: (
                self._reply(to, 403, b"", "text/plain")
                if int(rest[0]) in self.denied_tasks
                else self._redirect(to, f"{self.bucket}/open/a.png?X-Amz-Signature=bucketsecret")
            ),
            "open": lambda: self._found(to, "a.png"),
            "file": lambda: self._found(to, rest[0]),
            "almost": lambda: self._almost(to, self.files[rest[0]]),
            "versioned": lambda: self._versioned(to, self.files[rest[0]]),
            "hops": lambda: self._redirect(to, f"/hops/{int(rest[0]) - 1}" if int(rest[0]) else "/open/a.png"),
            "away": lambda: self._redirect(to, query["to"], int(rest[0]) if rest else 302),
            "status": lambda: self._reply(to, int(rest[0]), b"", "text/plain"),
            "login": lambda: self._reply(to, 200, b"<html>Log in</html>", "text/html; charset=utf-8"),
            "announced": lambda: self._head(to, 200, {"Content-Length": str(10**12)}),
            "broken": lambda: to.wfile.write(b"no HTTP\r\n\r\n") and None,
            "endless": lambda: self._drip(to, b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536, seconds=0.0),
            "held": lambda: (self.held.wait(20), self._reply(to, 503, b"", "text/plain"))[1],
            "slow": lambda: self._drip(to, b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
            "slow-headers": lambda: self._drip(to, b"HTTP/1.0 200 OK\r\nX-Long: ", b"x"),
            "hints": lambda: self._drip(to, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"),
        }
        if refusal:
            self._json(to, *_error(401, refusal))
        elif first in answers:
            answers[first]()
        else:
            self._reply(to, 404, b"", "text/plain")

    def _found(self, to: BaseHTTPRequestHandler, name: str) -> None:
        file = self.files.get(name)
        more = {"Content-Encoding": self.encodings[name]} if name in self.encodings else {}
        self._reply(to, 404 if file is None else 200, file or b"", self.kinds.get(name, "image/png"), **more)

    def _almost(self, to: BaseHTTPRequestHandler, file: bytes) -> None:
        """Send all but the last byte, and that one once ``held`` is set."""
        self._head(to, 200, {"Content-Length": str(len(file))})
        to.wfile.write(memoryview(file)[:-1])  # type: ignore[arg-type]
        self.held.wait(60)
        to.wfile.write(file[-1:])

    def _versioned(self, to: BaseHTTPRequestHandler, file: bytes) -> None:
        """Serve a file as a bucket does: 304 if the client names the current version."""
        etag = self.etag or f'"{hash(file)}"'
        unchanged = to.headers.get("If-None-Match") == etag
        body = b"" if unchanged else file
        self._head(to, 304 if unchanged else 200, {"ETag": etag, "Content-Length": str(len(body))})
        to.wfile.write(body)

    def _drip(self, to: BaseHTTPRequestHandler, start: bytes, part: bytes, seconds: float = 1.0) -> None:
        to.wfile.write(start)
        # With the pause, small parts stay far below every limit of bytes, even if a busy machine delays the reader.
        while not self._stop.wait(0.001 if seconds else 0.0):
            to.wfile.write(part)
            self.clock.ahead += seconds

    def _redirect(self, to: BaseHTTPRequestHandler, where: str, status: int = 302) -> None:
        self._head(to, status, {"Location": where, "Content-Length": "0"})

    def _json(self, to: BaseHTTPRequestHandler, status: int, data: Any) -> None:
        self._reply(to, status, json.dumps(data).encode(), "application/json")

    def _reply(self, to: BaseHTTPRequestHandler, status: int, body: bytes, kind: str, **more: str) -> None:
        self._head(to, status, {"Content-Type": kind, "Content-Length": str(len(body)), **more})
        to.wfile.write(body)

    @staticmethod
    def _head(to: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name, value)
        to.end_headers()


def _error(status: int, detail: str, **more: Any) -> tuple[int, Any]:
    return status, {"status_code": status, "detail": detail, **more}


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up, as many tests do."""
