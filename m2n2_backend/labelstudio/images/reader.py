"""Image addresses as they stand in tasks → the files behind them."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import Any, Protocol

import httpx

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable, InvalidImage
from m2n2_backend.images import natural_size
from m2n2_backend.labelstudio.images.addresses import AddressPolicy
from m2n2_backend.labelstudio.images.download import Clock, Reply, exchange, shown
from m2n2_backend.labelstudio.images.local import from_data_url, from_disk
from m2n2_backend.labelstudio.images.tokens import TokenSource
from m2n2_backend.settings import Settings
from m2n2_backend.worker.pool import SourceImage

_BUCKETS = ("s3", "s3a", "gs", "azure-blob")
_REDIRECTS = 5
_REPLY_LIMIT = 64 * 1024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")

Origin = tuple[str, bytes, int]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a task names it.

    Attributes:
        url: Address, data URL, bucket URI or a path of Label Studio.
        task_id: The task, needed for bucket URIs only.
        hostname: Label Studio's own idea of its address; used where no setting gives one, and never trusted.
    """

    url: str
    task_id: int | str | None = None
    hostname: str | None = None

    @staticmethod
    def of_task(task: Mapping[str, Any], image_key: str, hostname: str | None = None) -> Iterator[ImageRef]:
        """The images of a task, page by page; nothing where its data hold none.

        Args:
            task: As Label Studio sends it; whatever does not look like an address is passed over.
            image_key: Key of its data; see
                :class:`~m2n2_backend.labelstudio.contract.label_config.LabelConfig`.
            hostname: As above.
        """
        data = task.get("data")
        value = data.get(image_key) if isinstance(data, Mapping) else None
        for url in value if isinstance(value, list) else [value]:
            if isinstance(url, str):
                yield ImageRef(url, task.get("id"), hostname)


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server said to recognize this version of a file by.

    Attributes:
        etag: Of the response, "" where it had none.
        modified: Its ``Last-Modified``, "" where it had none.
    """

    etag: str = ""
    modified: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request that wants the file only if it is another version."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in named.items() if value}


class Media(Protocol):
    """Whoever turns a reference into a file: a :class:`MediaReader`, or a memory around one."""

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        """Read one image; see :meth:`MediaReader.fetch`.

        Args:
            ref: The image.
            deadline: ``time.monotonic()`` after which nobody waits.
            data_needed: False where the image's hash will do, if it is known.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class MediaReader:
    """Reads images over HTTP, from Label Studio, from its local files and from data URLs.

    Threads may share one.
    """

    def __init__(self, settings: Settings, *, clock: Clock = time.monotonic) -> None:
        """Set up the reader; nothing is opened yet.

        Args:
            settings: The addresses, the token and the limits.
            clock: Of all deadlines.
        """
        self._clock = clock
        self._settings = settings
        self._base = httpx.URL(settings.label_studio_url) if settings.label_studio_url else None
        key = settings.label_studio_api_key
        self._token = TokenSource(key.get_secret_value().strip() if key else None, self._refresh, clock=clock)
        # With its port, so that the exemption does not open Label Studio's whole machine.
        own = [_host_and_port(self._base)] if self._base else []
        self._policy = AddressPolicy([*settings.allowed_hosts, *own])
        self._tls = httpx.create_ssl_context()

    def fetch(self, ref: ImageRef, *, deadline: float = float("inf"), data_needed: bool = True) -> SourceImage:
        """Read one image file.

        Args:
            ref: The image.
            deadline: ``time.monotonic()`` after which nobody waits; ``download_timeout`` holds besides.
            data_needed: Without a memory there is no other way to know the hash.

        Raises:
            ImageNotAllowed: The address or path is outside of what this server may read.
            ImageTooLarge: The file has more than ``max_image_bytes``.
            ImageUnavailable: It could not be read; the message says why, and the setting that helps.
            InvalidImage: No image, a data URL that cannot be decoded, or an address that is none.
        """
        image, _ = self.fetch_if_changed(ref, Validators(), deadline=deadline)
        assert image is not None, "without validators nothing is unchanged"
        return image

    def fetch_if_changed(
        self, ref: ImageRef, known: Validators, *, deadline: float
    ) -> tuple[SourceImage | None, Validators]:
        """Read one image file unless its server says that it is the version known by ``known``.

        Returns:
            The image, None if it has not changed, and what to recognize it by the next time.

        Raises:
            M2N2Error: As ``fetch``.
        """
        data, validators = self._data(ref, known, min(deadline, self._clock() + self._settings.download_timeout))
        if data is None:
            return None, known
        size = natural_size(data, max_pixels=self._settings.max_image_pixels)
        return SourceImage(hashlib.sha256(data).hexdigest(), data, size), validators

    def close(self) -> None:
        """Do nothing: no connection outlives a read. A cache around the reader has more to do here."""

    def _data(self, ref: ImageRef, known: Validators, deadline: float) -> tuple[bytes | None, Validators]:
        limit = self._settings.max_image_bytes
        if ref.url[:5].lower() == "data:":
            return from_data_url(ref.url, limit), Validators()
        try:
            root = self._settings.local_files_root
            named = httpx.URL(ref.url.strip())
            if root is not None and self._is_local_file(named):
                return from_disk(root, named.params.get("d", ""), limit), Validators()
            url = self._locate(ref)
            _require_port(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidImage(f"the image's address cannot be parsed: {error}") from error
        reply = self._download(url, known, deadline)
        if reply.status == HTTPStatus.NOT_MODIFIED:
            return None, known
        return reply.body, Validators(reply.headers.get("etag", ""), reply.headers.get("last-modified", ""))

    def _locate(self, ref: ImageRef) -> httpx.URL:
        """The http(s) address to ask."""
        url = ref.url.strip()
        scheme = _SCHEME.match(url)
        name = scheme.group(1).lower() if scheme else ""
        if name in _BUCKETS:
            if not re.fullmatch(r"[0-9]+", str(ref.task_id)):
                raise ImageUnavailable(f"a {name}:// image is read through Label Studio, which needs the task's id")
            uri = base64.urlsafe_b64encode(url.encode()).decode()
            return self._below_base(f"/tasks/{ref.task_id}/presign/?fileuri={uri}", ref)
        if name in ("http", "https"):
            return httpx.URL(url)
        if url.startswith("/") and not url.startswith("//"):
            return self._below_base(url, ref)
        raise ImageNotAllowed(
            f"an image address that begins with {name or url[:10]!r} is not supported: use http(s), s3, gs, "
            "azure-blob, a data URL or a path of Label Studio"
        )

    def _below_base(self, path: str, ref: ImageRef) -> httpx.URL:
        base = self._base or (httpx.URL(ref.hostname) if ref.hostname else None)
        if base is None:
            raise ImageUnavailable("the image's address is relative: set LABEL_STUDIO_URL to where Label Studio runs")
        prefix = base.path.rstrip("/")
        return base.join(path if prefix and path.startswith(f"{prefix}/") else prefix + path)

    def _is_local_file(self, url: httpx.URL) -> bool:
        on_label_studio = not (url.scheme or url.raw_host) or self._is_label_studio(url)
        return on_label_studio and url.path.rstrip("/").endswith("/data/local-files")

    def _is_label_studio(self, url: httpx.URL) -> bool:
        return self._base is not None and _origin(url) == _origin(self._base)

    def _download(self, url: httpx.URL, known: Validators, deadline: float) -> Reply:
        for _ in range(_REDIRECTS + 1):
            reply = self._get(url, known, deadline)
            if reply.status == HTTPStatus.NOT_MODIFIED and known.headers:
                return reply
            if reply.status not in (301, 302, 303, 307, 308):
                self._check(reply, url)
                return reply
            try:
                url = url.join(reply.headers.get("location", ""))
                _require_port(url)
            except (httpx.InvalidURL, UnicodeError) as error:
                raise ImageUnavailable(f"image download failed: redirect to no address by {shown(url)}") from error
        raise ImageUnavailable(f"image download failed: more than {_REDIRECTS} redirects, last to {shown(url)}")

    def _get(self, url: httpx.URL, known: Validators, deadline: float) -> Reply:
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise ImageNotAllowed("the image's address leads away from http and https")
        if url.userinfo:
            raise ImageNotAllowed("the image's address holds a user name: credentials in addresses are not sent")
        own = self._is_label_studio(url)
        token = self._token.headers(deadline) if own else {}
        reply = self._send("GET", url, {**known.headers, **token}, None, deadline)
        if own and reply.status == HTTPStatus.UNAUTHORIZED and self._token.is_personal:
            token = self._token.headers(deadline, renew=True)
            reply = self._send("GET", url, {**known.headers, **token}, None, deadline)
        return reply

    def _check(self, reply: Reply, url: httpx.URL) -> None:
        own = self._is_label_studio(url)
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if own:
                raise ImageUnavailable(self._token.refused(reply.status))
            cure = "; if this is Label Studio, set LABEL_STUDIO_URL to it and LABEL_STUDIO_API_KEY"
            raise ImageUnavailable(f"image download failed: {reply.status} from {shown(url)}{cure}")
        if reply.status != HTTPStatus.OK:
            phrase = responses.get(reply.status, "")
            raise ImageUnavailable(f"image download failed: {reply.status} {phrase} from {shown(url)}")
        if reply.headers.get("content-type", "").lower().startswith("text/html"):
            if own:
                raise ImageUnavailable(
                    "Label Studio answered with a web page, such as its login, instead of the image: "
                    "check LABEL_STUDIO_API_KEY"
                )
            raise ImageUnavailable(f"image download failed: {shown(url)} is a web page, not an image")

    def _refresh(self, content: bytes, deadline: float) -> Reply:
        assert self._base is not None, "tokens are only used for the Label Studio of the settings"
        url = self._base.join(f"{self._base.path.rstrip('/')}/api/token/refresh/")
        return self._send("POST", url, {"Content-Type": "application/json"}, content, deadline, _REPLY_LIMIT)

    def _send(
        self,
        method: str,
        url: httpx.URL,
        headers: dict[str, str],
        content: bytes | None,
        deadline: float,
        limit: int | None = None,
    ) -> Reply:
        return exchange(
            method,
            url,
            headers={"User-Agent": "m2n2-backend", "Accept": "*/*", **headers},
            content=content,
            policy=self._policy,
            tls=self._tls,
            limit=limit or self._settings.max_image_bytes,
            deadline=deadline,
            clock=self._clock,
        )


def _require_port(url: httpx.URL) -> None:
    # A larger one would be cut to 16 bits when connecting, and then be another port than the one checked.
    if url.port is not None and not 0 < url.port < 65536:
        raise httpx.InvalidURL(f"port {url.port} does not exist")


def _origin(url: httpx.URL) -> Origin:
    # The raw host is ASCII: names in other scripts are compared as they are sent.
    return url.scheme, url.raw_host.lower(), _port(url)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host_and_port(url: httpx.URL) -> str:
    host = url.raw_host.decode("ascii")
    return f"[{host}]:{_port(url)}" if ":" in host else f"{host}:{_port(url)}"
