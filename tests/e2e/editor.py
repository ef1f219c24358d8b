"""Uses Label Studio's editor with a real mouse; it waits for what the page shows, never for time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response

# What the page knows: the annotation on screen, the image in it, and where a pixel of the image is in the window.
_HELPERS = """
window.m2n2 = {
  annotation: () => window.Htx && Htx.annotationStore && Htx.annotationStore.selected,
  image: () => [...m2n2.annotation().names.values()].find(
    tag => tag.type === 'image' && (!m2n2.on || tag.name === m2n2.on)),
  images: () => [...m2n2.annotation().names.values()].filter(tag => tag.type === 'image').map(tag => tag.name),
  groups: () => [...m2n2.annotation().names.values()].filter(tag => tag.type.endsWith('labels')).map(tag => tag.name),
  ready: () => Boolean(m2n2.annotation() && m2n2.image() && m2n2.image().imageIsLoaded && m2n2.image().stageRef),
  tool: () => (m2n2.image().getToolsManager().findSelectedTool() || {}).fullName,
  selected: control => m2n2.annotation().names.get(control).selectedLabels.map(label => label.value),
  suggestions: () => [...m2n2.annotation().suggestions.values()].map(region => region.id.split('#')[0]),
  finished: () => [...m2n2.annotation().areas.values()].filter(one => !one.isDrawing && one.closed !== false).length,
  regions: () => m2n2.annotation().serializeAnnotation(),
  acceptButton: () => {
    // Two round buttons, reject and accept; the key points are smaller circles.
    const stage = m2n2.image().stageRef, box = stage.container().getBoundingClientRect();
    const circles = stage.find('Circle').filter(each => each.getClientRect().width > 20);
    const right = circles.sort((one, other) => other.getClientRect().x - one.getClientRect().x)[0];
    if (!right) return null;
    const {x, y, width, height} = right.getClientRect(), middle = {x: x + width / 2, y: y + height / 2};
    const hit = stage.getIntersection(middle);
    return hit && hit.getParent() === right.getParent() && [box.x + middle.x, box.y + middle.y];
  },
  view: () => {
    const image = m2n2.image(), box = image.stageRef.container().getBoundingClientRect();
    const [a, , , d, e, f] = image.stageRef.getAbsoluteTransform().getMatrix();
    return {left: box.x + e, top: box.y + f, width: a * image.stageWidth, height: d * image.stageHeight,
            natural: [image.naturalWidth, image.naturalHeight]};
  },
};
"""
_MILLISECONDS = 120_000.0  # only a bug takes as long, also on a busy machine
_REPEATED = 5_000.0
_CHANGED = 6


class Editor:
    """One annotator's page."""

    def __init__(self, browser: Browser, base: str, login: Any, **window: Any) -> None:
        """Open a window.

        Args:
            browser: The running browser.
            base: Address of Label Studio.
            login: Cookies of a user.
            window: Another size or sharpness, in Playwright's words: ``viewport``, ``device_scale_factor``.
        """
        self._base = base
        window = {"viewport": {"width": 1440, "height": 1150}, **window}
        self._context = browser.new_context(storage_state=login, **window)
        self._context.add_init_script(_HELPERS)
        self._context.set_default_timeout(_MILLISECONDS)
        self.page: Page = self._context.new_page()
        self._blank: NDArray[np.int16] | None = None
        self._submitted: bytes | None = None

    def close(self, screenshot: Path | None = None) -> None:
        """Close the window, with a last picture of it."""
        if screenshot is not None:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            screenshot.write_bytes(self._submitted or self.page.screenshot())
        self._context.close()

    def open(self, project: int, task: int | None, *, tool: str | None = "key-point-tool") -> None:
        """Show a task with Auto-Annotation on and a smart tool chosen: ``key-point-tool`` or ``rectangle-tool``.

        Without a task, the editor shows the next one, as after a click on *Label All Tasks*.
        """
        shown = "labeling=1" if task is None else f"task={task}"
        self.page.goto(f"{self._base}/projects/{project}/data?{shown}", wait_until="commit")
        self.page.wait_for_function("window.m2n2 && m2n2.ready()")
        # Label Studio loads the task again after it was shown, and forgets what was done until then.
        self.page.wait_for_load_state("networkidle")
        if not self.page.evaluate("Htx.autoAnnotation"):
            self.page.get_by_test_id("bottombar-auto-annotation-toggle").click()
        self.page.wait_for_function("Htx.autoAnnotation")
        if tool is None:
            return
        self.page.locator(".lsf-toolbar__group > button.lsf-tool_smart").click()
        self.page.locator(".lsf-toolbar__group > button.lsf-tool_smart").hover()
        self.page.locator(f".lsf-toolbar__smart button[aria-label={tool}]").click()
        self.page.mouse.move(0, 0)
        self._blank = self._look()

    def turn_to(self, image: str) -> None:
        """Switch to one of several images, and take the only smart tool of its toolbar."""
        self.page.evaluate("image => { m2n2.on = image }", image)
        self.page.wait_for_function("m2n2.ready()")
        number = self.page.evaluate("m2n2.images()").index(image)
        button = self.page.locator(".lsf-toolbar__group > button.lsf-tool_smart").nth(number)
        button.scroll_into_view_if_needed()
        button.click()
        self.page.wait_for_function("m2n2.tool().endsWith('-dynamic')")
        self.page.evaluate("m2n2.image().stageRef.container().scrollIntoView({block: 'center'})")

    def choose_tool(self, tool: str) -> None:
        """Take a plain tool of the toolbar: ``bitmask-tool``, ``ellipse-tool`` or ``polygon-tool``."""
        self.page.locator(f".lsf-toolbar__group > button[aria-label={tool}]").click()

    def choose_only_label(self, label: str) -> None:
        """Select a label of a config with one group of labels, ``label``."""
        if self.page.evaluate("m2n2.selected('label')") != [label]:
            self.page.locator(".lsf-label", has_text=label).click()
        self.page.wait_for_function("label => m2n2.selected('label').join() === label", arg=label)

    def stroke(self, points: Sequence[tuple[int, int]]) -> None:
        """Drag the mouse through pixels of the image, without waiting for an answer."""
        self.page.mouse.move(*self.in_window(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.in_window(*point), steps=5)
        self.page.mouse.up()

    @contextmanager
    def one_region_more(self) -> Iterator[None]:
        """Wait until what is drawn in the block is a finished region."""
        count = self.page.evaluate("m2n2.finished()")
        yield
        self.page.wait_for_function("count => m2n2.finished() === count + 1", arg=count)

    def unselect(self) -> None:
        """Deselect all regions and labels."""
        self.page.keyboard.press("Escape")
        self.page.wait_for_function("!m2n2.annotation().hasSelection && !m2n2.selected('label').length")

    def choose_label(self, label: str, control: str = "keypoint", *, further: bool = False) -> None:
        """Select a label, beside those that are selected already; it may have to be done before each prompt."""
        control = control if control in self.page.evaluate("m2n2.groups()") else "label"
        before = self.page.evaluate("name => m2n2.selected(name)", control) if further else []
        if self.page.evaluate("name => m2n2.selected(name)", control) != [label]:
            # The groups of labels stand in the order of the controls in the config.
            number = self.page.evaluate("m2n2.groups()").index(control)
            group = self.page.locator(".lsf-labels").nth(number)
            group.locator(".lsf-label", has_text=label).click()
        arguments = [control, ",".join([*before, label])]
        self.page.wait_for_function("([name, label]) => m2n2.selected(name).join() === label", arg=arguments)

    def click(self, x: int, y: int, label: str = "Object", *, positive: bool = True) -> Response:
        """Click on a pixel of the image and wait until the answer's regions are shown as suggestions."""
        with self.answering(label) as answer:
            self.press(x, y, positive=positive)
        return self.shown(answer())

    def drag(self, x0: int, y0: int, x1: int, y1: int, label: str = "Object") -> Response:
        """Draw a rectangle and wait until the answer's regions are shown."""
        with self.answering(label, "rectangle") as answer:
            self.page.mouse.move(*self.in_window(x0, y0))
            self.page.mouse.down()
            self.page.mouse.move(*self.in_window((x0 + x1) // 2, (y0 + y1) // 2))
            self.page.mouse.move(*self.in_window(x1, y1))
            self.page.mouse.up()
        return self.shown(answer())

    @contextmanager
    def answering(
        self, label: str, control: str = "keypoint", *, further: bool = False
    ) -> Iterator[Callable[[], Response]]:
        """Select a label; after the block the yielded function gives the answer to the prompt made in it."""
        self.choose_label(label, control, further=further)
        with self.page.expect_response(lambda response: "interactive-annotating" in response.url) as info:
            yield lambda: info.value

    def press(self, x: int, y: int, *, positive: bool = True) -> None:
        """Click on a pixel of the image, with Alt if it is background, without waiting for an answer."""
        if not positive:
            self.page.keyboard.down("Alt")
        self.page.mouse.click(*self.in_window(x, y))
        if not positive:
            self.page.keyboard.up("Alt")

    def shown(self, answer: Response) -> Response:
        """Wait until an answer's regions, and no others, are the suggestions."""
        ids = list({region["id"] for region in answer.json()["data"]["result"]})  # labels of their own repeat it
        self.page.wait_for_function("ids => m2n2.suggestions().sort().join() === ids.sort().join()", arg=ids)
        return answer

    def painted(self, expected: NDArray[np.bool_]) -> float:
        """How well the changed pixels on screen agree with a mask, as intersection over union.

        Suggestions are drawn some frames after the page knows them, so it looks again for a while.
        """
        found = 0.0
        for _ in range(50):
            now = self._look()
            assert self._blank is not None
            changed = np.abs(now - self._blank).max(axis=2) > _CHANGED
            height, width = changed.shape
            scaled = np.asarray(Image.fromarray(expected).resize((width, height), Image.Resampling.NEAREST))
            found = max(found, iou(changed, scaled))
            if found >= 0.9:
                break
        return found

    def regions(self) -> list[dict[str, Any]]:
        """The annotation as it would be saved now; suggestions are not in it."""
        found: list[dict[str, Any]] = self.page.evaluate("m2n2.regions()")
        return found

    def accept(self) -> None:
        """Click on the check mark in the bottom bar, which removes the prompts."""
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("m2n2.suggestions().length === 0")

    def accept_on_canvas(self) -> None:
        """Click on the check mark below the mask, which leaves the prompts where they are."""
        from playwright.sync_api import TimeoutError as NotYet

        for _ in range(5):
            # The canvas reacts to a click on the button only some frames after the page knows the button.
            button = self.page.wait_for_function("m2n2.acceptButton()").json_value()
            self.page.mouse.click(*button)
            try:
                self.page.wait_for_function("m2n2.suggestions().length === 0", timeout=_REPEATED)
                return
            except NotYet:
                continue
        raise AssertionError("the check mark on the canvas accepts nothing")

    def submit(self) -> int:
        """Save the annotation; returns its id."""
        self._submitted = self.page.screenshot()  # afterwards the page shows the next task, or that there is none
        with self.page.expect_response(
            lambda response: response.request.method == "POST" and "/annotations" in response.url
        ) as info:
            self.page.get_by_test_id("bottombar-submit-button").click()
        return int(info.value.json()["id"])

    def in_window(self, x: int, y: int) -> tuple[float, float]:
        """The center of a pixel of the image, in the window."""
        view = self.page.evaluate("m2n2.view()")
        width, height = view["natural"]
        return view["left"] + view["width"] * (x + 0.5) / width, view["top"] + view["height"] * (y + 0.5) / height

    def _look(self) -> NDArray[np.int16]:
        """The image as it is on screen, [h, w, 3]."""
        view = self.page.evaluate("m2n2.view()")
        clip = {"x": view["left"], "y": view["top"], "width": view["width"], "height": view["height"]}
        png = self.page.screenshot(clip=clip)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)


OpenEditor = Callable[..., Editor]
"""Opens one more editor, for the first user or for the user whose cookies are given."""


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def sent(answer: Response) -> list[dict[str, Any]]:
    """The prompts of a request, without the items that repeat them with their labels."""
    return [item for item in answer.request.post_data_json["context"]["result"] if item["type"] != "labels"]
