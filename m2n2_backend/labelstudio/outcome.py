"""What long-running commands report of each task or image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["posted", "encoded", "exported", "read", "present", "no prompts", "no annotations", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one task or image.

    Attributes:
        name: The name that people have for it, such as "task 7" or the path of a file.
        state: ``present`` where there was nothing left to do.
        detail: What the user should know about it, such as why it failed; mostly empty.
    """

    name: str
    state: State
    detail: str = ""
