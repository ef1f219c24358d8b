"""The few questions that are asked of Label Studio itself; none of them changes anything there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable, LabelStudioUnavailable
from m2n2_backend.labelstudio.images.addresses import AddressPolicy
from m2n2_backend.labelstudio.images.download import Reply, exchange
from m2n2_backend.labelstudio.images.tokens import TokenSource

SECONDS = 60.0
"""For one answer: to list a project's models, Label Studio first asks each of them how it is."""

_LIMIT = 16 * 1024**2
_ALL = range(100, 600)


@dataclass(frozen=True)
class StudioReply:
    """What Label Studio answered.

    Attributes:
        status: HTTP status.
        data: The body, None where it is no JSON.
    """

    status: int
    data: Any

    @property
    def detail(self) -> str:
        """Label Studio's own words for what went wrong; empty where it gave none."""
        found = self.data.get("detail") if isinstance(self.data, dict) else None
        return found if isinstance(found, str) else ""


class StudioApi:
    """A Label Studio as the backend's user sees it. Threads may share one."""

    def __init__(self, url: str, key: str | None, *, seconds: float = SECONDS) -> None:
        """Set up the client; nothing is sent yet.

        Args:
            url: ``LABEL_STUDIO_URL``.
            key: ``LABEL_STUDIO_API_KEY`` of either kind; None asks as nobody.
            seconds: Limit of each answer.
        """
        self._base = httpx.URL(url)
        self._seconds = seconds
        # Its address was configured by whoever runs this, and redirects are not followed.
        self._policy = AddressPolicy([self._base.raw_host.decode("ascii")])
        self._tls = httpx.create_ssl_context()
        self._token = TokenSource(key, self._refresh)

    @property
    def is_personal(self) -> bool:
        """True where the key is a personal access token."""
        return self._token.is_personal

    def get(self, path: str, **query: object) -> StudioReply:
        """Read something.

        Args:
            path: Below the base, with a slash in front.
            **query: Appended to it.

        Raises:
            LabelStudioUnavailable: No connection, or no answer in time.
            ImageUnavailable: The personal access token was refused, or the key is no token.
        """
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def refusal_of_backend(self, url: str) -> str:
        """Why Label Studio would not accept a backend at an address; empty where it would.

        The question is a request to connect one that names no project, which can only be declined.

        Raises:
            LabelStudioUnavailable: As for :meth:`get`.
            ImageUnavailable: As for :meth:`get`.
        """
        reply = self._ask("POST", "/api/ml/", {"url": url})
        return "" if reply.status == 400 else reply.detail or f"status {reply.status}"

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> StudioReply:
        deadline = time.monotonic() + self._seconds
        headers = self._token.headers(deadline)
        content = None if body is None else json.dumps(body).encode()
        reply = self._send(method, path, {**headers, "Content-Type": "application/json"}, content, deadline)
        try:
            return StudioReply(reply.status, json.loads(reply.body))
        except (ValueError, RecursionError):
            return StudioReply(reply.status, None)

    def _refresh(self, content: bytes, deadline: float) -> Reply:
        return self._send("POST", "/api/token/refresh/", {"Content-Type": "application/json"}, content, deadline)

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], content: bytes | None, deadline: float
    ) -> Reply:
        url = self._base.join(self._base.path.rstrip("/") + path)
        try:
            return exchange(
                method,
                url,
                headers={"User-Agent": "m2n2-backend", "Accept": "application/json", **headers},
                content=content,
                policy=self._policy,
                tls=self._tls,
                limit=_LIMIT,
                deadline=deadline,
                read=_ALL,
            )
        except (ImageUnavailable, ImageTooLarge, ImageNotAllowed) as error:
            cause = str(error).removeprefix("image download ")
            raise LabelStudioUnavailable(f"asking Label Studio {cause}") from error
