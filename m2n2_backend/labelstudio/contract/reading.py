"""JSON values → pydantic models; a value that does not fit is named by its path, and never quoted."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from m2n2_backend.errors import InvalidRequest

MAX_LABELS = 100
"""Most labels of one prompt."""

TAG = "kind:"
"""Prefix of a union's tags: pydantic puts the tag into the path of a mistake, but a request has no such part."""

_LONGEST_SIDE = 1_000_000


def _whole(value: object) -> object:
    """JSON knows one kind of number: 64.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, Field(min_length=1)]
# The first mistake ends the reading of a list: a million of them would be a million complaints.
Texts = Annotated[list[Text], Field(max_length=MAX_LABELS, fail_fast=True)]
Degrees = Annotated[float, BeforeValidator(lambda value: value or 0.0)]
Whole = Annotated[int, BeforeValidator(_whole)]
Side = Annotated[Whole, Field(ge=1, le=_LONGEST_SIDE)]


class Model(BaseModel):
    """The base of all models: unknown fields are ignored, and no value is converted to another type."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _absent_is_null(cls, value: object) -> object:
        """Read a missing required field as null, so that the complaint names the type that is wanted."""
        if not isinstance(value, dict):
            return value
        wanted = (field.alias or name for name, field in cls.model_fields.items() if field.is_required())
        return {**dict.fromkeys(wanted), **value}


def objects_in(value: object) -> list[dict[str, Any]]:
    """The objects in a JSON list; nothing where the value is not a list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


M = TypeVar("M", bound=BaseModel)


def read(model: type[M], value: object, path: str = "") -> M:
    """Read a JSON value as a model.

    Args:
        path: Where the value stands, for messages; "" for the request itself.

    Raises:
        InvalidRequest: The value does not fit; the message names the first mistake's path and what must be there.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = path
    for part in first["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith(TAG):
            place += f".{part}" if place else part
    raise InvalidRequest(f"{place or 'the request'} {_complaint(first)}")


_WANTED = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "a non-empty string",
    "string_too_short": "a non-empty string",
    "float_type": "a number",
    "bool_type": "true or false",
    "int_type": "a whole number",
}


def _complaint(error: Any) -> str:
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "string_unicode":
        return "must be valid Unicode, without lone surrogates"
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_described(error['input'])}"
    if kind == "too_long":
        return f"has {context['actual_length']} entries, the limit is {context['max_length']}"
    if kind == "greater_than_equal":
        return f"must be a whole number of at least {context['ge']}"
    if kind == "less_than_equal":
        return f"must be a whole number of at most {context['le']}"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "extra_forbidden":
        return "is unknown: a point has x and y, a box x0, y0, x1 and y1"
    return str(error["msg"])


def _described(value: object) -> str:
    """The kind of a JSON value in words; the value itself may be long or private."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "a list" if isinstance(value, list) else "an object"
