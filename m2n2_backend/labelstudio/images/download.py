"""One HTTP exchange with a checked address, a limit of bytes and a limit of time."""

from __future__ import annotations

import io
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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

Arrived = Callable[[int], object]
"""Called with the size of each piece of a body before the piece is kept; it raises where there is no room for it."""

_TINY = 512  # bytes of a piece; smaller ones make more work than they bring
_MOST_TINY = 1000
_PAUSE_SECONDS = 0.01
_HEADER_BYTES = 65536
_HEADER_READ = 8192  # bytes at a time, as nothing stops the work on them

_SocketOptions = Iterable[tuple[Any, ...]] | None


@dataclass(frozen=True)
class HttpReply:
    """A response that was read to its end.

    Attributes:
        status: HTTP status code.
        headers: Names in lower case.
        body: At most as many bytes as were asked for; empty unless the status is 200.
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
    turn: threading.Lock | None = None,
    arrived: Arrived = lambda size: None,
) -> HttpReply:
    """Send one request and read the answer; redirects are not followed and no proxy is used.

    Args:
        headers: All but ``Host``, ``Connection`` and ``Accept-Encoding``.
        policy: Decides about the host's addresses; the connection is made to one of those that it answers.
        limit: Most bytes of the answer's body, also unfolded where the server compresses it.
        deadline: ``clock()`` at which everything must have arrived, however steadily bytes drip in.
            Only the system's resolver is not bound by it.
        turn: Held while what arrived is worked on, so that of all exchanges that share it one at a time takes the
            processor, however their servers cut their answers into pieces.

    Raises:
        ImageNotAllowed: The policy refuses the host.
        ImageTooLarge: The body has more than ``limit`` bytes; nothing is read where the server announces that.
        InvalidImage: The body is damaged, or compressed in a way that is not supported.
        ImageUnavailable: No connection, a broken answer, one in far too many pieces, or the deadline passed.
    """
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    pace = _Pace(partial(_left, deadline, clock), turn or threading.Lock())
    fixed = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "Connection": "close"}
    # As bytes: a validator goes back as it came, whatever characters a server put into it.
    sent = [(name.encode("ascii"), value.encode("latin-1")) for name, value in {**fixed, **headers}.items()]
    with (
        _explained(url),
        io.BytesIO() as body,  # it is always closed: an error that is kept for a while keeps no image
        pace,
        httpcore.ConnectionPool(ssl_context=tls, network_backend=_CheckedBackend(policy, pace)) as pool,
        pool.stream(method, target, headers=sent, content=content) as response,
    ):
        received = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        if response.status == HTTPStatus.OK:
            for piece in _pieces(response, received, limit, pace):
                arrived(len(piece))
                body.write(piece)
        # It shares its bytes: no image is held twice.
        return HttpReply(response.status, received, body.getvalue())


@contextmanager
def _explained(url: httpx.URL) -> Iterator[None]:
    """Turn the network's errors into one that names the cause and the address."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise ImageUnavailable(f"image download timed out: {shown(url)}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
        cause = advice(error) or str(error) or type(error).__name__
        raise ImageUnavailable(f"image download failed: {cause} ({shown(url)})") from error


def shown(url: httpx.URL) -> str:
    """The address for messages and logs: without credentials and query, which may hold signatures."""
    path = url.path if len(url.path) <= 80 else f"{url.path[:77]}..."
    return f"{url.scheme}://{url.netloc.decode('ascii')}{path}"


def _pieces(response: httpcore.Response, headers: Mapping[str, str], limit: int, pace: _Pace) -> Iterator[bytes]:
    announced = headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
        raise ImageTooLarge(f"image file is larger than the limit of {limit} bytes (M2N2_MAX_IMAGE_BYTES)")
    return unfolded(pace.counted(response.iter_stream()), headers.get("content-encoding", ""), limit)


class _Pace:
    """Bounds what one answer costs: its time, the processor's, and the work that each of its bytes makes."""

    def __init__(self, left: Clock, turn: threading.Lock) -> None:
        """Set up the bounds; ``left`` gives the seconds until the deadline, and raises once that has passed."""
        self.left = left
        self._turn = turn
        self._has_turn = False
        self._reads = self._tiny_reads = self._pieces = 0
        self._raw = self._payload = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._give_turn()

    def read(self, stream: httpcore.NetworkStream, max_bytes: int) -> bytes:
        """Read from the network while others have their turn; what was read is worked on in this one's.

        Raises:
            httpcore.RemoteProtocolError: The server sends headers, and hardly any image.
            httpcore.ReadTimeout: The deadline has passed.
        """
        self._give_turn()
        if self._raw > 2 * self._payload + _HEADER_BYTES:
            raise httpcore.RemoteProtocolError("the server sends more headers than image")
        if self._tiny_reads > _MOST_TINY:
            # Bytes that drip in are collected by the system: a hundred reads a second instead of one for each byte.
            time.sleep(_PAUSE_SECONDS)
        data = stream.read(max_bytes if self._payload else _HEADER_READ, self.left())
        if not self._turn.acquire(timeout=min(self.left(), threading.TIMEOUT_MAX)):
            raise httpcore.ReadTimeout("deadline passed")
        self._has_turn = True
        self._reads += 1
        self._raw += len(data)
        self._tiny_reads += len(data) < _TINY
        return data

    def counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a body.

        Raises:
            httpcore.RemoteProtocolError: There are far more pieces than the size and the reads account for: each is
                work, even a chunk of one byte.
        """
        for piece in pieces:
            self._pieces += 1
            self._payload += len(piece)
            if self._pieces > _MOST_TINY + self._reads + self._payload // _TINY:
                raise httpcore.RemoteProtocolError("the server sends the image in tiny chunks")
            yield piece

    def _give_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turn.release()


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to the addresses that a policy allows, and to nothing that a name may point to a moment later."""

    def __init__(self, policy: AddressPolicy, pace: _Pace) -> None:
        self._policy = policy
        self._pace = pace
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
                stream = self._sockets.connect_tcp(address, port, self._pace.left(), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._pace)
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: _SocketOptions = None
    ) -> httpcore.NetworkStream:
        raise ImageNotAllowed("images are not read from unix sockets")


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no operation outlasts one deadline for all of them."""

    def __init__(self, stream: httpcore.NetworkStream, pace: _Pace) -> None:
        self._stream = stream
        self._pace = pace

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._pace.read(self._stream, max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._pace.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._pace.left())
        return _TimedStream(secured, self._pace)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, clock: Clock) -> float:
    """Seconds until the deadline."""
    left = deadline - clock()
    if left <= 0:
        raise httpcore.ReadTimeout("deadline passed")
    return left
