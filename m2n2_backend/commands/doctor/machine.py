"""What this machine brings: device, weights, a folder to write to, a free port."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Iterator

import httpx
import torch

from m2n2_backend import __version__
from m2n2_backend.backbones.registry import check_backbone, kind_of, own_weights, resolve_device
from m2n2_backend.backbones.vit import described_layers
from m2n2_backend.backbones.weights.names import repository_of
from m2n2_backend.backbones.weights.sources import REPOSITORIES, resolve
from m2n2_backend.commands.doctor.check import Check
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.files import is_temporary
from m2n2_backend.server.access import credentials, open_to_strangers
from m2n2_backend.settings import Settings, unknown_names
from m2n2_backend.tls import tls_context
from m2n2_backend.worker.store.features import open_store


def check_machine(settings: Settings) -> Iterator[Check]:
    """Look at this machine; nothing is downloaded."""
    python = platform.python_version()
    yield Check("version", "ok", f"m2n2-backend {__version__}, Python {python}, torch {torch.__version__}")
    for sentence in unknown_names(os.environ):
        yield Check("settings", "fail", sentence, "correct its name, or unset it: it changes nothing as it is")
    if sys.platform == "win32":
        yield Check("system", "fail", "serve does not run on Windows", "use Docker (docker/README.md) or WSL 2")
    try:
        device = resolve_device(settings.device)
    except M2N2Error as error:
        yield Check("device", "fail", str(error), _device_cure(settings.device))
        device = torch.device("cpu")
    else:
        yield _device(device)
    yield _weights(settings, device)
    yield from _caches(settings)
    yield from _authorities()
    yield _port(settings)
    yield from _access(settings)


def _device_cure(name: str) -> str:
    if name == "cuda" and torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a build without CUDA: install the one from PyPI "
            "(docker: the target cuda, docker/compose.gpu.yaml), or set M2N2_DEVICE=cpu"
        )
    if name == "cuda":
        return (
            "nvidia-smi must list the GPU on this machine (in a container: the NVIDIA Container Toolkit on the host, "
            "and docker run --gpus all); or set M2N2_DEVICE=cpu"
        )
    return "set M2N2_DEVICE=cpu"


def _device(device: torch.device) -> Check:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return Check("device", "ok", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    return Check("device", "ok", f"{device.type}, {torch.get_num_threads()} threads")


def _weights(settings: Settings, device: torch.device) -> Check:
    name = f"weights of {settings.backbone}"
    if settings.backbone == "color":
        return Check(name, "warn", "needs none; color and texture only", "M2N2_BACKBONE=sd2 with a GPU, else dinov2")
    if settings.backbone == "auto":
        return _automatic_weights(device)
    try:
        check_backbone(settings.backbone, model=settings.model)
        layers = _layers(settings)
    except M2N2Error as error:
        if "fetch-weights" in error.cure and settings.backbone in REPOSITORIES:
            return Check(name, "fail", str(error), f"m2n2-backend fetch-weights --backbone {settings.backbone}")
        return Check(name, "fail", error.finding, error.cure or "set M2N2_BACKBONE and M2N2_MODEL")
    return Check(name, "ok", f"on disk, every file of them whole{layers}")


def _layers(settings: Settings) -> str:
    """The layers of a vision transformer that are read, as the end of a sentence; empty for other models."""
    if kind_of(settings.backbone) != "vit":
        return ""
    repository = repository_of(settings.backbone, settings.model)
    folder = resolve(repository, "vit", local_only=True)
    return f"; {described_layers(folder, repository, settings.layers)} is read"


def _automatic_weights(device: torch.device) -> Check:
    model = own_weights("auto", device)
    assert model is not None, "auto has weights for every device"
    is_small = device.type == "cpu"
    try:
        folder = resolve(model, "vit" if is_small else "stable-diffusion", local_only=True)
        layers = f"; {described_layers(folder, model, None)} is read" if is_small else ""
    except M2N2Error as error:
        detail = f"{error}: each start tries the hub for seconds, and goes on with color and texture without it"
        return Check("weights of auto", "warn", detail, "m2n2-backend fetch-weights")
    return Check("weights of auto", "ok", f"{model} is on disk{layers}")


def _caches(settings: Settings) -> Iterator[Check]:
    """Whether the folder on this machine can be used, and the store that a cluster shares where one is named."""
    folder = settings.cache_dir
    if trouble := _trouble(settings.model_copy(update={"store": None})):
        yield Check("cache folder", "warn", trouble, "make room there, or set M2N2_CACHE_DIR to another folder")
    elif is_temporary(folder):
        cure = "set M2N2_CACHE_DIR and HF_HOME to folders that are kept"
        yield Check("cache folder", "warn", f"{folder} is temporary: there is no home to write to", cure)
    else:
        yield Check("cache folder", "ok", str(folder))
    if settings.store:
        if trouble := _trouble(settings):
            yield Check(
                "shared store", "warn", trouble, "check M2N2_STORE, its service and the rights to write there"
            )
        else:
            yield Check("shared store", "ok", "can be written")


def _trouble(settings: Settings) -> str:
    """What /health would say of the settings' cache; empty where it can be used."""
    try:
        cache = open_store(settings.model_copy(update={"disk_cache": max(1, settings.disk_cache)}), "doctor")
    except SettingsError as error:
        return str(error)
    cache.try_again()
    trouble = cache.health.trouble
    return f"{trouble.what}: {trouble.cost}" if trouble else ""


def _authorities() -> Iterator[Check]:
    """What is wrong with the certificate authorities that the environment names, if anything is."""
    try:
        tls_context()
    except SettingsError as error:
        yield Check("certificates", "fail", error.finding, error.cure)


def _access(settings: Settings) -> Iterator[Check]:
    """What is wrong with who may ask this server, if anything is."""
    try:
        credentials(settings)
    except SettingsError as error:
        yield Check("access", "fail", error.finding, error.cure)
    if warning := open_to_strangers(settings):
        yield Check("access", "warn", *warning)


def _port(settings: Settings) -> Check:
    name = f"{settings.host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        if _is_this_backend(settings):
            return Check("address", "ok", f"{name}: a running m2n2-backend answers there")
        cure = "another program listens there: stop it, or set M2N2_PORT"
        return Check("address", "warn", f"{name}: {error.strerror}", cure)
    return Check("address", "ok", f"{name} is free")


def _is_this_backend(settings: Settings) -> bool:
    """Whether what listens on the address is an m2n2-backend, as in the container that serves."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    user, password = settings.basic_auth_user, settings.basic_auth_password
    try:
        answer = httpx.get(
            f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/",
            headers={"Accept": "application/json"},
            auth=(user, password.get_secret_value()) if user and password else None,
            timeout=4.0,
            trust_env=False,
        )
        return bool(answer.json().get("name") == "m2n2-backend")
    except (httpx.HTTPError, ValueError, AttributeError):
        return False
