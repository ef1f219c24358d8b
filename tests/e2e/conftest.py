"""One Label Studio, one backend and one browser for all scenes; each scene has its own project and page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import rig
from editor import Editor, OpenEditor

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def first_run() -> rig.FirstRun:
    """Let ``make studio`` create the database of all tests."""
    reason = rig.missing()
    if reason:
        pytest.skip(reason)
    return rig.first_run(rig.PLACE / "studio")


@pytest.fixture(scope="session")
def studio(first_run: rig.FirstRun) -> Iterator[rig.Studio]:
    with rig.running_studio(first_run.folder) as running:
        yield running


@pytest.fixture(scope="session")
def backend(studio: rig.Studio) -> Iterator[rig.Backend]:
    with rig.running_backend(studio, studio.account.token) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser alone, for scenes without Label Studio."""
    reason = rig.missing_browser()
    if reason:
        pytest.skip(reason)
    with rig.running_browser() as running:
        yield running


@pytest.fixture(scope="session")
def browser(studio: rig.Studio, chromium: Browser) -> Browser:
    return chromium


@pytest.fixture(scope="session")
def login(browser: Browser, studio: rig.Studio) -> Any:
    return rig.log_in(browser, studio)


@pytest.fixture
def open_editor(
    browser: Browser, studio: rig.Studio, login: Any, request: pytest.FixtureRequest
) -> Iterator[OpenEditor]:
    """Opens editors; their last pictures are kept in ``out/e2e``."""
    opened: list[Editor] = []

    def make(as_user: Any = None) -> Editor:
        opened.append(Editor(browser, studio.url, as_user or login))
        return opened[-1]

    yield make
    name = re.sub(r"\W+", "_", request.node.name.removeprefix("test_")).strip("_")
    for index, editor in enumerate(opened):
        editor.close(rig.OUT / (f"{name}_{index + 1}.png" if index else f"{name}.png"))


@pytest.fixture
def editor(open_editor: OpenEditor) -> Editor:
    return open_editor()
