"""A Label Studio that only serves files: tokens, redirects, buckets, and many ways to misbehave."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

WIDTH, HEIGHT = 64, 48
LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "eyJhbGciOi.eyJ0b2tlbl90.c2lnbmF0dXJl"


def png(width: int = WIDTH, height: int = HEIGHT, **save: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(file, "PNG", **save)
    return file.getvalue()


class FakeLabelStudio:
    """A server of files on a real socket that knows Label Studio's tokens and many ways to misbehave."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.generation = 0
        self.files: dict[str, bytes] = {"a.png": png()}
        self.kinds: dict[str, str] = {}
        self._stop = threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def tokens(self, prefix: str) -> list[str | None]:
        """The Authorization headers of the requests below a path."""
        return [headers.get("Authorization") for path, headers in self.requests if path.startswith(prefix)]

    def _access(self) -> str:
        return f"access.{self.generation}.token"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                fake._answer(self, urlsplit(self.path))

            def do_POST(self) -> None:
                fake.requests.append((self.path, dict(self.headers)))
                sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake._post(self, sent)

        return Handler

    def _post(self, to: BaseHTTPRequestHandler, sent: Any) -> None:
        if sent == {"refresh": PERSONAL}:
            self.generation += 1
            self._reply(to, 200, json.dumps({"access": self._access()}).encode(), "application/json")
        else:
            self._reply(to, 401, b'{"detail":"Token is invalid"}', "application/json")

    def _answer(self, to: BaseHTTPRequestHandler, url: Any) -> None:
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        _, first, *rest = url.path.split("/")
        if first in ("data", "tasks") and to.headers.get("Authorization") not in (
            f"Token {LEGACY}",
            f"Bearer {self._access()}",
        ):
            self._reply(to, 401, b'{"detail":"Authentication credentials were not provided."}', "application/json")
        elif first == "data" and rest[0] in ("upload", "local-files"):
            name = rest[-1] or query["d"]
            found = self.files.get(name)
            self._reply(to, 200 if found else 404, found or b"", "image/png")
        elif first == "tasks":
            self._redirect(to, query.get("to", "/open/a.png?X-Amz-Signature=bucketsecret"))
        elif first == "open":
            self._reply(to, 200, self.files["a.png"], "image/png")
        elif first == "versioned":
            self._versioned(to, self.files[rest[0]])
        elif first == "file":
            self._reply(to, 200, self.files[rest[0]], self.kinds.get(rest[0], "image/png"))
        elif first == "hops":
            count = int(rest[0])
            self._redirect(to, f"/hops/{count - 1}" if count else "/open/a.png")
        elif first == "away":
            self._redirect(to, query["to"], int(rest[0]) if rest else 302)
        elif first == "status":
            self._reply(to, int(rest[0]), b"", "text/plain")
        elif first == "login":
            self._reply(to, 200, b"<html>Log in</html>", "text/html; charset=utf-8")
        elif first == "announced":
            to.send_response(200)
            to.send_header("Content-Length", str(10**12))
            to.end_headers()
        elif first == "endless":
            self._drip(to, b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 65536, 0.0)
        elif first == "slow":
            self._drip(to, b"HTTP/1.0 200 OK\r\n\r\n", b"x", 0.05)
        elif first == "slow-headers":
            self._drip(to, b"HTTP/1.0 200 OK\r\nX-Long: ", b"x", 0.05)
        elif first == "hints":
            self._drip(to, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n", 0.05)
        elif first == "gzip":
            to.send_response(200)
            to.send_header("Content-Encoding", "gzip")
            to.end_headers()
        elif first == "broken":
            to.wfile.write(b"no HTTP\r\n\r\n")
        else:
            self._reply(to, 404, b"", "text/plain")

    @staticmethod
    def _versioned(to: BaseHTTPRequestHandler, file: bytes) -> None:
        """As a bucket serves files: 304 to whoever names the version there is."""
        etag = f'"{hash(file)}"'
        unchanged = to.headers.get("If-None-Match") == etag
        to.send_response(304 if unchanged else 200)
        to.send_header("ETag", etag)
        to.send_header("Content-Length", "0" if unchanged else str(len(file)))
        to.end_headers()
        to.wfile.write(b"" if unchanged else file)

    def _drip(self, to: BaseHTTPRequestHandler, start: bytes, part: bytes, pause: float) -> None:
        to.wfile.write(start)
        while not self._stop.wait(pause):
            to.wfile.write(part)

    @staticmethod
    def _redirect(to: BaseHTTPRequestHandler, where: str, status: int = 302) -> None:
        to.send_response(status)
        to.send_header("Location", where)
        to.send_header("Content-Length", "0")
        to.end_headers()

    @staticmethod
    def _reply(to: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        to.send_response(status)
        to.send_header("Content-Type", kind)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""
