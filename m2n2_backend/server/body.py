"""The body of a request → its JSON."""

from __future__ import annotations

import gc
import json
import re
import threading

import pydantic_core
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from m2n2_backend.errors import InvalidRequest, NotReady
from m2n2_backend.server.receiving import REFUSED

MAX_CONTAINERS = 1_000_000
"""Most lists and objects of a request. Each takes a hundred bytes; a polygon of 500 points has as many lists."""

MAX_KEYS = 100_000
"""Most different keys of a request; Label Studio has some hundred. To read a million in one object takes a second."""

MAX_VALUES = 10_000_000
"""Most numbers and strings of a request; 33 MB of masks have 8 million."""

_LARGE = 128 * 1024
_LONG = 1024**2  # bytes of a body that is not parsed twice without need
_END_OF_KEY = re.compile(rb'"[ \t\r\n]*:')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonReader:
    """Reads bodies; large ones one at a time, as a parser keeps every other thread waiting."""

    def __init__(self) -> None:
        self._large = threading.Lock()

    def read(self, request: Request) -> object:
        """The JSON of a request.

        Raises:
            InvalidRequest: It is not JSON, is declared as something else, or has too many parts.
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
    _require_few_parts(body)
    try:
        # Twice as fast as the standard library's parser on masks, as fast as orjson, and installed anyway.
        return pydantic_core.from_json(body)
    except ValueError as error:
        # This parser refuses lone surrogates, which may stand in fields that are ignored.
        if len(body) > _LONG and not _SURROGATE.search(body):
            raise InvalidRequest(f"the request is not valid JSON: {error}") from error
    try:
        return json.loads(body.decode("utf-8-sig"))  # as bytes it might be UTF-16, in which nothing was counted
    except RecursionError as error:
        raise InvalidRequest("the request's JSON is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request is not valid JSON: {error}") from error


def _require_few_parts(body: bytes) -> None:
    """Count the parts that take a parser's time: meanwhile all other threads wait."""
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise InvalidRequest(f"the request has more than {MAX_CONTAINERS} lists and objects")
    if body.count(b",") >= MAX_VALUES:
        raise InvalidRequest(f"the request has more than {MAX_VALUES} values")
    # Times and addresses have colons too: only where there are many are the keys counted.
    if body.count(b":") > MAX_KEYS and _has_many_keys(body):
        raise InvalidRequest(f"the request has more than {MAX_KEYS} different keys")


def _has_many_keys(body: bytes) -> bool:
    """Count different keys, in many small steps between which other threads run."""
    found = set[int]()
    for match in _END_OF_KEY.finditer(body):
        begin = body.rfind(b'"', 0, match.start())
        # After an escaped quote it is the end of a key only.
        is_whole = body[begin - 1 : begin] != b"\\"
        found.add(hash(body[begin : match.start()]) if is_whole else match.start())
        if len(found) > MAX_KEYS:
            return True
    return False
