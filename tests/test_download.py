"""Servers that answer badly, or never to the end, are left; over a socket, by a clock of the test's own."""

from __future__ import annotations

import gzip
import socket
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from fake_label_studio import FakeLabelStudio, png
from fetch_trap import Prey
from label_studio_fakes import settings

from m2n2_backend.errors import ImageTooLarge, ImageUnavailable, InvalidImage
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/endless", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/announced", "413 image file is larger than the limit of 1000000 bytes (M2N2_MAX_IMAGE_BYTES)"),
        ("/broken", "424 image download failed"),
        ("/login/", "424 Label Studio answered with a web page"),
        ("/status/500", "424 image download failed: 500 Internal Server Error"),
        ("/status/206", "424 image download failed: 206"),
        (
            "/data/status/403",
            "424 Label Studio refused the image (403): the user of LABEL_STUDIO_API_KEY",
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
        (gzip.compress(png())[:30] + bytes(50), "gzip", "says that it is compressed"),
        (png(), "br", "switch that off"),
        (png(), "gzip, zstd", "switch that off"),
        (gzip.compress(png()), "utf-8", "a gzip archive: unpack it, or let the server say Content-Encoding: gzip"),
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
