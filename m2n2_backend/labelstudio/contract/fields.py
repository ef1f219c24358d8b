"""Reading fields of JSON nobody has checked yet: every complaint names the path of the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from m2n2_backend.errors import InvalidRequest


def as_object(value: object, path: str) -> Mapping[str, Any]:
    """``value`` as a JSON object.

    Raises:
        InvalidRequest: It is something else.
    """
    if isinstance(value, Mapping):
        return value
    raise InvalidRequest(f"{path} must be an object, not {_kind(value)}")


def as_list(value: object, path: str) -> Sequence[Any]:
    """``value`` as a JSON array.

    Raises:
        InvalidRequest: It is something else.
    """
    if isinstance(value, list):
        return value
    raise InvalidRequest(f"{path} must be a list, not {_kind(value)}")


def as_text(value: object, path: str) -> str:
    """``value`` as a non-empty string.

    Raises:
        InvalidRequest: It is something else, or empty.
    """
    if isinstance(value, str) and value:
        return value
    raise InvalidRequest(f"{path} must be a non-empty string, not {_kind(value)}")


def as_number(value: object, path: str) -> float:
    """``value`` as a finite number; booleans and digits in quotes are none.

    Raises:
        InvalidRequest: It is something else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise InvalidRequest(f"{path} must be a finite number")
    raise InvalidRequest(f"{path} must be a number, not {_kind(value)}")


def as_count(value: object, path: str, *, least: int, most: int) -> int:
    """``value`` as a whole number within ``least`` … ``most``.

    Raises:
        InvalidRequest: It is something else.
    """
    number = as_number(value, path)
    if number.is_integer() and least <= number <= most:
        return int(number)
    raise InvalidRequest(f"{path} must be a whole number from {least} to {most}")


def _kind(value: object) -> str:
    """A JSON value's kind in words, never the value: it may be long or private."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "a list" if isinstance(value, list) else "an object"
