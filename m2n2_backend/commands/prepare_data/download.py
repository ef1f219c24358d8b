"""One large file over HTTP, continued where an earlier attempt ended."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
from rich.console import Console

from m2n2_backend.commands.progress import byte_progress
from m2n2_backend.errors import DatasetError, one_line
from m2n2_backend.tls import advice, tls_context

TIMEOUT_S = 60.0
"""Longest silence of the server."""

_BLOCK = 1024 * 1024


def download(address: str, target: Path, *, most: int, md5: str | None, console: Console) -> None:
    """Fetch a file unless it is there; until it is complete, the part that has come lies beside it as ``.part``.

    Args:
        address: http or https; redirects are followed.
        most: The largest size of the file, in bytes.
        md5: The sum of the complete file, if it is known.

    Raises:
        DatasetError: No connection, another answer than the file, more bytes than ``most``, or another checksum.
        SettingsError: As for :func:`~m2n2_backend.tls.tls_context`.
    """
    if target.exists():
        return
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, verify=tls_context()) as client:
            _fetch(client, address, part, most, console)
    except httpx.HTTPError as error:
        detail = advice(error) or one_line(error)
        raise DatasetError(
            f"{address} cannot be downloaded ({detail}): run this again to continue, or put the file at {target}"
        ) from error
    if md5 is not None and (found := _md5(part)) != md5:
        part.unlink()
        raise DatasetError(f"{address} has the MD5 sum {found} instead of {md5}: it is removed, run this again")
    part.replace(target)


def _fetch(client: httpx.Client, address: str, part: Path, most: int, console: Console) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with client.stream("GET", address, headers=headers) as reply:
        if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if reply.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return None  # all of it had come
            part.unlink()
            return _fetch(client, address, part, most, console)
        reply.raise_for_status()
        if not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0  # the server sends all of it again
        length = reply.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if (total or 0) > most:
            raise DatasetError(f"{address} has {total} bytes, more than the {most} expected: it is not the data set")
        with part.open("ab" if have else "wb") as file, byte_progress(part.stem, have, total, console) as advance:
            for block in reply.iter_raw():  # as it comes: what has come before a break is kept
                have += len(block)
                if have > most:
                    raise DatasetError(f"{address} has more than the {most} bytes expected: it is not the data set")
                file.write(block)
                advance(len(block))
    return None


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
