"""Archives of the benchmarks' structure, and a server that they are downloaded from."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.io import savemat

from m2n2_backend.commands.prepare_data import SOURCES, Source

SIZE = (6, 8)
Files = Mapping[str, bytes]


class ArchiveServer:
    """Files by name; a connection that serves less than all of a file when ``cut`` says so."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        self.honors_ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                content = outer.files.get(self.path.rpartition("/")[2])
                if content is None:
                    self.send_error(404)
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.honors_ranges else 0
                if start and start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : outer.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def source(self, dataset: str, content: bytes, **changes: object) -> dict[str, Source]:
        """The table's source of a data set, at this server."""
        own = SOURCES[dataset]
        name = own.address.rpartition("/")[2]
        self.files[name] = content
        known = {"address": f"{self.address}/{name}", "md5": own.md5 and hashlib.md5(content).hexdigest()}
        return {dataset: replace(own, **{**known, **changes})}  # type: ignore[arg-type]


def image(pixels: NDArray[np.uint8], kind: str, palette: list[int] | None = None) -> bytes:
    made, out = Image.fromarray(pixels), io.BytesIO()
    if palette is not None:
        made.putpalette(palette)
    made.save(out, kind)
    return out.getvalue()


def photograph() -> bytes:
    return image(np.full((*SIZE, 3), 90, np.uint8), "JPEG")


def label(*values: int) -> NDArray[np.uint8]:
    """One row of each value, the rest 0."""
    mask = np.zeros(SIZE, np.uint8)
    for row, value in enumerate(values):
        mask[row] = value
    return mask


def mat(name: str, mask: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    savemat(out, {name: {"Segmentation": mask, "Categories": np.array([[15], [1]])}})
    return out.getvalue()


def zipped(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for path, content in files.items():
            opened.writestr(path, content)
    return out.getvalue()


def tarred(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as opened:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return out.getvalue()


def grabcut(count: int = 3) -> dict[str, bytes]:
    files = {f"GrabCut/data_GT/{index}.jpg": photograph() for index in range(count)}
    files |= {f"GrabCut/boundary_GT/{index}.bmp": image(label(255, 128), "BMP") for index in range(count)}
    return files


def quiet() -> Console:
    return Console(file=io.StringIO())
