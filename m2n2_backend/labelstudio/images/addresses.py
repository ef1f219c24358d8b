"""Which network addresses an image may be read from.

The server opens addresses that strangers write into tasks. Without a policy it would fetch for them what only
it can reach: other services of its host and network, and the credentials a cloud machine serves to itself.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# All of them look public to some release of ``ipaddress``.
_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's metadata
        "192.0.0.0/24",  # protocol assignments, among them the metadata of Oracle's older cloud
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b:1::/48",  # translation to addresses of the own network
        "fec0::/10",  # site-local: no longer assigned, still used by virtual machines for their host
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressPolicy:
    """Public addresses for everyone, others only for hosts that the settings name."""

    def __init__(self, exempt: Iterable[str]) -> None:
        """Set up the policy; hosts of ``exempt``, as ``host`` or ``host:port``, may have any address."""
        self._exempt = frozenset(entry.lower() for entry in exempt)

    def resolve(self, host: str, port: int) -> list[str]:
        """Addresses to connect to; the connection must use one of these and not ask for the name again.

        Raises:
            ImageNotAllowed: One of them is not public, and the host is not exempt.
            ImageUnavailable: The name has none.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ImageUnavailable(f"image download failed: host {host} is unknown") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if self._is_exempt(host, port):
            return addresses
        for address in addresses:
            # One refused address refuses the name: a rebinding host would offer a public one beside it.
            if not is_public(ipaddress.ip_address(address)):
                raise ImageNotAllowed(
                    f"image host {host} has a private or reserved address; if that is meant, "
                    "add the host to M2N2_ALLOWED_HOSTS"
                )
        return addresses

    def _is_exempt(self, host: str, port: int) -> bool:
        name = host.lower()
        bracketed = f"[{name}]" if ":" in name else name
        return bool(self._exempt & {name, bracketed, f"{bracketed}:{port}"})


def is_public(address: _Address) -> bool:
    """True for an address of the open internet, seen through the ways IPv6 wraps IPv4."""
    inner = _wrapped(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _wrapped(address: _Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
