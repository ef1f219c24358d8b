"""Where a tag finds its value in a task's data: ``value="$photo.url"``, resolved as Label Studio's editor does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

INDEX = "\0"
"""Stands in names and values for the index that a ``<Repeater>`` counts; XML can hold no such character."""

FLAG = "{{idx}}"
"""The text for that index in a config whose ``<Repeater>`` has no ``indexFlag``."""

_VARIABLE = re.compile(r"\$[\w\[\].{}]+", re.ASCII)
_LONGEST_TEXT = 65_536
_PART = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True)
class TaskValue:
    """A value of the labeling config that names a place in the task's data.

    Attributes:
        text: As in the config: ``$image``, ``$photo.url``, ``$images[0]``, or a text around such names, such as
            ``https://host/$folder/a.jpg``. ``INDEX`` stands for the index of a ``<Repeater>``.
    """

    text: str

    @staticmethod
    def of(text: str | None) -> TaskValue | None:
        """The value of an attribute, None where it names nothing in the task's data."""
        return TaskValue(text) if text and _VARIABLE.search(text) else None

    def find(self, data: object, index: int | None = None) -> object:
        """The value in the task's data, at an index of the tag's ``<Repeater>``; None where there is none."""
        text = at(self.text, index)
        if _VARIABLE.fullmatch(text):
            return _get(data, text[1:])
        parts = [_written(_get(data, name[1:])) for name in _VARIABLE.findall(text)]
        # A text may name a long value thousands of times.
        if None in parts or sum(len(str(part)) for part in parts) > _LONGEST_TEXT:
            return None
        rest = iter(parts)
        return _VARIABLE.sub(lambda _: str(next(rest)), text)

    def place(self, index: int | None = None) -> str:
        """The place, for messages: ``data.photo.url``."""
        text = as_written(at(self.text, index))
        return f"data.{text[1:]}" if _VARIABLE.fullmatch(text) else f'data (value="{text}")'


def at(text: str, index: int | None) -> str:
    """A name or value of a tag inside of a ``<Repeater>``, at one index of it."""
    return text if index is None else text.replace(INDEX, str(index))


def as_written(name: str) -> str:
    """A name of a tag inside of a ``<Repeater>``, with the flag that the config holds by default."""
    return name.replace(INDEX, FLAG)


def _get(data: object, path: str) -> object:
    """Follow a path such as ``images[0].url``; a key that equals the whole path takes precedence."""
    if isinstance(data, Mapping) and path in data:
        return data[path]
    for part in _PART.findall(path):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and len(part) < 10 and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _written(value: object) -> str | None:
    """A value inside of a text, as JavaScript writes it; None where there is nothing to write."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (str, int, float)) else None
