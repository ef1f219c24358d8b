"""Label Studio's two kinds of tokens → the Authorization header."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Generator
from http import HTTPStatus

import httpx

from m2n2_backend.errors import ImageUnavailable
from m2n2_backend.labelstudio.images.download import Clock, HttpReply

_ACCESS_SECONDS = 240.0
"""Label Studio's access tokens live 300 s; a new one is asked for before a slow download can outlast it."""

_SENDABLE = re.compile(r"[\x21-\x7e]+")

Refresh = Callable[[bytes, float], HttpReply]
"""Posts a JSON body to Label Studio's ``/api/token/refresh/``, until a deadline."""


class TokenSource:
    """Makes the header for one token; threads may share it.

    A legacy token is sent as it is. A personal access token only buys short-lived access tokens; the current
    one is kept until shortly before it ends.
    """

    def __init__(self, key: str | None, refresh: Refresh, *, clock: Clock = time.monotonic) -> None:
        """Set up the source; nothing is sent yet. ``key`` is ``LABEL_STUDIO_API_KEY``, or None."""
        self._clock = clock
        self._key = key
        self._refresh = refresh
        self._lock = threading.Lock()
        self._access: str | None = None
        self._expires = 0.0

    @property
    def is_personal(self) -> bool:
        """Whether it is a personal access token, which is a JWT: three parts with dots between."""
        return self._key is not None and self._key.count(".") == 2

    def headers(self, deadline: float, *, renew: bool = False) -> dict[str, str]:
        """The headers that identify this server; none without a key.

        Args:
            deadline: ``clock()`` at which a refresh must be done.
            renew: Whether the last access token was refused, so that another one is needed.

        Raises:
            ImageUnavailable: Label Studio refuses the personal access token, or the key is not a valid token.
        """
        if self._key is None:
            return {}
        if not _SENDABLE.fullmatch(self._key):
            # Refused here, because an HTTP library's complaint would quote the header.
            raise ImageUnavailable(
                "LABEL_STUDIO_API_KEY is not a valid token: it contains spaces or other characters"
            )
        if not self.is_personal:
            return {"Authorization": f"Token {self._key}"}
        if not self._lock.acquire(timeout=max(0.0, deadline - self._clock())):
            raise ImageUnavailable("Label Studio did not answer in time when asked for an access token")
        try:
            if renew or self._access is None or self._clock() >= self._expires:
                self._access = self._renewed(deadline)
                self._expires = self._clock() + _ACCESS_SECONDS
            return {"Authorization": f"Bearer {self._access}"}
        finally:
            self._lock.release()

    def refused(self, status: int) -> str:
        """The cause and the cure where Label Studio answers 401 or 403."""
        start = f"Label Studio refused the image ({status}): "
        if self._key is None:
            return start + "set LABEL_STUDIO_API_KEY to a token of a Label Studio user"
        if status == HTTPStatus.FORBIDDEN:
            return start + "the user of LABEL_STUDIO_API_KEY may not read this file"
        if self.is_personal:
            return start + "LABEL_STUDIO_API_KEY was refused: make a new personal access token"
        return start + (
            "LABEL_STUDIO_API_KEY was refused: the token is wrong or legacy tokens are switched off; "
            "use a personal access token"
        )

    def _renewed(self, deadline: float) -> str:
        reply = self._refresh(json.dumps({"refresh": self._key}).encode(), deadline)
        if reply.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ImageUnavailable(
                f"LABEL_STUDIO_API_KEY was refused ({reply.status}): the personal access token is wrong, "
                "expired or revoked; make a new one in Label Studio"
            )
        try:
            access = json.loads(reply.body)["access"]
        except (ValueError, TypeError, LookupError):
            access = None
        if reply.status != HTTPStatus.OK or not isinstance(access, str) or not _SENDABLE.fullmatch(access):
            raise ImageUnavailable(
                f"Label Studio gave no access token for LABEL_STUDIO_API_KEY ({reply.status}): "
                "check that LABEL_STUDIO_URL is Label Studio"
            )
        return access


class TokenAuth(httpx.Auth):
    """Puts the token into a request; an access token that was refused is renewed once."""

    def __init__(self, token: TokenSource, seconds: float) -> None:
        """Set up the authentication; nothing is sent yet. A refresh may take ``seconds``."""
        self._token = token
        self._seconds = seconds

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx for each request."""
        request.headers.update(self._token.headers(time.monotonic() + self._seconds))
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._token.is_personal:
            request.headers.update(self._token.headers(time.monotonic() + self._seconds, renew=True))
            yield request
