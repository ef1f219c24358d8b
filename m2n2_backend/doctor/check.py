"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: ``fail`` where the backend cannot work as set up.
        detail: What was found.
        cure: What to do about it; empty where nothing is wrong.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    cure: str = ""
