"""Servers that answer badly, or never to the end, are left; over a socket, by a clock of the test's own."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpcore
import httpx
import pytest
from fake_label_studio import FakeLabelStudio, png
from fetch_trap import Prey
from label_studio_fakes import settings
from waiting import soon

from m2n2_backend.errors import ImageTooLarge, ImageUnavailable, InvalidImage
from m2n2_backend.labelstudio.images.addresses import AddressPolicy
from m2n2_backend.labelstudio.images.download import _Pace, exchange
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

ZIPPED = gzip.compress(png(), mtime=0)
"""The same bytes at each collection, as the workers of pytest-xdist name their tests by them."""


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/endless", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/announced", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/broken", "424 image download failed"),
        (
            "/login/",
            "424 Label Studio answered with a web page, such as its login, instead of the image: "
            "check LABEL_STUDIO_API_KEY",
        ),
        ("/status/500", "424 image download failed: 500 Internal Server Error"),
        ("/status/502", "424 image download failed: 502 Bad Gateway"),
        ("/status/206", "424 image download failed: 206"),
        (
            "/data/status/403",
            "424 Label Studio refused the image (403): the user of LABEL_STUDIO_API_KEY may not read",
        ),
        ("/data/upload/1/none.png?X-Amz-Signature=secret", "424 image download failed: 404 Not Found from http://"),
    ],
)
def test_an_answer_that_is_no_image_is_explained_without_its_query(prey: Prey, path: str, refusal: str) -> None:
    answer = prey.asked_for(path)
    assert answer.startswith(refusal)
    assert "secret" not in answer


@pytest.mark.parametrize("path", ["/slow", "/slow-headers", "/hints"])
@pytest.mark.parametrize(("download_timeout", "deadline"), [(10.0, 1e7), (1e7, 10.0)])
def test_bytes_that_drip_in_do_not_extend_the_first_of_both_time_limits(
    studio: FakeLabelStudio, path: str, download_timeout: float, deadline: float
) -> None:
    limits = settings(label_studio_url=studio.url, download_timeout=download_timeout)
    media = MediaReader(limits, clock=studio.clock)
    begun = studio.clock()
    with pytest.raises(ImageUnavailable, match="timed out"):
        media.fetch(ImageRef(path), deadline=begun + deadline)
    assert 10 <= studio.clock() - begun < 1e7


def test_a_server_that_never_answers_is_left_at_the_deadline(studio: FakeLabelStudio) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        media = MediaReader(settings(label_studio_url=f"http://127.0.0.1:{silent.getsockname()[1]}"))
        with pytest.raises(ImageUnavailable, match="timed out"):
            media.fetch(ImageRef("/a.png"), deadline=studio.clock() + 0.05)


def test_no_connection_is_explained() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        media = MediaReader(settings(label_studio_url=f"http://127.0.0.1:{unused.getsockname()[1]}"))
        with pytest.raises(ImageUnavailable, match=r"download failed: .*refused"):
            media.fetch(ImageRef("/a.png"))


def served(studio: FakeLabelStudio, body: bytes, encoding: str, limit: int = 1_000_000) -> bytes:
    """What is read of a body that is sent with a ``Content-Encoding``."""
    studio.files["encoded"], studio.encodings["encoded"] = body, encoding
    media = MediaReader(settings(label_studio_url=studio.url, max_image_bytes=limit))
    data = media.fetch(ImageRef("/file/encoded")).data
    assert data is not None
    return data


@pytest.mark.parametrize(
    "encoding", ["", "utf-8", "UTF-8", "identity", "aws-chunked", "binary", "x-unknown", "gzipped"]
)
def test_an_encoding_that_says_nothing_of_compression_is_passed_over(studio: FakeLabelStudio, encoding: str) -> None:
    assert served(studio, png(), encoding) == png()


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        ("deflate,gzip", lambda data: gzip.compress(zlib.compress(data))),
        ("gzip", lambda data: gzip.compress(data) + b"junk"),
    ],
)
def test_a_compressed_answer_is_unfolded(
    studio: FakeLabelStudio, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    assert served(studio, compress(png()), encoding) == png()


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_a_compressed_answer_is_unfolded_no_further_than_the_limit(studio: FakeLabelStudio, encoding: str) -> None:
    bomb = gzip.compress(bytes(200_000_000))
    if encoding == "gzip, gzip":
        bomb = gzip.compress(bomb)
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="limit of 2000000 bytes"):
        served(studio, bomb, encoding, limit=2_000_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000


def test_steps_between_are_limited_too(studio: FakeLabelStudio) -> None:
    """Empty blocks of deflate, which unfold to nothing, however many there are."""
    blocks = zlib.compressobj(wbits=-15)
    nothing = b"\0\0\0\xff\xff" * 1_000_000 + blocks.compress(b"") + blocks.flush()
    with pytest.raises(ImageTooLarge):
        served(studio, gzip.compress(nothing), "deflate, gzip", limit=1_000_000)


@pytest.mark.parametrize(
    ("body", "encoding", "cause"),
    [
        (png(), "gzip", "says that it is compressed"),
        (ZIPPED[:30] + bytes(50), "gzip", "says that it is compressed"),
        (png(), "br", "switch that off"),
        (png(), "gzip, zstd", "switch that off"),
        (ZIPPED, "utf-8", "a gzip archive: unpack it, or let the server say Content-Encoding: gzip"),
        (b"", "gzip", "the file is empty"),
    ],
)
def test_what_cannot_be_unfolded_is_explained(
    studio: FakeLabelStudio, body: bytes, encoding: str, cause: str
) -> None:
    with pytest.raises(InvalidImage, match=cause):
        served(studio, body, encoding)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_is_not_used_is_told_of_where_no_connection_can_be_made(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}/a.png"
        monkeypatch.setenv(variable, "http://proxy.example:3128")
        for url in (refused, "http://no-such-host.invalid/a.png"):
            media = MediaReader(settings(allowed_hosts="127.0.0.1"))
            with pytest.raises(
                ImageUnavailable, match=rf"without the proxy of {variable.upper()}: let this server reach"
            ):
                media.fetch(ImageRef(url))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(ImageUnavailable) as caught:
            media.fetch(ImageRef(refused))
        assert "proxy" not in str(caught.value)


def test_a_proxy_is_not_blamed_for_an_answer(studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    with pytest.raises(ImageUnavailable, match="404") as caught:
        MediaReader(settings(label_studio_url=studio.url)).fetch(ImageRef("/file/none.png"))
    assert "proxy" not in str(caught.value)


@contextmanager
def answering(*parts: bytes) -> Iterator[MediaReader]:
    """A reader whose Label Studio sends these bytes to everybody who asks, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def send(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=send, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield MediaReader(settings(label_studio_url=f"http://127.0.0.1:{listening.getsockname()[1]}"))
        listening.shutdown(socket.SHUT_RDWR)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 100, 300])
def test_an_image_in_tiny_chunks_is_refused_as_each_of_them_is_work(size: int) -> None:
    body = png() + bytes(5000 * size)
    with answering(in_chunks(body, size)) as media, pytest.raises(ImageUnavailable, match="tiny chunks"):
        media.fetch(ImageRef("/a.png"))


@pytest.mark.parametrize("size", [1000, 4096, 100_000])
def test_an_image_in_chunks_as_servers_send_them_is_read(size: int) -> None:
    body = png() + bytes(3_000_000)
    with answering(in_chunks(body, size)) as media:
        assert media.fetch(ImageRef("/a.png")).data == body


def test_a_small_image_may_come_byte_by_byte() -> None:
    with answering(in_chunks(png(), 1)) as media:
        assert media.fetch(ImageRef("/a.png")).data == png()


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (CHUNKED, b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["extensions of chunks", "early hints", "continue"],
)
def test_a_server_that_sends_anything_but_the_image_is_left(start: bytes, part: bytes) -> None:
    with (
        answering(start, *[part * (2**20 // len(part))] * 20) as media,
        pytest.raises(ImageUnavailable, match="more headers than image"),
    ):
        media.fetch(ImageRef("/a.png"))


@pytest.mark.parametrize(
    ("body", "encoding", "cause"),
    [
        (b"\0\0\0\xff\xff" * 1_000_000, "deflate", "compresses .deflate. the image to more bytes than it has"),
        (ZIPPED, ",".join(["gzip"] * 5), "compresses the image 5 times"),
        (ZIPPED, ",".join(["gzip"] * 5000), "compresses the image 5000 times"),
    ],
)
def test_a_compression_that_is_only_work_is_refused(
    studio: FakeLabelStudio, body: bytes, encoding: str, cause: str
) -> None:
    with pytest.raises(InvalidImage, match=cause):
        served(studio, body, encoding, limit=10_000_000)


class Dripping(httpcore.NetworkStream):
    """One byte at a time, as fast as it is asked for."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.reads += 1
        return b"x"


def test_single_bytes_are_collected_instead_of_being_read_one_by_one() -> None:
    pace, stream = _Pace(lambda: 60.0, threading.Lock()), Dripping()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pace.read(stream, 65536)

    assert stream.reads < 1000 + 60, "else a hundred thousand"


def test_downloads_take_the_processor_one_at_a_time(studio: FakeLabelStudio) -> None:
    studio.files["a.png"] = png() + bytes(2**20)
    turn, at_work, most = threading.Lock(), 0, 0

    def arrived(size: int) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.001)
        at_work -= 1

    def download(_: int) -> int:
        url = httpx.URL(f"{studio.url}/file/a.png")
        policy = AddressPolicy([f"127.0.0.1:{studio.port}"])
        return len(
            exchange(
                "GET", url, headers={}, policy=policy, tls=ssl.create_default_context(), limit=2**22,
                deadline=soon(), turn=turn, arrived=arrived
            ).body
        )  # fmt: skip

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(download, range(8))) == {len(studio.files["a.png"])}
    assert most == 1
    assert not turn.locked()


def test_a_download_is_held_once(studio: FakeLabelStudio) -> None:
    size = 64 * 1024**2
    studio.files["large.png"] = png() + bytes(size - len(png()))
    media = MediaReader(settings(label_studio_url=studio.url))
    tracemalloc.start()
    image = media.fetch(ImageRef("/file/large.png"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert image.data is not None
    assert len(image.data) == size
    assert most <= 1.3 * size
