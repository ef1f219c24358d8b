import ipaddress
import socket

import pytest

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable
from m2n2_backend.labelstudio.images.addresses import AddressPolicy, is_public


def test_one_private_address_refuses_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with pytest.raises(ImageNotAllowed):
        AddressPolicy([]).resolve("mixed.test", 80)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0", "169.254.169.254", "::1", "::ffff:10.0.0.1"],
)
def test_ways_to_write_a_private_address_are_refused(host: str) -> None:
    with pytest.raises((ImageNotAllowed, ImageUnavailable)):
        AddressPolicy([]).resolve(host, 80)


@pytest.mark.parametrize(
    "address",
    [
        "127.8.8.8",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:c0a8:101::",
        "2001:db8::1",
        "192.0.0.192",
        "192.88.99.1",
        "fec0::2",
        "3fff::1",
    ],
)
def test_an_address_that_is_not_of_the_open_internet_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "port", "allowed"),
    [
        ("Files.test", "files.TEST", 80, True),
        ("files.test:81", "files.test", 81, True),
        ("files.test:81", "files.test", 80, False),
        ("files.test", "other.files.test", 80, False),
        ("[::1]:81", "::1", 81, True),
        ("::1", "::1", 80, True),
    ],
)
def test_a_host_is_allowed_by_its_exact_name_and_port(
    monkeypatch: pytest.MonkeyPatch, entry: str, host: str, port: int, allowed: bool
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("10.0.0.1", 80))])
    policy = AddressPolicy([entry])
    if allowed:
        assert policy.resolve(host, port) == ["10.0.0.1"]
    else:
        with pytest.raises(ImageNotAllowed):
            policy.resolve(host, port)
