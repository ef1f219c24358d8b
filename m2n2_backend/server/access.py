"""Who may ask this server."""

from __future__ import annotations

import hmac
import ipaddress

from flask import Request

from m2n2_backend.errors import SettingsError, Unauthorized
from m2n2_backend.settings import Settings


def credentials(settings: Settings) -> tuple[str, str] | None:
    """The user name and password that callers must send, None where the server is open.

    Raises:
        SettingsError: Only one of them is set.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_password
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise SettingsError("M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD go together: set both or none")
    return user, password.get_secret_value()


def authorize(request: Request, expected: tuple[str, str] | None) -> None:
    """Let a request pass.

    Raises:
        Unauthorized: It does not carry what :func:`credentials` told.
    """
    if expected is None:
        return
    try:
        given = request.authorization
    except ValueError:  # of base64, for what is not even ASCII
        given = None
    basic = given is not None and given.type == "basic"
    user, password = (given.username or "", given.password or "") if basic and given else ("", "")
    # Both are compared in any case, so that the time does not tell which one was wrong.
    right_user = _same(user, expected[0])
    if not (_same(password, expected[1]) and right_user):
        raise Unauthorized("wrong or missing user name and password: set them at the model in Label Studio")


def open_to_strangers(settings: Settings) -> str:
    """What to warn of where other machines reach the server and need no password; else empty."""
    try:
        # Of names, only this one is known to stay here.
        is_here = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        is_here = False
    if is_here or settings.basic_auth_user is not None:
        return ""
    return (
        f"whoever reaches {settings.host}:{settings.port} can have images read with LABEL_STUDIO_API_KEY: set "
        "M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD, and the same at the model in Label Studio"
    )


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
