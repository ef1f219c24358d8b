"""Runs ``doctor`` for a machine and a Label Studio that the test describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_label_studio import LEGACY, FakeLabelStudio

from m2n2_backend.commands.doctor import Check, diagnose
from m2n2_backend.settings import Settings, load_settings

BANNED = "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"


def checks(folder: Path, *, address: str | None = None, **settings: Any) -> dict[str, Check]:
    """The findings by name."""
    values: dict[str, Any] = {"backbone": "color", "device": "cpu", "cache_dir": folder, **settings}
    return {check.name: check for check in diagnose(load_settings(**values), address)}


def with_studio(
    folder: Path, url: str | FakeLabelStudio, key: str | None = LEGACY, address: str | None = None
) -> dict[str, Check]:
    where = url if isinstance(url, str) else url.url
    names = {"LABEL_STUDIO_URL": where} | ({"LABEL_STUDIO_API_KEY": key} if key else {})
    settings = Settings(backbone="color", device="cpu", cache_dir=folder, **names)
    return {check.name: check for check in diagnose(settings, address)}
