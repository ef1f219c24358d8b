"""Whether files of weights are what their names say, judged by their first bytes and their size."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

POINTER = "is a Git LFS pointer instead of the file itself"
"""What ``damage_of`` says of a repository that was cloned without Git LFS."""

_POINTER_START = b"version https://git-lfs.github.com/spec/"
_LONGEST_HEADER = 100_000_000  # of a safetensors file, by its format
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")
_REFUSALS = (b"Entry not found", b"Access to model", b"Repository not found", b"Invalid username")


def damaged_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Names of files that are not what they seem, relative to a folder → what is wrong with them."""
    findings = {name: damage_of(folder / name) for name in names}
    return {name: finding for name, finding in findings.items() if finding}


def first_finding(folder: Path, damaged: Mapping[str, str]) -> str:
    """What ``damaged_files`` found, at least one file, in a sentence."""
    name, finding = next(iter(damaged.items()))
    others = f" ({len(damaged) - 1} more files of it are damaged)" if len(damaged) > 1 else ""
    return f"{folder / name} {finding}{others}"


def damage_of(path: Path) -> str | None:
    """What is wrong with a file of a model, as the end of a sentence that begins with its name; None if nothing is.

    Only what costs no time is looked at: a few bytes of weights, the whole of a configuration.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if not start.strip():
            return "is empty"
        if start.startswith(_POINTER_START):
            return POINTER
        if start.lstrip().lower().startswith(_PAGES):
            return "is a web page instead of the file itself"
        if start.startswith(_REFUSALS):
            return f"is a hub's refusal ({start.decode(errors='replace').splitlines()[0][:60]}) instead of the file"
        check = {".safetensors": _safetensors, ".bin": _pickled, ".json": _json, ".txt": _text}.get(path.suffix)
        return check(path) if check else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > _LONGEST_HEADER:
            return "is not a safetensors file"
        header = file.read(length)
    if len(header) < length or size < 8:
        return f"is cut off after {size:,} bytes"
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        whole = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        return "is not a safetensors file"
    if size < whole:
        return f"is cut off after {size:,} of {whole:,} bytes"
    return None if size == whole else f"has {size:,} bytes where its header says {whole:,}"


def _pickled(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        return None if zipfile.is_zipfile(path) else f"is cut off after {path.stat().st_size:,} bytes"
    return None if start[:1] == b"\x80" else "is not a file of PyTorch"  # pickles of before PyTorch 1.6 have no end


def _json(path: Path) -> str | None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        return f"is not JSON, or cut off ({error})"
    if not isinstance(content, dict):
        return "is not a JSON object"
    if path.name.endswith(".index.json"):
        shards = content.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            return "names no files of weights"
        lost = sorted({str(name) for name in shards.values() if not (path.parent / str(name)).is_file()})
        return f"names {', '.join(lost[:3])}, which the folder lacks" if lost else None
    return None


def _text(path: Path) -> str | None:
    try:
        path.read_bytes().decode()
    except ValueError:
        return "is not a text in UTF-8"
    return None
