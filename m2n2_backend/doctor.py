"""Looks at everything a working set-up needs and names the cure of what is wrong."""

from __future__ import annotations

import platform
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from m2n2_backend import __version__
from m2n2_backend.backbones.registry import check_backbone, resolve_device
from m2n2_backend.errors import M2N2Error
from m2n2_backend.settings import Settings

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


def diagnose(settings: Settings) -> Iterator[Check]:
    """Run all checks, cheap ones first; each is yielded as soon as it is known."""
    python = platform.python_version()
    yield Check("version", "ok", f"m2n2-backend {__version__}, Python {python}, torch {torch.__version__}")
    yield _device(settings)
    yield _weights(settings)
    yield _cache(settings)
    yield _port(settings)
    yield from _label_studio(settings)
    yield Check(
        "reachable for Label Studio",
        "warn",
        "Label Studio refuses backends on loopback and private addresses (403) unless it is told otherwise",
        f"start Label Studio with {BANNED_SUBNETS} in its environment",
    )


def _device(settings: Settings) -> Check:
    try:
        device = resolve_device(settings.device)
    except M2N2Error as error:
        return Check("device", "fail", str(error), "M2N2_DEVICE=cpu, or a torch build for your accelerator")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return Check("device", "ok", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    return Check("device", "ok", f"{device.type}, {torch.get_num_threads()} threads")


def _weights(settings: Settings) -> Check:
    name = f"weights of {settings.backbone}"
    if settings.backbone == "color":
        return Check(name, "warn", "needs none; color and texture only", "M2N2_BACKBONE=sd2 with a GPU, else dinov2")
    if settings.backbone == "auto":
        return Check(name, "ok", "taken from what is there: sd2 with a GPU, else small DINOv2, else color")
    try:
        check_backbone(settings.backbone, model=settings.model)
    except M2N2Error as error:
        return Check(name, "fail", str(error), f"m2n2-backend fetch-weights --backbone {settings.backbone}")
    return Check(name, "ok", "on disk")


def _cache(settings: Settings) -> Check:
    try:
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.cache_dir):
            pass
    except OSError as error:
        return Check("cache folder", "warn", f"{settings.cache_dir}: {error.strerror}", "set M2N2_CACHE_DIR")
    return Check("cache folder", "ok", str(settings.cache_dir))


def _port(settings: Settings) -> Check:
    name = f"{settings.host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        cure = "another program (or this backend) listens there: stop it, or set M2N2_PORT"
        return Check("address", "warn", f"{name}: {error.strerror}", cure)
    return Check("address", "ok", f"{name} is free")


def _label_studio(settings: Settings) -> Iterator[Check]:
    url, key = settings.label_studio_url, settings.label_studio_api_key
    if url is None:
        cure = "set LABEL_STUDIO_URL to the address at which this machine reaches Label Studio"
        yield Check("Label Studio", "warn", "LABEL_STUDIO_URL is not set: uploaded images cannot be read", cure)
        return
    if key is None:
        cure = "set LABEL_STUDIO_API_KEY to a token of Account & Settings (legacy or personal access token)"
        yield Check("Label Studio", "fail", "LABEL_STUDIO_API_KEY is not set: uploaded images answer 401", cure)
        return
    secret = key.get_secret_value().strip()
    kind = "personal access token" if secret.count(".") == 2 else "legacy token"
    try:
        user = _who_am_i(url, secret)
    except Exception as error:
        # The client raises its own and httpx's classes; whichever it is, its text is the finding.
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        cure = (
            "check that the address opens in a browser on this machine; a legacy token must be enabled for the "
            "organization (Organization → Access Token Settings), else make a personal access token"
        )
        yield Check("Label Studio", "fail", f"{url} with the {kind}: {cause}", cure)
        return
    yield Check("Label Studio", "ok", f"{url} accepts the {kind} of {user}")


def _who_am_i(url: str, key: str) -> str:
    from label_studio_sdk import LabelStudio

    return str(LabelStudio(base_url=url, api_key=key, timeout=10).users.whoami().email)
