"""Label Studio as the backend sees it: its address, its version, the token."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import httpx

from m2n2_backend.commands.doctor.check import BANNED_SUBNETS, Check
from m2n2_backend.commands.doctor.projects import check_projects
from m2n2_backend.errors import LabelStudioUnavailable, SettingsError, TokenRefused
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.settings import Settings

OLDEST = (1, 20)
"""First release whose answers this backend is written for: personal access tokens, bitmasks, banned subnets."""

_ACCOUNT = "Account & Settings"


def check_label_studio(settings: Settings, address: str | None = None) -> Iterator[Check]:
    """Ask Label Studio about itself, the token, and the projects this backend is connected to.

    Args:
        address: Where Label Studio reaches this backend; guessed if None.
    """
    asked = False
    for check in _label_studio(settings):
        if isinstance(check, LabelStudioClient):
            asked = True
            yield from check_projects(check, settings, address)
        else:
            yield check
    if not asked:
        yield Check(
            "reachable for Label Studio",
            "warn",
            "Label Studio refuses backends on loopback and private addresses (403) by default",
            f"start Label Studio with {BANNED_SUBNETS} in its environment",
        )


def _label_studio(settings: Settings) -> Iterator[Check | LabelStudioClient]:
    """Checks in order; at the end, if all went well, the client to go on with."""
    url, key = settings.label_studio_url, settings.label_studio_api_key
    if url is None:
        cure = "set LABEL_STUDIO_URL to the address at which this machine reaches Label Studio"
        yield Check("Label Studio", "warn", "LABEL_STUDIO_URL is not set: uploaded images cannot be read", cure)
        return
    version = _version(url)
    yield version
    if version.state == "fail":
        return
    if key is None:
        cure = f"set LABEL_STUDIO_API_KEY to a token of {_ACCOUNT} (legacy or personal access token)"
        yield Check("token", "fail", "LABEL_STUDIO_API_KEY is not set: uploaded images answer 401", cure)
        return
    secret = key.get_secret_value().strip()
    token = _shape(secret) or _accepted(url, secret)
    yield token
    if token.state == "ok":
        yield LabelStudioClient(url, secret)


def _version(url: str) -> Check:
    try:
        reply = LabelStudioClient(url, None, seconds=10).ask("GET", "/api/version")
    except LabelStudioUnavailable as error:
        if error.cure:
            return Check("Label Studio", "fail", error.finding, error.cure)
        cure = "start Label Studio, or set LABEL_STUDIO_URL to the address at which this machine reaches it"
        if httpx.URL(url).host in ("localhost", "127.0.0.1", "::1"):
            cure += (
                "; within a container localhost is the container: name Label Studio's service "
                "(http://label-studio:8080), or host.docker.internal where it runs on the host"
            )
        return Check("Label Studio", "fail", str(error), cure)
    except SettingsError as error:
        return Check("Label Studio", "fail", f"cannot be asked: {error}", "cure the certificates first")
    release = reply.data.get("release") if isinstance(reply.data, dict) else None
    numbers = re.match(r"(\d+)\.(\d+)", release) if isinstance(release, str) else None
    if numbers is None:
        cure = "set LABEL_STUDIO_URL to the address that a browser shows, up to and without /projects"
        return Check("Label Studio", "fail", f"{url} answers ({reply.status}), but it is not Label Studio", cure)
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        cure = f"pip install --upgrade label-studio, or the image heartexlabs/label-studio:1.23.2 (≥ {oldest})"
        return Check("Label Studio", "warn", f"release {release} is older than what this backend is made for", cure)
    return Check("Label Studio", "ok", f"release {release} at {url}")


def _shape(key: str) -> Check | None:
    """What is visibly wrong with a token; None where it may be a valid one."""
    copy = f"copy the token alone from {_ACCOUNT}"
    found = ""
    if key[:1] in "'\"" or key[-1:] in "'\"":
        found, cure = "has quotation marks around it", copy
    elif re.match(r"(?i)(token|bearer)\s", key):
        found, cure = "begins with the word of a header", copy
    elif key.startswith("eyJ") and key.count(".") != 2:
        found, cure = "begins like a personal access token, but is not all of it", copy
    elif _kind(key) == "access":
        found = "is an access token, which lives five minutes"
        cure = f"make a personal access token in {_ACCOUNT}: the backend asks for access tokens itself"
    return Check("token", "fail", f"LABEL_STUDIO_API_KEY {found}", cure) if found else None


def _kind(key: str) -> str:
    """What a JWT says it is: ``refresh`` for a personal access token."""
    try:
        part = key.split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["token_type"])
    except (LookupError, ValueError, TypeError):
        return ""


def _accepted(url: str, key: str) -> Check:
    api = LabelStudioClient(url, key, seconds=10)
    kind = "personal access token" if api.is_personal else "legacy token"
    fresh = f"make a personal access token in {_ACCOUNT} and put it in LABEL_STUDIO_API_KEY"
    try:
        reply = api.ask("GET", "/api/current-user/whoami")
    except TokenRefused as error:
        return Check("token", "fail", str(error), fresh)
    except LabelStudioUnavailable as error:
        return Check("token", "fail", str(error), "look into Label Studio's log")
    if reply.status == 200 and isinstance(reply.data, dict):
        return Check("token", "ok", f"Label Studio accepts the {kind} of {reply.data.get('email')}")
    if "legacy token authentication has been disabled" in reply.detail:
        cure = f"{fresh}; or switch legacy tokens on: Organization → Access Token Settings"
        return Check("token", "fail", "the legacy token is right, but legacy tokens are switched off", cure)
    if reply.status in (401, 403):
        cause = f"Label Studio does not know the {kind} in LABEL_STUDIO_API_KEY ({reply.status} {reply.detail})"
        return Check("token", "fail", cause, f"copy it again from {_ACCOUNT} of this Label Studio, or {fresh}")
    return Check(
        "token", "fail", f"Label Studio answered {reply.status} {reply.detail}", "look into Label Studio's log"
    )
