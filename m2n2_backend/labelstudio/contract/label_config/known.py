"""A cache of labeling configs: every click brings its project's config along."""

from __future__ import annotations

import hashlib
import threading

from cachetools import LRUCache

from m2n2_backend.errors import InvalidLabelConfig, NotReady
from m2n2_backend.labelstudio.contract.label_config.model import LabelConfig
from m2n2_backend.labelstudio.contract.label_config.parser import parse_label_config
from m2n2_backend.labelstudio.contract.label_config.xml_limits import MAX_CHARS

_WAITING = 16
"""Threads that may wait while other configs are parsed."""

_KEPT_ANYWAY = 1000


class LabelConfigs:
    """Labeling configs that were read before. Threads share one."""

    def __init__(self, most_chars: int = 16 * MAX_CHARS) -> None:
        """Set up a cache of the models of at most so many characters of configs."""
        self._known: LRUCache[bytes, tuple[int, LabelConfig | str]]
        self._known = LRUCache(most_chars, getsizeof=lambda known: known[0])
        self._lock = threading.Lock()
        self._parsing = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)

    def read(self, xml: str) -> LabelConfig:
        """Read a config; each text is parsed once, even if it is refused, and one text at a time.

        Raises:
            InvalidLabelConfig: As for :func:`parse_label_config`.
            NotReady: Many other requests wait for their configs to be read.
        """
        key = hashlib.sha256(xml.encode("utf-8", "surrogatepass")).digest()
        found = self._recalled(key)
        if found is None:
            if not self._waiting.acquire(blocking=False):
                raise NotReady("busy reading other labeling configs: try again in a moment")
            try:
                with self._parsing:
                    found = self._recalled(key) or _parsed_or_refusal(xml)
                    with self._lock:
                        self._known[key] = (min(len(xml), MAX_CHARS) + _KEPT_ANYWAY, found)
            finally:
                self._waiting.release()
        if isinstance(found, str):
            raise InvalidLabelConfig(found)
        return found

    def _recalled(self, key: bytes) -> LabelConfig | str | None:
        with self._lock:
            known = self._known.get(key)
        return known[1] if known else None


def _parsed_or_refusal(xml: str) -> LabelConfig | str:
    try:
        return parse_label_config(xml)
    except InvalidLabelConfig as error:
        return str(error)
