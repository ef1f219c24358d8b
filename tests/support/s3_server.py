"""An S3 server, moto's, in a process of its own, with one empty bucket."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from processes import free_port, wait_until_ready

BUCKET = "features"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server until the body ends; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(process, lambda: _make_bucket(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _make_bucket(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("PUT", f"/{BUCKET}")
        return connection.getresponse().status == 200
    finally:
        connection.close()
