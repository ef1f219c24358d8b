"""Titles of projects for the status page, asked of Label Studio beside the requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from cachetools import TTLCache

from m2n2_backend.errors import M2N2Error
from m2n2_backend.labelstudio.client import LabelStudioClient, project_number
from m2n2_backend.settings import Settings

logger = logging.getLogger(__name__)

MAX_PROJECTS = 64
"""Projects that are remembered; no further ones are asked for until one is forgotten: callers can invent ids."""

FRESH_SECONDS = 600.0
"""Time after which a title, or that there is none, is forgotten."""

_LONGEST = 80


class ProjectTitles:
    """The titles that are known. Threads share it.

    Attributes:
        is_asking: A question is on its way; there is one at a time, in a thread of its own.
    """

    def __init__(self, ask: Callable[[int], str]) -> None:
        """Set up without a title. ``ask`` returns the title of a project, or raises :class:`M2N2Error`."""
        self._ask = ask
        self._titles: TTLCache[int, str] = TTLCache(MAX_PROJECTS, FRESH_SECONDS)
        self._lock = threading.Lock()
        self.is_asking = False

    @staticmethod
    def of(settings: Settings, *, seconds: float = 5.0) -> ProjectTitles | None:
        """The titles in the settings' Label Studio; None where it cannot be asked."""
        if settings.label_studio_url is None or settings.label_studio_api_key is None:
            return None
        studio = LabelStudioClient.of(settings, seconds=seconds)
        return ProjectTitles(lambda project: str(studio.project(project).get("title") or ""))

    def get(self, project: str) -> str:
        """The title of a project as /predict names it, "1.1795354407"; empty while it is not known."""
        number = project_number(project)
        with self._lock:
            return "" if number is None else str(self._titles.get(number) or "")

    def want(self, project: str) -> None:
        """Ask for the title of a project that is not known yet; returns at once."""
        number = project_number(project)
        with self._lock:
            self._titles.expire()
            is_full = len(self._titles) >= MAX_PROJECTS
            if number is None or number in self._titles or is_full or self.is_asking:
                return
            self.is_asking = True
        threading.Thread(target=self._find, args=(number,), name="project title", daemon=True).start()

    def _find(self, number: int) -> None:
        title = ""
        try:
            title = self._ask(number)[:_LONGEST]
        except M2N2Error as error:
            logger.info("the title of project %s is not known: %s", number, error)
        finally:
            with self._lock:
                self._titles[number] = title
                self.is_asking = False
