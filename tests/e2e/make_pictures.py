"""Makes the pictures in ``label_config/pictures`` with a real Label Studio: about two minutes.

E2E_LABEL_STUDIO=.venv-studio/bin/label-studio .venv/bin/python tests/e2e/make_pictures.py
E2E_LABEL_STUDIO=.venv-studio/bin/label-studio .venv/bin/python tests/e2e/make_pictures.py --backbone vit --model DIR

The first command makes those with the embedded backbone, the second ``one_click_vit.jpg`` alone. Clicks, masks and
editor are real; rings, letters and captions are drawn on the page, because a picture has no mouse.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rig
from editor import Editor
from PIL import Image

from m2n2_backend.resources import label_config, sample_photographs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PICTURES = label_config("brush").parent / "pictures"
COFFEE, SIDE_OF_THE_CUP = (258, 102), {"color": (281, 64), "vit": (228, 86)}
"""On the photograph of the cup: a click on the coffee, and for each backbone one where its mask is then too large."""
EYE = (130, 78, 212, 150)
"""A box around the cat's left eye."""
_HALF = (1000, 760)
"""Window for half a picture, in which labels and hints have lines of their own."""
_CUT = 520
"""Width of the part of it that is shown, from the left edge of the photograph."""
_GAP = 16
_SHARPNESS = 1.5

_DRAW = """marks => {
  document.querySelectorAll('.m2n2-mark').forEach(each => each.remove());
  const add = (style, text) => {
    const mark = document.createElement('div');
    mark.className = 'm2n2-mark';
    mark.textContent = text;
    mark.style.cssText = `position:fixed; z-index:99999; pointer-events:none; box-sizing:border-box; height:26px;
                          border-radius:13px; box-shadow:0 0 0 2px white, inset 0 0 0 2px white;` + style;
    document.body.append(mark);
  };
  for (const {x, y, text, color, ring} of marks) {
    const top = `top:${y - 13}px;`;
    if (ring) add(`${top} left:${x - 13}px; width:26px; border:4px solid ${color};`, '');
    add(`${top} left:${ring ? x + 18 : x - 13}px; min-width:26px; padding:0 7px; color:white; background:${color};
         font:bold 15px/26px sans-serif; text-align:center; white-space:nowrap; box-shadow:0 0 0 2px white;`, text);
  }
}"""
SMART_TOOL = ".lsf-toolbar__group > button.lsf-tool_smart"
_GREEN, _RED, _DARK = "#17803d", "#c81e1e", "#111827"


def main() -> None:
    """Make the pictures with the backbone that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=list(SIDE_OF_THE_CUP), default="color")
    parser.add_argument("--model", help="folder or name on the hub of a vit")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder for the pictures")
    chosen = parser.parse_args()
    reason = rig.missing()
    if reason:
        raise SystemExit(reason)
    variables = {"M2N2_BACKBONE": chosen.backbone} | ({"M2N2_MODEL": chosen.model} if chosen.model else {})
    with (
        tempfile.TemporaryDirectory() as folder,
        rig.running_studio(Path(folder)) as studio,
        rig.running_backend(studio, studio.account.token, **variables) as backend,
        rig.running_browser() as browser,
    ):
        make(Maker(studio, backend, browser, chosen.out), chosen.backbone)


class Maker:
    """Opens photographs in the editor and writes pictures of it."""

    def __init__(self, studio: rig.Studio, backend: rig.Backend, browser: Browser, out: Path) -> None:
        self._studio, self._backend, self._browser, self._out = studio, backend, browser, out
        self._login = rig.log_in(browser, studio)

    def open(self, photograph: str, labels: Sequence[str], width: int, height: int, **more: Any) -> Editor:
        """Show a photograph under the shipped config, in which three labels have other names."""
        xml = label_config("brush").read_text(encoding="utf-8")
        for old, new in zip(("Object", "Person", "Vehicle"), labels, strict=True):
            xml = xml.replace(f'value="{old}"', f'value="{new}"')
        (path,) = [each for each in sample_photographs() if each.stem == photograph]
        number, _ = self._studio.project(photograph, xml, [path], self._backend.url, show_skip_button=False)
        window = {"viewport": {"width": width, "height": height}, "device_scale_factor": _SHARPNESS}
        editor = Editor(self._browser, self._studio.url, self._login, **window)
        editor.open(number, None, **more)
        return editor

    def save(self, name: str, pictures: Sequence[Image.Image]) -> None:
        """Write pictures side by side, with a white gap."""
        gap = round(_GAP * _SHARPNESS)
        width = sum(each.width for each in pictures) + gap * (len(pictures) - 1)
        whole = Image.new("RGB", (width, max(each.height for each in pictures)), "white")
        left = 0
        for each in pictures:
            whole.paste(each, (left, 0))
            left += each.width + gap
        self._out.mkdir(parents=True, exist_ok=True)
        whole.save(self._out / name, quality=72, optimize=True)
        print(f"{self._out / name}: {whole.width}x{whole.height}, {(self._out / name).stat().st_size // 1000} kB")


def make(maker: Maker, backbone: str) -> None:
    """Make all pictures of a backbone."""
    name = "one_click.jpg" if backbone == "color" else f"one_click_{backbone}.jpg"
    maker.save(name, one_click(maker, SIDE_OF_THE_CUP[backbone]))
    if backbone == "color":
        maker.save("editor.jpg", [whole_editor(maker)])
        maker.save("rectangle.jpg", rectangle(maker))


def one_click(maker: Maker, wrong: tuple[int, int]) -> list[Image.Image]:
    """The mask of one click on the coffee, and the one after an Alt+click on the side of the cup."""
    editor = maker.open("coffee", ("Coffee", "Cup", "Spoon"), *_HALF)
    editor.click(*COFFEE, "Coffee")
    first = photograph_and_labels(editor, [mark(editor, COFFEE, "click", _GREEN)])
    editor.click(*wrong, "Coffee", positive=False)
    marks = [mark(editor, wrong, "Alt + click", _RED)]
    second = photograph_and_labels(editor, marks)
    editor.close()
    return [first, second]


def whole_editor(maker: Maker) -> Image.Image:
    """The editor with a mask on it, and a letter at each part that an annotator needs."""
    editor = maker.open("coffee", ("Coffee", "Cup", "Spoon"), 940, 800)
    editor.click(*COFFEE, "Coffee")
    editor.click(*SIDE_OF_THE_CUP["color"], "Coffee", positive=False)
    above = {
        "A": "[data-testid=bottombar-auto-annotation-toggle]",
        "B": ".lsf-labels",
        "E": "[data-testid=bottombar-accept-suggestions-button]",
        "F": "[data-testid=bottombar-submit-button]",
    }
    marks = [mark(editor, (288, 150), "D", _DARK, ring=False)]
    for text, selector in above.items():
        x, y, width, _ = box(editor, selector)
        marks.append({"x": x + min(width, 46) / 2, "y": y - 15, "text": text, "color": _DARK})
    x, y, _, height = box(editor, SMART_TOOL)
    marks.append({"x": x - 18, "y": y + height / 2, "text": "C", "color": _DARK})
    _, y, _, height = box(editor, ".lsf-bottombar")
    picture = look(editor, marks, clip={"x": 0, "y": 0, "width": 940, "height": y + height})
    editor.close()
    return picture


def rectangle(maker: Maker) -> list[Image.Image]:
    """The menu with the rectangle, the mask of one around the cat's eye, and the mask after the check mark."""
    editor = maker.open("cat", ("Eye", "Nose", "Ear"), *_HALF, tool="rectangle-tool")
    left, top, _, height = box(editor, ".konvajs-content")
    photograph = {"x": left, "y": top, "width": 400, "height": height}
    corner = (EYE[2], EYE[1])
    pictures = [menu_of_tools(editor, top, height)]
    editor.drag(*EYE, "Eye")
    pictures.append(look(editor, [mark(editor, corner, "rectangle", _GREEN, ring=False)], clip=photograph))
    editor.accept()
    pictures.append(look(editor, [mark(editor, corner, "after ✓", _GREEN, ring=False)], clip=photograph))
    editor.close()
    return pictures


def menu_of_tools(editor: Editor, top: float, height: float) -> Image.Image:
    """The toolbar, with the menu that opens under the mouse; ``top`` and ``height`` are those of the photograph."""
    editor.page.locator(SMART_TOOL).hover()
    button = ".lsf-toolbar__smart button[aria-label=rectangle-tool]"
    editor.page.locator(button).hover()
    editor.page.wait_for_timeout(1000)  # the menu moves to its place
    left, y, _, size = box(editor, button)
    right, _, width, _ = box(editor, SMART_TOOL)
    marks = [{"x": left - 118, "y": y + size / 2, "text": "the rectangle →", "color": _GREEN}]
    clip = {"x": left - 152, "y": top, "width": right + width - left + 162, "height": height}
    return look(editor, marks, leave=False, clip=clip)


def mark(editor: Editor, place: tuple[int, int], text: str, color: str, *, ring: bool = True) -> dict[str, Any]:
    """A caption at a pixel of the photograph, beside a ring around that pixel."""
    x, y = editor.in_window(*place)
    return {"x": x, "y": y, "text": text, "color": color, "ring": ring}


def photograph_and_labels(editor: Editor, marks: Sequence[dict[str, Any]]) -> Image.Image:
    """The row of labels, and the photograph, cut off at the right."""
    left, top, _, _ = box(editor, ".lsf-labels")
    _, top_of_photograph, _, height = box(editor, ".konvajs-content")
    clip = {"x": left, "y": top - 4, "width": _CUT, "height": top_of_photograph + height - top + 4}
    return look(editor, marks, clip=clip)


def box(editor: Editor, selector: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of a part of the page, in the window."""
    found = editor.page.locator(selector).first.bounding_box()
    assert found is not None
    return found["x"], found["y"], found["width"], found["height"]


def look(editor: Editor, marks: Sequence[dict[str, Any]], *, leave: bool = True, **more: Any) -> Image.Image:
    """A picture of the page with marks on it, when the masks are drawn and the mouse has left them."""
    if leave:
        editor.page.mouse.move(0, 0)
    editor.page.evaluate(_DRAW, list(marks))
    now, before = editor.page.screenshot(**more), b""
    while now != before:  # suggestions are drawn some frames after the page knows them
        editor.page.wait_for_timeout(500)
        now, before = editor.page.screenshot(**more), now
    return Image.open(io.BytesIO(now)).convert("RGB")


if __name__ == "__main__":
    main()
