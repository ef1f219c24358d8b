"""HTTP for images: Label Studio's own address gets the token, and every redirect is judged like an address."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses
from urllib.parse import unquote
from urllib.request import getproxies_environment, proxy_bypass

import httpx

from m2n2_backend.errors import ImageNotAllowed, ImageUnavailable
from m2n2_backend.images import format_of
from m2n2_backend.labelstudio.images.addresses import AddressPolicy
from m2n2_backend.labelstudio.images.download import Clock, HttpReply, exchange, shown
from m2n2_backend.labelstudio.images.spelling import with_slashes
from m2n2_backend.labelstudio.images.tokens import TokenSource
from m2n2_backend.settings import Settings
from m2n2_backend.tls import tls_context
from m2n2_backend.worker.shares import FILES_AT_ONCE, Places, download_limits

_FILES = re.compile(r"/data/.+|/(tasks|projects)/[0-9]+/(presign|resolve)/?", re.DOTALL)
_LABEL_STUDIOS = re.compile(r"/data/(upload|local-files)/|/(presign|resolve)/?$")
_REDIRECTS = 5
_REPLY_LIMIT = 64 * 1024

Origin = tuple[str, bytes, int]


class Downloader:
    """Downloads files as the settings allow it. Threads may share one."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Set up the downloader; no connection is opened."""
        self._settings = settings
        self._clock = clock
        self.base = httpx.URL(settings.label_studio_url) if settings.label_studio_url else None
        key = settings.label_studio_api_key
        self._token = TokenSource(key.get_secret_value().strip() if key else None, self._refresh, clock=clock)
        # With its port, so that the exemption does not open Label Studio's whole machine.
        own = [_host_and_port(self.base)] if self.base else []
        self._policy = AddressPolicy([*settings.allowed_hosts, *own])
        self._tls = tls_context()
        self._turn = threading.Lock()
        self._bytes = Places("bytes of images are on their way")

    def is_label_studio(self, url: httpx.URL) -> bool:
        """Whether an address is on the Label Studio of the settings."""
        return self.base is not None and _origin(url) == _origin(self.base)

    def host(self, url: httpx.URL) -> str:
        """The host under whose name a download is counted; "" for Label Studio."""
        return "" if self.is_label_studio(url) else url.raw_host.decode()

    def takes_token(self, url: httpx.URL) -> bool:
        """Whether the token is sent to an address: to Label Studio's files alone.

        Its API would do whatever stands in a task's address (``/api/projects/7/next`` locks a task).
        """
        if self.base is None or not self.is_label_studio(url):
            return False
        prefix, path = self.base.path.rstrip("/"), url.path
        # Decoded once more than Label Studio does, as a proxy in front of it may.
        if not path.startswith(prefix) or {".", ".."} & set(re.split(r"[/\\]", unquote(path))):
            return False
        return _FILES.fullmatch(path[len(prefix) :]) is not None

    def download(self, url: httpx.URL, known: Mapping[str, str], deadline: float) -> HttpReply:
        """Read a file, through redirects.

        Args:
            known: Headers that ask for the file only if it is another version; empty for any version.
            deadline: Time of the clock after which nobody waits.

        Returns:
            The file (200), or the news that it is the known version (304).

        Raises:
            M2N2Error: As for :meth:`~m2n2_backend.labelstudio.images.reader.MediaReader.fetch`.
        """
        for _ in range(_REDIRECTS + 1):
            reply = self._get(url, known, deadline)
            if reply.status == HTTPStatus.NOT_MODIFIED and known:
                return reply
            if reply.status == HTTPStatus.NOT_FOUND and (meant := with_slashes(url)) != url:
                url = meant
                continue
            if reply.status not in (301, 302, 303, 307, 308):
                self._check(reply, url)
                return reply
            try:
                url = url.join(reply.headers.get("location", ""))
                require_port(url)
            except (httpx.InvalidURL, UnicodeError) as error:
                raise ImageUnavailable(
                    f"image download failed: a redirect by {shown(url)} leads to an invalid address"
                ) from error
        raise ImageUnavailable(f"image download failed: more than {_REDIRECTS} redirects, last to {shown(url)}")

    def _get(self, url: httpx.URL, known: Mapping[str, str], deadline: float) -> HttpReply:
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise ImageNotAllowed("the image's address leads to something other than http or https")
        if url.userinfo:
            raise ImageNotAllowed("the image's address contains a user name: credentials in addresses are not sent")
        own = self.takes_token(url)
        token = self._token.headers(deadline) if own else {}
        reply = self._send("GET", url, {**known, **token}, None, deadline)
        if own and reply.status == HTTPStatus.UNAUTHORIZED and self._token.is_personal:
            token = self._token.headers(deadline, renew=True)
            reply = self._send("GET", url, {**known, **token}, None, deadline)
        return reply

    def _check(self, reply: HttpReply, url: httpx.URL) -> None:
        own = self.is_label_studio(url)
        if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if self.takes_token(url):
                raise ImageUnavailable(self._token.refused(reply.status))
            if own:
                raise ImageUnavailable(
                    f"Label Studio refused the image ({reply.status}): {shown(url)} is not the path of one of its "
                    "files, and the token is sent nowhere else"
                )
            if _LABEL_STUDIOS.search(url.path):
                cure = "if this is Label Studio, set LABEL_STUDIO_URL to it and LABEL_STUDIO_API_KEY"
            else:
                cure = "the host refuses programs or requires a login; upload the image to Label Studio instead"
            raise ImageUnavailable(f"image download failed: {reply.status} from {shown(url)}; {cure}")
        if reply.status != HTTPStatus.OK:
            phrase = responses.get(reply.status, "")
            raise ImageUnavailable(f"image download failed: {reply.status} {phrase} from {shown(url)}")
        is_page = reply.headers.get("content-type", "").lower().startswith("text/html")
        if is_page and format_of(reply.body) is None:
            if own:
                raise ImageUnavailable(
                    "Label Studio answered with a web page, such as its login, instead of the image: "
                    "check LABEL_STUDIO_API_KEY"
                )
            raise ImageUnavailable(f"image download failed: {shown(url)} is a web page, not an image")

    def _refresh(self, content: bytes, deadline: float) -> HttpReply:
        assert self.base is not None, "tokens are only used for the Label Studio of the settings"
        url = self.base.join(f"{self.base.path.rstrip('/')}/api/token/refresh/")
        return self._send("POST", url, {"Content-Type": "application/json"}, content, deadline, _REPLY_LIMIT)

    def _send(
        self,
        method: str,
        url: httpx.URL,
        headers: dict[str, str],
        content: bytes | None,
        deadline: float,
        limit: int | None = None,
    ) -> HttpReply:
        room = FILES_AT_ONCE * self._settings.max_image_bytes
        try:
            with self._bytes.take(download_limits(room, self.host(url)), 0) as more:
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
                    turn=self._turn,
                    arrived=more,
                )
        except ImageUnavailable as error:
            raise ImageUnavailable(f"{error}{_unused_proxy(url)}") from error


def require_port(url: httpx.URL) -> None:
    """Raise ``httpx.InvalidURL`` for a port that does not exist."""
    # A larger one would be cut to 16 bits when connecting, and then be another port than the one checked.
    if url.port is not None and not 0 < url.port < 65536:
        raise httpx.InvalidURL(f"port {url.port} does not exist")


def is_below(url: httpx.URL, hostname: str) -> bool:
    """Whether an address is on the host, and below the path, that /setup named."""
    try:
        named = httpx.URL(hostname)
        return _origin(url) == _origin(named) and url.path.startswith(f"{named.path.rstrip('/')}/")
    except (httpx.InvalidURL, UnicodeError):
        return False


def _unused_proxy(url: httpx.URL) -> str:
    """The addition to a failure where the environment names a proxy for an address; else empty."""
    proxies = getproxies_environment()
    named = next((name for name in (url.scheme, "all") if proxies.get(name)), None)
    host = url.raw_host.decode()
    if named is None or proxy_bypass(host):
        return ""
    return f"; images are downloaded without the proxy of {named.upper()}_PROXY: let this server reach {host} itself"


def _origin(url: httpx.URL) -> Origin:
    # The raw host is ASCII: names in other scripts are compared as they are sent.
    return url.scheme, url.raw_host.lower(), _port(url)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host_and_port(url: httpx.URL) -> str:
    host = url.raw_host.decode("ascii")
    return f"[{host}]:{_port(url)}" if ":" in host else f"{host}:{_port(url)}"
