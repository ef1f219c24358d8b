"""What long work tells of each task or image, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["posted", "encoded", "exported", "present", "no prompts", "no annotations", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one task or image.

    Attributes:
        name: What people call it: "task 7", the path of a file.
        state: ``present`` where there was nothing to do any more.
        detail: What the user should know of it, such as why it failed; mostly empty.
    """

    name: str
    state: State
    detail: str = ""
