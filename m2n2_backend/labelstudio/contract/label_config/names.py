"""Tags by the names that regions give them; inside of a ``<Repeater>`` a name holds the index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from m2n2_backend.labelstudio.contract.label_config.task_value import INDEX

T = TypeVar("T")

_LONGEST_NAME = 200
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


class Named(Generic[T]):
    """Values by the names of regions, some of which hold the index of a ``<Repeater>``."""

    def __init__(self, known: Mapping[str, T]) -> None:
        """Set up the values by the names of the config, in which ``INDEX`` stands for the index."""
        self.known = dict(known)

    def find(self, name: str) -> Iterator[tuple[T, int | None]]:
        """The values of a region's name, each with the index of the ``<Repeater>``; mostly one."""
        if name in self.known:
            yield self.known[name], None
        if len(name) <= _LONGEST_NAME:
            for digits in _NUMBER.finditer(name):
                pattern = name[: digits.start()] + INDEX + name[digits.end() :]
                if pattern in self.known:
                    yield self.known[pattern], int(digits[0])

    def __contains__(self, name: object) -> bool:
        """Whether a region's name has a value."""
        return isinstance(name, str) and next(self.find(name), None) is not None

    def __getitem__(self, name: str) -> T:
        """The value of a known name."""
        return next(self.find(name))[0]
