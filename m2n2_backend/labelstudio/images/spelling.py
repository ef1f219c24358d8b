"""Addresses as browsers read them (the WHATWG's URL standard), which is not always as they are written."""

from __future__ import annotations

import re

import httpx

# Not more of them: two at the start of a path would lead to another host.
_PATH = re.compile(r"[/\\](?![/\\])")
_START = re.compile(r"(https?):[/\\]{2}(?![/\\])", re.IGNORECASE)
_BACKSLASH = re.compile(rb"\\|%5c", re.IGNORECASE)


def as_browsers_read(url: str) -> str:
    """An address without blanks around it, and with slashes for the backslashes of its path.

    Backslashes stay in queries, and in addresses that are neither of http nor of Label Studio (``/data/…``).
    """
    url = url.strip()
    start = _START.match(url)
    if start is not None:
        url = f"{start[1]}://{url[start.end() :]}"
    elif _PATH.match(url) is None:
        return url
    end = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    return url[:end].replace("\\", "/") + url[end:]


def with_slashes(url: httpx.URL) -> httpx.URL:
    """The address with slashes for escaped backslashes (``%5C``) and those of its query, as Windows means them."""
    return url.copy_with(raw_path=_BACKSLASH.sub(b"/", url.raw_path))
