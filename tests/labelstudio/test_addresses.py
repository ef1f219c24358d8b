"""The one table of image addresses that are none of this server's business, and of hosts that are allowed by name.

Every row of it is a real /predict over a socket, to the app with real settings. A canary listens on the loopback
addresses, and an audit hook of the interpreter sees every connection this process tries to make.
"""

from __future__ import annotations

import ipaddress
import socket

import pytest
from fake_label_studio import FakeLabelStudio, png
from fetch_trap import Prey
from label_studio_fakes import settings

from m2n2_backend.errors import ImageNotAllowed
from m2n2_backend.labelstudio.images.addresses import is_public
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader

PRIVATE = "403 image host"
UNKNOWN = "424 image download failed: host"
NO_ADDRESS = "422 the image's address cannot be parsed"
SCHEME = "403 an image address that begins with"
AWAY = "403 the image's address leads to something other than http"

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
    "http://127.8.8.8/a.png": (PRIVATE,),
    "http://172.31.0.1/a.png": (PRIVATE,),
    "http://239.1.1.1/a.png": (PRIVATE,),
    "http://192.0.2.1/a.png": (PRIVATE,),
    "http://192.88.99.1/a.png": (PRIVATE,),
    "http://[64:ff9b::7f00:1]/a.png": (PRIVATE,),
    "http://[2002:7f00:1::]/a.png": (PRIVATE,),
    "http://[2002:c0a8:101::]/a.png": (PRIVATE,),
    "http://[2001:db8::1]/a.png": (PRIVATE,),
    "http://[3fff::1]/a.png": (PRIVATE,),
    "http://[::ffff:10.0.0.1]/a.png": (PRIVATE,),
    # other schemes, and addresses that are none
    "file:///etc/passwd": (f"{SCHEME} 'file' is not supported",),
    "file://localhost/etc/passwd": (SCHEME,),
    "ftp://127.0.0.1:{port}/a.png": (SCHEME,),
    "gopher://127.0.0.1:{port}/_GET": (SCHEME,),
    "javascript:alert(1)": (SCHEME,),
    "jar:http://127.0.0.1:{port}!/a.png": (SCHEME,),
    "unix:/run/docker.sock": (SCHEME,),
    "//127.0.0.1:{port}/a.png": (SCHEME,),
    "/\\127.0.0.1:{port}/a.png": ("424 image download failed: 404", NO_ADDRESS),
    "http:////127.0.0.1:{port}/a.png": (AWAY, NO_ADDRESS),
    "http://user:secret@127.0.0.1:{port}/a.png": ("403 the image's address contains a user name",),
    "http://8.8.8.8@127.0.0.1:{port}/a.png": ("403 the image's address contains a user name",),
    "http://127.0.0.1:{port}#@8.8.8.8/a.png": (PRIVATE,),
    "http://127.0.0.1:{port}/\r\nX-Injected: 1": (NO_ADDRESS,),
    "http://127.0.0.1\r\n:{port}/": (NO_ADDRESS,),
    "http://127.0.0.1:{port}/\x00": (NO_ADDRESS,),
    "http://8.8.8.8:0/a.png": (NO_ADDRESS,),
    "http://8.8.8.8:65536/a.png": (NO_ADDRESS,),
    "http://8.8.8.8:-1/a.png": (NO_ADDRESS,),
    "FILE:/etc/passwd": (SCHEME,),
    "ftp://u:secret@127.0.0.1/a": (SCHEME,),
    "a.png": (f"{SCHEME} 'a.png' is not supported",),
    "images/a.png": (SCHEME,),
    "": ("400 ",),
    "C:\\a.png": (SCHEME,),
    "http:///a.png": (AWAY,),
    "http://": (AWAY,),
    "https:a.png": (AWAY,),
    "http://127.0.0.1:99999/a.png": (NO_ADDRESS,),
    "http://[::1/a.png": (NO_ADDRESS,),
    "http://\ud800/": (NO_ADDRESS,),
    "s3://\ud800": (NO_ADDRESS,),
    "http://\u2028/": (NO_ADDRESS,),
    "http://a..b/": (UNKNOWN, NO_ADDRESS),
    "http://xn--/": (UNKNOWN, NO_ADDRESS),
    "http://127.0.0.1:/": (PRIVATE,),
    "http://8.8.8.8:65616/a.png": (NO_ADDRESS,),
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_that_is_not_of_the_open_internet_is_never_connected_to(prey: Prey, url: str) -> None:
    answer = prey.asked_for(url.replace("{port}", str(prey.canary.port)))
    assert answer.startswith(ADDRESSES[url])
    assert "secret" not in answer
    if answer.startswith(PRIVATE):
        assert "has a private or reserved address" in answer
        assert "M2N2_ALLOWED_HOSTS" in answer


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "allowed"),
    [
        ("Files.test", "files.TEST", True),
        ("files.test:{port}", "files.test", True),
        ("files.test:1", "files.test", False),
        ("files.test", "other.files.test", False),
        ("127.0.0.1:{port}", "127.0.0.1", True),
        ("127.0.0.1:1", "127.0.0.1", False),
    ],
)
def test_a_host_is_allowed_by_its_exact_name_and_port(
    studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, entry: str, host: str, allowed: bool
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *more, **options: real("127.0.0.1", *more, **options))
    media = MediaReader(settings(allowed_hosts=entry.replace("{port}", str(studio.port))))
    image = ImageRef(f"http://{host}:{studio.port}/open/a.png")
    if allowed:
        assert media.fetch(image).data == png()
    else:
        with pytest.raises(ImageNotAllowed, match="M2N2_ALLOWED_HOSTS"):
            media.fetch(image)
        assert studio.requests == []
