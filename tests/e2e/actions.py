"""Counts the keys and clicks of an annotator who segments six objects of two clicks each, in two classes."""

from __future__ import annotations

from editor import Editor

SIX = (
    ("1", (120, 160), (150, 240)),
    ("1", (220, 160), (200, 250)),
    ("1", (410, 180), (420, 220)),
    ("2", (540, 180), (550, 220)),
    ("2", (410, 360), (420, 330)),
    ("2", (550, 360), (540, 330)),
)
"""Label's hotkey, and two places on the disc or the plate of the scene."""


class Counted:
    """An editor's page, with the number of keys and clicks that it got."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.actions = 0

    def key(self, key: str) -> None:
        """Press a key."""
        self.editor.page.keyboard.press(key)
        self.actions += 1

    def button(self, selector: str) -> None:
        """Click on a part of the page."""
        self.editor.page.locator(selector).first.click()
        self.actions += 1

    def click(self, place: tuple[int, int]) -> None:
        """Click on the image, with Ctrl as finished masks may lie there, and wait for the mask."""
        page = self.editor.page
        page.keyboard.down("Control")
        with page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
            self.editor.press(*place)
        page.keyboard.up("Control")
        self.editor.shown(info.value)
        self.actions += 1

    def accept(self) -> None:
        """Click on the check mark."""
        self.editor.accept()
        self.actions += 1


def new_config(annotator: Counted) -> None:
    """A label once a class; the tool and the label stay."""
    annotator.button(".lsf-toolbar__group > button.lsf-tool_smart")
    last = ""
    for key, *places in SIX:
        if key != last:
            annotator.key(key)
        last = key
        for place in places:
            annotator.click(place)
        annotator.accept()


def old_config(annotator: Counted) -> None:
    """A label of the key points before each click; its keys follow those of the brush."""
    annotator.button(".lsf-toolbar__group > button.lsf-tool_smart")
    for key, *places in SIX:
        for place in places:
            annotator.key(str(int(key) + 3))
            annotator.click(place)
        annotator.accept()
