"""The projects of Label Studio: which models they are connected to, and whether their configs can work."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from m2n2_backend.commands.doctor.check import BANNED_SUBNETS, Check
from m2n2_backend.errors import InvalidLabelConfig, LabelStudioUnavailable
from m2n2_backend.labelstudio.client import LabelStudioClient, objects
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.settings import Settings
from m2n2_backend.tls import tls_context

MAX_PROJECTS = 30
"""The newest ones; Label Studio asks every model of a project how it is before it answers."""

_MODEL_PAGE = "Settings → Model"
_CONFIG_PAGE = "Settings → Labeling Interface → Code"


def expected_address(settings: Settings) -> str:
    """Where Label Studio probably finds this backend: by this machine's name if it listens to all others."""
    host = socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def check_projects(api: LabelStudioClient, settings: Settings, address: str | None) -> Iterator[Check]:
    """Look at the projects that have a model.

    Args:
        api: Label Studio, with a token that it accepts.
        address: Where Label Studio reaches this backend; guessed if None, where no project has a model.
    """
    try:
        connected = False
        for check in _projects(api):
            connected |= check.name.startswith("model")
            yield check
        if address is not None or not connected:
            yield _own_address(api, address or expected_address(settings), connected)
    except LabelStudioUnavailable as error:
        yield Check("projects", "fail", str(error), "look into Label Studio's log")


def _projects(api: LabelStudioClient) -> Iterator[Check]:
    listed = api.ask("GET", "/api/projects/", page_size=MAX_PROJECTS, ordering="-created_at")
    projects = objects(listed.data.get("results")) if isinstance(listed.data, dict) else []
    if listed.status != 200:
        cause = f"the token's user may not list projects ({listed.status} {listed.detail})"
        yield Check("projects", "fail", cause, "take the token of a user of the organization")
        return
    for project in projects:
        models = api.models(project["id"])
        for model in models:
            yield _model(api, project, model)
        if models:
            yield from _label_config(project)


def _model(api: LabelStudioClient, project: Mapping[str, Any], model: Mapping[str, Any]) -> Check:
    name = f"model of project {project['id']} ({project.get('title')})"
    url, state = str(model.get("url")), model.get("state")
    if state == "ER":
        cause = f"{url} refused the project: {model.get('error_message')}"
        return Check(name, "fail", cause, f"do what it says, then {_MODEL_PAGE} → Edit → Validate and Save")
    if state == "DI":
        return _unreachable(api, name, url)
    if not model.get("is_interactive"):
        cure = f"{_MODEL_PAGE} → Edit: tick “Interactive preannotations”"
        return Check(name, "warn", f"{url} is connected, but clicks are not sent to it", cure)
    return Check(name, "ok", f"{url} is connected ({model.get('model_version')})")


def _unreachable(api: LabelStudioClient, name: str, url: str) -> Check:
    refusal = _refusal(api, url)
    if refusal is not None:
        return Check(name, "fail", f"Label Studio refuses {url}: {refusal[0]}", refusal[1])
    seen = _health(url)
    cause = f"Label Studio cannot connect to {url}; from this machine: {seen}"
    if seen.startswith("401"):
        cure = (
            f"{_MODEL_PAGE} → Edit: the user name and password of M2N2_BASIC_AUTH_USER and M2N2_BASIC_AUTH_PASSWORD"
        )
    elif seen.startswith("200"):
        cure = (
            f"{url} must lead from Label Studio's machine or container to this backend: within a container localhost "
            "is the container, so name the host or the service (http://backend:9090), with M2N2_HOST=0.0.0.0 here"
        )
    else:
        cure = (
            f"start the backend (m2n2-backend serve; M2N2_HOST=0.0.0.0 if Label Studio is another machine or "
            f"container), and correct the address in {_MODEL_PAGE} → Edit"
        )
    return Check(name, "fail", cause, cure)


def _refusal(api: LabelStudioClient, url: str) -> tuple[str, str] | None:
    """Cause and cure where Label Studio would not even try an address."""
    refusal = api.refusal_of_backend(url)
    if "reserved network address" in refusal:
        return refusal, (
            f"start Label Studio with {BANNED_SUBNETS} in its environment, and without the address in "
            "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"
        )
    if "resolve hostname" in refusal:
        return refusal, "name the backend as Label Studio's machine or container knows it, in both places"
    return None


def _health(url: str) -> str:
    """What this machine hears from a backend, in a few words."""
    try:
        answer = httpx.get(url.rstrip("/") + "/health", timeout=3, trust_env=False, verify=tls_context())
    except httpx.RequestError as error:
        return str(error) or type(error).__name__
    except (httpx.InvalidURL, UnicodeError, OverflowError):
        return "no address"
    return f"{answer.status_code} from /health"


def _label_config(project: Mapping[str, Any]) -> Iterator[Check]:
    name = f"labeling config of project {project['id']} ({project.get('title')})"
    try:
        config = parse_label_config(str(project.get("label_config")))
        config.require_sound()
    except InvalidLabelConfig as error:
        cure = f"change it in {_CONFIG_PAGE}; label_config/brush.xml is a config that works"
        yield Check(name, "fail", str(error), cure)
        return
    for warning in config.warnings:
        yield Check(name, "warn", warning, f"change it in {_CONFIG_PAGE}")
    if not config.warnings:
        outputs = dict.fromkeys(str(one) for image in config.images if image.prompts for one in image.outputs)
        yield Check(name, "ok", f"masks are returned to {', '.join(outputs)}")
    for hint in config.hints:
        yield Check(f"hint for project {project['id']} ({project.get('title')})", "ok", hint)


def _own_address(api: LabelStudioClient, address: str, connected: bool) -> Check:
    name = "reachable for Label Studio"
    refusal = _refusal(api, address)
    if refusal is not None:
        return Check(name, "fail", f"Label Studio would refuse a backend at {address}: {refusal[0]}", refusal[1])
    if connected:
        return Check(name, "ok", f"Label Studio would accept a backend at {address}")
    cure = (
        f"{_MODEL_PAGE} → Connect Model: the URL {address} (or another: doctor --address URL checks it), "
        "and tick “Interactive preannotations”"
    )
    return Check(name, "warn", f"no project is connected to this backend; Label Studio would accept {address}", cure)
