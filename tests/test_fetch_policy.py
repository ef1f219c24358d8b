"""The one table of what a task's image address may not make this server do.

Every row is a real /predict over a socket, to the app with real settings. A canary listens on the loopback
addresses, and an audit hook of the interpreter sees every connection this process tries to make.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio
from fetch_trap import Canary, Prey, watched
from hostile_files import JPEG_SIZE, UNFOLDING, chunk, jpeg_of_many_scans, png_header, resized, saved, tiff_header
from label_studio_fakes import DiscPool, key_point, payload, send, serving, settings

from m2n2_backend.server.app import create_app

PRIVATE = "403 image host"
UNKNOWN = "424 image download failed: host"
NO_ADDRESS = "422 the image's address cannot be parsed"
SCHEME = "403 an image address that begins with"
AWAY = "403 the image's address leads away from http"

# {port} is the canary's. A phrase is the whole status line's beginning; where there are two, the system's
# resolver may already refuse what the policy refuses otherwise.
ADDRESSES: dict[str, tuple[str, ...]] = {
    # loopback, in every notation that a resolver understands
    "http://127.0.0.1:{port}/a.png": (PRIVATE,),
    "http://127.1:{port}/a.png": (PRIVATE,),
    "http://127.0.0.1.:{port}/a.png": (PRIVATE, UNKNOWN),
    "http://127.255.255.254:{port}/a.png": (PRIVATE,),
    "http://2130706433:{port}/a.png": (PRIVATE,),
    "http://0x7f000001:{port}/a.png": (PRIVATE,),
    "http://0x7f.0.0.0x1:{port}/a.png": (PRIVATE,),
    "http://0177.0.0.1:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://017700000001:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://0:{port}/a.png": (PRIVATE,),
    "http://0.0.0.0:{port}/a.png": (PRIVATE,),
    "http://localhost:{port}/a.png": (PRIVATE,),
    "http://LOCALHOST:{port}/a.png": (PRIVATE,),
    "http://localhost.:{port}/a.png": (PRIVATE, UNKNOWN),
    "http://１２７.０.０.１:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://①②⑦.⓪.⓪.①:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://127。0。0。1:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://ｌｏｃａｌｈｏｓｔ:{port}/a.png": (PRIVATE, NO_ADDRESS),
    "http://[::1]:{port}/a.png": (PRIVATE,),
    "http://[0:0:0:0:0:0:0:1]:{port}/a.png": (PRIVATE,),
    "http://[::]:{port}/a.png": (PRIVATE,),
    "http://[::ffff:127.0.0.1]:{port}/a.png": (PRIVATE,),
    "http://[::ffff:7f00:1]:{port}/a.png": (PRIVATE,),
    "http://[::127.0.0.1]:{port}/a.png": (PRIVATE,),
    "http://[::1%25lo]:{port}/a.png": (PRIVATE, UNKNOWN, NO_ADDRESS),
    # metadata of cloud machines
    "http://169.254.169.254/latest/meta-data/": (PRIVATE,),
    "http://2852039166/latest/meta-data/": (PRIVATE,),
    "http://0xa9fea9fe/": (PRIVATE,),
    "http://0251.0376.0251.0376/": (PRIVATE, NO_ADDRESS),
    "http://[::ffff:169.254.169.254]/": (PRIVATE,),
    "http://[64:ff9b::169.254.169.254]/": (PRIVATE,),
    "http://[2002:a9fe:a9fe::]/": (PRIVATE,),
    "http://[fd00:ec2::254]/": (PRIVATE,),
    "http://[fd20:ce::254]/": (PRIVATE,),
    "http://168.63.129.16/": (PRIVATE,),
    "http://192.0.0.192/": (PRIVATE,),
    "http://100.100.100.200/": (PRIVATE,),
    # networks of others
    "http://10.0.0.1/a.png": (PRIVATE,),
    "http://172.16.0.1/a.png": (PRIVATE,),
    "http://192.168.1.1/a.png": (PRIVATE,),
    "http://100.64.0.1/a.png": (PRIVATE,),
    "http://198.18.0.1/a.png": (PRIVATE,),
    "http://224.0.0.1/a.png": (PRIVATE,),
    "http://240.0.0.1/a.png": (PRIVATE,),
    "http://255.255.255.255/a.png": (PRIVATE,),
    "http://[fd12:3456::1]/a.png": (PRIVATE,),
    "http://[fe80::1]/a.png": (PRIVATE,),
    "http://[fec0::2]/a.png": (PRIVATE,),
    "http://[ff02::1]/a.png": (PRIVATE,),
    "http://[64:ff9b:1::a00:1]/a.png": (PRIVATE,),
    # other schemes, and addresses that are none
    "file:///etc/passwd": (SCHEME,),
    "file://localhost/etc/passwd": (SCHEME,),
    "ftp://127.0.0.1:{port}/a.png": (SCHEME,),
    "gopher://127.0.0.1:{port}/_GET": (SCHEME,),
    "javascript:alert(1)": (SCHEME,),
    "jar:http://127.0.0.1:{port}!/a.png": (SCHEME,),
    "unix:/run/docker.sock": (SCHEME,),
    "//127.0.0.1:{port}/a.png": (SCHEME,),
    "/\\127.0.0.1:{port}/a.png": ("424 image download failed: 404", NO_ADDRESS),
    "http:////127.0.0.1:{port}/a.png": (AWAY, NO_ADDRESS),
    "http://user:secret@127.0.0.1:{port}/a.png": ("403 the image's address holds a user name",),
    "http://8.8.8.8@127.0.0.1:{port}/a.png": ("403 the image's address holds a user name",),
    "http://127.0.0.1:{port}#@8.8.8.8/a.png": (PRIVATE,),
    "http://127.0.0.1:{port}/\r\nX-Injected: 1": (NO_ADDRESS,),
    "http://127.0.0.1\r\n:{port}/": (NO_ADDRESS,),
    "http://127.0.0.1:{port}/\x00": (NO_ADDRESS,),
    "http://8.8.8.8:0/a.png": (NO_ADDRESS,),
    "http://8.8.8.8:65536/a.png": (NO_ADDRESS,),
    "http://8.8.8.8:-1/a.png": (NO_ADDRESS,),
    "http://8.8.8.8:65616/a.png": (NO_ADDRESS,),
}


@pytest.fixture(scope="module")
def prey() -> Iterator[Prey]:
    studio, canary, pool = FakeLabelStudio(), Canary(), DiscPool()
    ours = settings(
        label_studio_url=studio.url, label_studio_api_key=LEGACY, download_timeout=0.5, max_image_bytes=1_000_000
    )
    with serving(create_app(ours, pool)) as port:
        yield Prey(port, studio, canary, pool)
        # The server survives all of them, and reads what it may.
        assert send(port, "POST", "/predict", payload(key_point(), image="/open/a.png"))[0] == 200
    canary.close()
    studio.close()


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_that_is_not_of_the_open_internet_is_never_connected_to(prey: Prey, url: str) -> None:
    answer = prey.asked_for(url.replace("{port}", str(prey.canary.port)))
    assert answer.startswith(ADDRESSES[url])
    assert "secret" not in answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("where", "refusal"),
    [
        ("http://127.0.0.1:{port}/a.png", PRIVATE),
        ("//127.0.0.1:{port}/a.png", PRIVATE),
        ("http://169.254.169.254/latest/meta-data/", PRIVATE),
        ("http://u:secret@127.0.0.1:{port}/", "403 the image's address holds a user name"),
        ("file:///etc/passwd", AWAY),
        ("gopher://127.0.0.1:{port}/x", AWAY),
        ("http://8.8.8.8:65616/a.png", "424 image download failed: redirect to no address"),
    ],
)
def test_a_trusted_host_cannot_redirect_to_where_nobody_may_go(
    prey: Prey, status: int, where: str, refusal: str
) -> None:
    answer = prey.asked_for(f"/away/{status}?to={where.replace('{port}', str(prey.canary.port))}")
    assert answer.startswith(refusal)


def test_a_chain_of_redirects_is_checked_at_its_end_and_has_one(prey: Prey) -> None:
    canary = f"http://127.0.0.1:{prey.canary.port}/a.png"
    assert prey.asked_for(f"/away/307?to=/away/302?to={canary}").startswith(PRIVATE)
    assert prey.asked_for("/hops/50").startswith("424 image download failed: more than 5 redirects")


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["93.184.216.34", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["2606:4700::1111", "fd00:ec2::254"],
    ],
)
@pytest.mark.parametrize("host", ["innocent.test", "metadata.google.internal"])
def test_a_name_is_judged_by_all_of_its_addresses(
    prey: Prey, monkeypatch: pytest.MonkeyPatch, host: str, found: list[str]
) -> None:
    names(monkeypatch, host, [found])
    assert prey.asked_for(f"http://{host}:{prey.canary.port}/a.png").startswith(PRIVATE)


def test_a_name_that_changes_its_address_is_connected_to_at_the_one_that_was_checked(
    prey: Prey, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(monkeypatch, "rebind.test", [["192.0.2.1"], ["127.0.0.1"]])
    monkeypatch.setattr(
        "m2n2_backend.labelstudio.images.addresses.is_public", lambda address: str(address) == "192.0.2.1"
    )
    expected = {("127.0.0.1", prey.port), ("192.0.2.1", prey.canary.port)}
    url = f"http://rebind.test:{prey.canary.port}/a.png"
    with watched() as tried:
        status, phrase, _ = send(prey.port, "POST", "/predict", payload(key_point(), image=url))
    assert (status, phrase[:21]) in ((424, "image download timed "), (424, "image download failed"))
    assert set(tried) == expected
    assert asked == ["rebind.test"]
    assert prey.canary.visits == 0


def names(monkeypatch: pytest.MonkeyPatch, host: str, answers: list[list[str]]) -> list[str]:
    """Lets a name resolve to one list of addresses after the other; returns the questions."""
    real, asked = socket.getaddrinfo, []

    def resolver(name: Any, port: Any, *more: Any, **options: Any) -> Any:
        if name != host:
            return real(name, port, *more, **options)
        asked.append(name)
        kind = {True: socket.AF_INET6, False: socket.AF_INET}
        found = answers[min(len(asked), len(answers)) - 1]
        return [(kind[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return asked


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/endless", "413 image file is larger than the limit of 1000000 bytes"),
        ("/announced", "413 image file is larger than the limit of 1000000 bytes"),
        ("/slow", "424 image download timed out"),
        ("/slow-headers", "424 image download timed out"),
        ("/hints", "424 image download timed out"),
        ("/gzip", "424 image download failed: the server compresses although asked not to"),
        ("/broken", "424 image download failed"),
        ("/login/", "424 Label Studio answered with a web page"),
        ("/status/500", "424 image download failed: 500"),
    ],
)
def test_a_server_that_answers_badly_is_left_in_time(prey: Prey, path: str, refusal: str) -> None:
    assert prey.asked_for(path).startswith(refusal)


LARGE = "413 image has too many pixels, at most 100000000 allowed (M2N2_MAX_IMAGE_PIXELS)"
BODIES: dict[str, tuple[bytes, str]] = {
    "PNG of 200 megapixels": (png_header(), LARGE),
    "BMP of 200 megapixels": (resized(saved("BMP"), 18, "<ii"), LARGE),
    "TIFF of 200 megapixels": (tiff_header(), LARGE),
    "JPEG of 200 megapixels": (
        resized(saved("JPEG"), JPEG_SIZE, ">HH", 10_000, 20_000),
        LARGE,
    ),
    "PNG of 100 megapixels and one row": (
        png_header(width=10_000, height=10_001),
        "413 image has 10000x10001 pixels, at most 100000000 allowed",
    ),
    "GIF of 4 gigapixels": (resized(saved("GIF"), 6, "<HH", 65_535, 65_535), LARGE),
    "WebP of 268 megapixels": (resized(saved("WEBP", lossless=True), 21, "<HH", 0xFFFF, 0xFFFF), LARGE),
    "PNG whose comment unfolds to 200 MB": (
        png_header(chunk(b"zTXt", b"Comment\0\0" + UNFOLDING), width=64, height=48),
        "422 image cannot be decoded",
    ),
    "PNG whose profile unfolds to 200 MB": (
        png_header(chunk(b"iCCP", b"x\0\0" + UNFOLDING), width=64, height=48),
        "422 image cannot be decoded",
    ),
    "JPEG of 20,000 scans": (jpeg_of_many_scans(), "413 JPEG with more than 100 scans"),
    "BMP of run lengths": (saved("BMP")[:30] + b"\1\0\0\0" + saved("BMP")[34:], "422 run-length encoded BMP"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>', "422 not an image"),
    "SVG that reads a file": (
        b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>',
        "422 not an image",
    ),
    "web page that says it is a PNG": (b"<html><script>alert(1)</script></html>", "422 not an image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(x) run\n", "422 not an image"),
    "nothing": (b"", "422 not an image"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_file_that_is_no_photograph_is_refused_by_its_first_bytes(prey: Prey, name: str) -> None:
    data, refusal = BODIES[name]
    prey.studio.files["hostile"] = data
    assert prey.asked_for("/file/hostile").startswith(refusal)


@pytest.mark.parametrize("kind", ["image/svg+xml", "application/pdf", "text/plain", "application/json"])
def test_what_a_file_says_it_is_does_not_matter_but_for_web_pages(prey: Prey, kind: str) -> None:
    prey.studio.files["typed"], prey.studio.kinds["typed"] = b"no image", kind
    assert prey.asked_for("/file/typed").startswith("422 not an image")
    prey.studio.kinds["typed"] = "text/html; charset=utf-8"
    assert prey.asked_for("/file/typed").startswith("424 Label Studio answered with a web page")
