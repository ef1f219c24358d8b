"""Errors → HTTP answers: the table of statuses, and reason phrases that a person can act on."""

from __future__ import annotations

import logging
import uuid

from anyascii import anyascii
from flask import Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from m2n2_backend import errors

logger = logging.getLogger(__name__)

MAX_PHRASE = 200
RETRY_AFTER_SECONDS = 5

STATUS: dict[type[errors.M2N2Error], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthorized: 401,
    errors.ImageNotAllowed: 403,
    errors.ImageTooLarge: 413,
    errors.InvalidPrompt: 422,
    errors.InvalidLabelConfig: 422,
    errors.InvalidImage: 422,
    errors.ImageUnavailable: 424,
    errors.SettingsError: 500,
    errors.LabelStudioUnavailable: 500,
    errors.ClusterUnavailable: 500,
    errors.StudioError: 500,
    errors.DatasetError: 500,
    errors.ExportError: 500,
    errors.BackboneUnavailable: 503,
    errors.NotReady: 503,
    errors.ImageNeeded: 503,
}
"""HTTP status of each kind of error. 424: what failed is the image's server, not this one."""


def reason_phrase(message: str) -> str:
    """A message as one line of printable ASCII for the status line, at most ``MAX_PHRASE`` characters.

    Label Studio keeps nothing else of a failed request: the phrase is what its log and its dialogs show. It reads
    the bytes as Latin-1 whatever they are, so that other scripts are spelled in Latin letters ("Кошка" → "Koshka").
    """
    plain = "".join(char if char.isprintable() else " " for char in message[: 4 * MAX_PHRASE])
    line = " ".join(anyascii(plain).split())
    return line if len(line) <= MAX_PHRASE else f"{line[: MAX_PHRASE - 3]}..."


def subject(body: object) -> str:
    """The project and the task of a request, as far as a body that was not checked yet names them."""
    if not isinstance(body, dict):
        return ""
    tasks = body.get("tasks")
    task = tasks[0] if isinstance(tasks, list) and len(tasks) == 1 else None
    ids = {"project": body.get("project"), "task": task.get("id") if isinstance(task, dict) else None}
    return ", ".join(f"{name} {str(id)[:64]}" for name, id in ids.items() if isinstance(id, (int, str)))


def project(body: object) -> str:
    """The project of such a body; empty where it names none."""
    found = body.get("project") if isinstance(body, dict) else None
    return str(found)[:64] if isinstance(found, (int, str)) else ""


def error_response(status: int, code: str, message: str) -> Response:
    """The answer to a failed request: the cause and cure in the status line, and as JSON with the kind of error."""
    response = jsonify({"error": code, "detail": message})
    response.status = f"{status} {reason_phrase(message)}"
    g.cause = message
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="m2n2-backend"'
    return response


def install(app: Flask) -> None:
    """Turn every error that a route raises into such an answer, with one line in the log."""
    app.register_error_handler(errors.M2N2Error, _known)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def _known(error: errors.M2N2Error) -> Response:
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    response = error_response(status, type(error).__name__, str(error))
    if isinstance(error, errors.NotReady):
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    _log(response)
    return response


def _http(error: HTTPException) -> Response:
    message = error.description or "request failed"
    if isinstance(error, RequestEntityTooLarge):
        message = f"the request is larger than {request.max_content_length} bytes (M2N2_MAX_BODY_BYTES)"
    elif isinstance(error, NotFound):
        message = _no_route(request.path)
    response = error_response(error.code or 500, type(error).__name__, message)
    for name, value in error.get_headers():
        if name in ("Allow", "Location"):
            response.headers[name] = value
    _log(response)
    return response


def _no_route(path: str) -> str:
    """Cause and cure for a path that is not a route: mostly a reverse proxy's prefix stands before a route."""
    routes = [rule.rule for rule in current_app.url_map.iter_rules()]
    route = next((one for one in routes if one != "/" and path.rstrip("/").endswith(one)), None)
    if route is None:
        names = ", ".join(routes)
        return f"this server has no {_shortened(path)}: its routes are {names}; a reverse proxy must strip its prefix"
    prefix = _shortened(path.rstrip("/").removesuffix(route))
    if not prefix:
        return f"this server has no {path}: write {route}, without a slash at its end"
    return (
        f"a reverse proxy probably does not strip the prefix {prefix} before {route}: let it do so (nginx: a / at "
        f"the end of proxy_pass), or take {prefix} out of the address"
    )


def _shortened(path: str) -> str:
    return path if len(path) <= 30 else f"{path[:27]}..."


def _log(response: Response) -> None:
    logger.warning(
        "%s: %d %s", _request(), response.status_code, g.cause, extra={"kind": f"status {response.status_code}"}
    )


def _unexpected(error: Exception) -> Response:
    identity = uuid.uuid4().hex[:8]
    logger.error("internal error %s: %s", identity, _request(), exc_info=error, extra={"kind": "status 500"})
    return error_response(500, "InternalError", f"internal error {identity}: see the log of the backend")


def _request() -> str:
    about = f" ({g.subject})" if g.get("subject") else ""
    return f"{request.method} {request.path}{about}"
