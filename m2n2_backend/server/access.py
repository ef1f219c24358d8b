"""Basic authentication: the credentials that callers must send."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import unicodedata

from flask import Request

from m2n2_backend.errors import SettingsError, Unauthorized
from m2n2_backend.settings import Settings

OPEN_ROUTE = "/webhook"


def credentials(settings: Settings) -> tuple[str, str] | None:
    """The user name and password that callers must send, None where the server is open.

    Raises:
        SettingsError: Only one of them is set, or Label Studio could not send one of them.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_password
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise SettingsError("M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD go together", "set both or none")
    secret = password.get_secret_value()
    if ":" in user:
        raise SettingsError(
            "M2N2_BASIC_AUTH_USER holds a colon, which ends the user name in basic auth", "choose another"
        )
    for name, text in (("M2N2_BASIC_AUTH_USER", user), ("M2N2_BASIC_AUTH_PASSWORD", secret)):
        _require_sendable(name, text)
    return user, secret


def is_open(path: str) -> bool:
    """Whether the path, with its escapes decoded, is that of the one route that needs no credentials.

    Label Studio sends its credentials everywhere but to the webhook, which does nothing.
    """
    return route_of(path) == OPEN_ROUTE


def route_of(path: str) -> str:
    """The path as Flask sees it: several slashes at its beginning are one. Its escapes are decoded already."""
    return f"/{path.lstrip('/')}"


def is_authorized(header: str, expected: tuple[str, str] | None) -> bool:
    """Whether a request with this ``Authorization``, which may be empty, has the :func:`credentials` expected."""
    if expected is None:
        return True
    user, _, password = _sent(header).partition(b":")
    # Both are always compared, so that the time does not show which one was wrong.
    right_user = _same(user, expected[0])
    return _same(password, expected[1]) and right_user


def authorize(request: Request, expected: tuple[str, str] | None) -> None:
    """Let a request pass.

    Raises:
        Unauthorized: It asks for another route than the open one, without the :func:`credentials` expected.
    """
    # By the route, not by the path, as only the router knows which paths lead there.
    if request.url_rule is not None and request.url_rule.rule == OPEN_ROUTE:
        return
    if not is_authorized(request.headers.get("Authorization", ""), expected):
        raise Unauthorized("wrong or missing user name and password: set them at the model in Label Studio")


def open_to_strangers(settings: Settings) -> tuple[str, str] | None:
    """Finding and cure where other machines reach the server and need no password."""
    try:
        # No other name is sure to mean this machine.
        is_here = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_here = False
    if is_here or settings.basic_auth_user is not None:
        return None
    return (
        f"any program that reaches {settings.host}:{settings.port} can have images read with LABEL_STUDIO_API_KEY",
        "set M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD, and the same at the model in Label Studio",
    )


def _require_sendable(name: str, text: str) -> None:
    if text != text.strip():
        raise SettingsError(
            f"{name} begins or ends with a space or a line break, which Label Studio removes", "set it without them"
        )
    try:
        _composed(text).encode("latin-1")
    except UnicodeEncodeError as error:
        raise SettingsError(
            f"{name} holds a character that Label Studio cannot send",
            "choose one of Latin-1 only, which is ASCII and the letters of Western Europe",
        ) from error


def _sent(header: str) -> bytes:
    """The user name and the password of a request as they came, joined by a colon; empty where there are none."""
    kind, _, value = header.partition(" ")
    try:
        return base64.b64decode(value.strip(), validate=True) if kind.lower() == "basic" else b""
    except ValueError:
        return b""


def _same(given: bytes, expected: str) -> bool:
    """Whether the bytes are the text in one of the encodings of clients: Label Studio's Latin-1, or UTF-8."""
    composed = _composed(expected)
    wanted = (expected.encode(), composed.encode(), composed.encode("latin-1"))
    # All are always compared, as above.
    return sum(hmac.compare_digest(given, one) for one in wanted) > 0


def _composed(text: str) -> str:
    """The text with each accented letter as one character: macOS passes a letter and an accent."""
    return unicodedata.normalize("NFC", text)
