"""One HTTP exchange with a checked address, a limit of bytes and a limit of time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

import httpcore
import httpx

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable
from m2n2_backend.labelstudio.images.addresses import AddressPolicy
from m2n2_backend.labelstudio.images.encodings import unfolded
from m2n2_backend.tls import advice

Clock = Callable[[], float]
"""``time.monotonic``, or a test's own."""

_SocketOptions = Iterable[tuple[Any, ...]] | None


@dataclass(frozen=True)
class Reply:
    """A response that was read to its end.

    Attributes:
        status: HTTP status code.
        headers: Names in lower case.
        body: At most the limit that was asked for; empty unless the status is one of those to be read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def exchange(
    method: str,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    content: bytes | None = None,
    policy: AddressPolicy,
    tls: ssl.SSLContext,
    limit: int,
    deadline: float,
    clock: Clock = time.monotonic,
    read: Container[int] = (HTTPStatus.OK,),
) -> Reply:
    """Send one request and read the answer; redirects are not followed and no proxy is used.

    Args:
        method: ``GET`` or ``POST``.
        url: http or https.
        headers: Beside ``Host``, ``Connection`` and ``Accept-Encoding``.
        content: The request's body.
        policy: Decides about the host's addresses; the connection is made to what it answered.
        tls: For https.
        limit: Most bytes of the answer's body, also unfolded where the server compresses it.
        deadline: ``clock()`` at which everything must have arrived, however steadily bytes drip in.
            Only the system's resolver is outside of it.
        clock: Of the deadline.
        read: Statuses whose body is read.

    Raises:
        ImageNotAllowed: The policy refuses the host.
        ImageTooLarge: The body has more than ``limit`` bytes; nothing is read where it is announced.
        InvalidImage: The body is compressed in a way that is not read, or damaged.
        ImageUnavailable: No connection, a broken answer, or the deadline passed.
    """
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    left = partial(_left, deadline, clock)
    fixed = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "Connection": "close"}
    # As bytes: a validator goes back as it came, whatever characters a server put into it.
    sent = [(name.encode("ascii"), value.encode("latin-1")) for name, value in {**fixed, **headers}.items()]
    try:
        with (
            httpcore.ConnectionPool(ssl_context=tls, network_backend=_CheckedBackend(policy, left)) as pool,
            pool.stream(method, target, headers=sent, content=content) as response,
        ):
            received = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            body = _body(response, received, limit) if response.status in read else b""
            return Reply(response.status, received, body)
    except httpcore.TimeoutException as error:
        raise ImageUnavailable(f"image download timed out: {shown(url)}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
        cause = advice(error) or str(error) or type(error).__name__
        raise ImageUnavailable(f"image download failed: {cause} ({shown(url)})") from error


def shown(url: httpx.URL) -> str:
    """The address for messages and logs: without credentials and query, which may hold signatures."""
    path = url.path if len(url.path) <= 80 else f"{url.path[:77]}..."
    return f"{url.scheme}://{url.netloc.decode('ascii')}{path}"


def _body(response: httpcore.Response, headers: Mapping[str, str], limit: int) -> bytes:
    announced = headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
        raise ImageTooLarge(f"image file is larger than the limit of {limit} bytes (M2N2_MAX_IMAGE_BYTES)")
    return b"".join(unfolded(response.iter_stream(), headers.get("content-encoding", ""), limit))


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to the addresses a policy allows, and to nothing a name might point to a moment later."""

    def __init__(self, policy: AddressPolicy, left: Clock) -> None:
        self._policy = policy
        self._left = left
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: _SocketOptions = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"no address for {host}")
        for address in self._policy.resolve(host, port):
            try:
                stream = self._sockets.connect_tcp(address, port, self._left(), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._left)
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: _SocketOptions = None
    ) -> httpcore.NetworkStream:
        raise ImageNotAllowed("images are not read from unix sockets")


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no operation outlasts one deadline for all of them."""

    def __init__(self, stream: httpcore.NetworkStream, left: Clock) -> None:
        self._stream = stream
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._left())
        return _TimedStream(secured, self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, clock: Clock) -> float:
    """Seconds until the deadline."""
    left = deadline - clock()
    if left <= 0:
        raise httpcore.ReadTimeout("deadline passed")
    return left
