"""The part of the Hugging Face hub that a download needs, served on this machine."""

from __future__ import annotations

import io
import json
import ssl
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from http_servers import serving_with

COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMMON = [
    "model_index.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
]
PLAIN = [
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]
HALF = [name.replace(".safetensors", ".fp16.safetensors") for name in PLAIN]
PICKLED = ["text_encoder/pytorch_model.bin"] + [name.replace("safetensors", "bin") for name in PLAIN[1:]]
NOT_NEEDED = [
    ".gitattributes",
    "768-v-ema.safetensors",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
]


def content_of(name: str) -> bytes:
    """The smallest whole file of its kind that holds its own name."""
    if name.endswith(".safetensors"):
        header = json.dumps({"__metadata__": {"name": name}}).encode()
        return len(header).to_bytes(8, "little") + header
    if name.endswith(".json"):
        return json.dumps({"name": name}).encode()
    if name.endswith(".bin"):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as parts:
            parts.writestr(zipfile.ZipInfo("archive/data.pkl"), name)
        return archive.getvalue()
    return f"content of {name}".encode()


class Hub(BaseHTTPRequestHandler):
    """The hub's answers. Repositories are named after their behavior."""

    repository = COMMON + PLAIN + HALF + PICKLED + NOT_NEEDED
    requested: list[str]
    # What a proxy sends in place of every file; empty without a proxy.
    proxied: bytes = b""
    # Set when the silent and the trickling repository may end.
    closing: threading.Event

    def do_GET(self) -> None:
        name = "/".join(self.path.removeprefix("/api/models").split("/")[1:3]).split("?")[0]
        tail = self.path.split(name, 1)[1].split("?")[0]
        if name == "some/silent":
            self.closing.wait()
        elif name == "some/trickling":
            self.trickle()
        elif name == "some/gated":
            self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        elif name == "some/failing":
            self.answer(500, b"out of order")
        elif name not in ("some/whole", "some/empty"):
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in tail:
            self.file(tail.split("/", 3)[3])
        else:
            names = self.repository if name == "some/whole" else ["README.md"]
            self.answer(200, json.dumps(self.described(names, tail)).encode())

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def described(self, names: list[str], tail: str) -> object:
        if "/tree/" in tail:
            return [
                {"type": "file", "path": n, "size": len(content_of(n)), "oid": f"{i:040x}"}
                for i, n in enumerate(names)
            ]
        return {"id": "some/whole", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

    def file(self, name: str) -> None:
        if self.command == "GET":
            self.requested.append(name)
        etag = f'"{self.repository.index(name):040x}"'
        self.answer(200, self.proxied or content_of(name), {"ETag": etag, "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def trickle(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self.closing.wait(0.2):
                self.wfile.write(b"x")
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_hub(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve the hub until the body ends, without the state of earlier tests; yields its address."""
    Hub.requested, Hub.closing, Hub.proxied = [], threading.Event(), b""
    with serving_with(Hub, tls) as address:
        yield address
        Hub.closing.set()
