"""The body of a request → its JSON."""

from __future__ import annotations

import gc
import json
import threading

import pydantic_core
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from m2n2_backend.errors import InvalidRequest, NotReady
from m2n2_backend.server.receiving import REFUSED

MAX_CONTAINERS = 1_000_000
"""Most lists and objects of a request. Each takes a hundred bytes; a polygon of 500 points has as many lists."""

MAX_KEYS = 400_000
"""Most keys of a request, as far as colons tell: while a parser reads so many, 0.2 s, no other thread runs. A region
has about twenty."""

_LARGE = 128 * 1024


class JsonReader:
    """Reads bodies; large ones one at a time, as a parser keeps every other thread waiting."""

    def __init__(self) -> None:
        self._large = threading.Lock()

    def read(self, request: Request) -> object:
        """The JSON of a request.

        Raises:
            InvalidRequest: It says it is something else, or is no JSON, or has too many parts.
            NotReady: Too many large requests came at once; this one was not kept.
            RequestEntityTooLarge: It is larger than ``M2N2_MAX_BODY_BYTES``.
        """
        if not request.is_json:
            raise InvalidRequest(f"Content-Type must be application/json, not {request.mimetype or 'missing'}")
        match request.environ.get(REFUSED):
            case "too large":
                raise RequestEntityTooLarge
            case "busy":
                raise NotReady("busy with other large requests: try again in a moment")
            case "slow":
                raise NotReady("the request came in slowly, and another large one wanted its place: try again")
        body = request.get_data(cache=False)
        if len(body) <= _LARGE:
            return _parsed(body)
        with self._large:
            # The collector would go over the new lists again and again: twenty times the work of reading.
            gc.disable()
            try:
                return _parsed(body)
            finally:
                gc.enable()


def _parsed(body: bytes) -> object:
    if len(body) > MAX_CONTAINERS and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise InvalidRequest(f"the request has more than {MAX_CONTAINERS} lists and objects")
    if len(body) > MAX_KEYS and body.count(b":") > MAX_KEYS:
        raise InvalidRequest(f"the request has more than {MAX_KEYS} keys: send fewer regions")
    try:
        # Twice as fast as the standard library's on masks, as fast as orjson, and here anyway.
        return pydantic_core.from_json(body)
    except ValueError:
        # It takes no lone surrogates, which may stand in fields that nobody looks at.
        pass
    try:
        return json.loads(body)
    except RecursionError as error:
        raise InvalidRequest("the request's JSON is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request is no JSON: {error}") from error
