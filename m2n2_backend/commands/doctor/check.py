"""One finding of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BANNED_SUBNETS = "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"
"""What Label Studio needs in its environment to accept a backend on a private address."""


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
