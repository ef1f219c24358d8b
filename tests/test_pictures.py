"""The pictures that pages show: ``tests/e2e/make_pictures.py`` makes them, which takes a Label Studio and minutes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from repository import ROOT

PICTURES = ROOT / "label_config" / "pictures"
PAGES = [
    ROOT / "README.md",
    *(page for folder in ("docker", "label_config") for page in (ROOT / folder).glob("*.md")),
]
SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+)\)|<img [^>]*src=\"([^\"]+)\"")


def shown(page: Path) -> list[str]:
    return [one or other for one, other in SHOWN.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_that_a_page_shows_is_there(page: Path) -> None:
    missing = [name for name in shown(page) if not name.startswith("http") and not (page.parent / name).is_file()]
    assert not missing


def test_the_annotators_page_shows_the_editor_clicks_and_a_rectangle() -> None:
    names = shown(ROOT / "label_config" / "ANNOTATORS.md")
    assert names == [f"pictures/{name}.jpg" for name in ("editor", "one_click", "rectangle")]


def test_pictures_are_sharp_enough_for_a_page_and_small_together() -> None:
    pictures = sorted(PICTURES.iterdir())
    assert {each.stem for each in pictures} == {"editor", "one_click", "one_click_vit", "rectangle"}
    for each in pictures:
        with Image.open(each) as picture:
            assert picture.width >= 900, each.name
    assert sum(each.stat().st_size for each in pictures) < 600_000


def test_the_annotators_page_has_no_jargon() -> None:
    text = (ROOT / "label_config" / "ANNOTATORS.md").read_text(encoding="utf-8").lower()
    for word in ("backend", "predict", "iou", "rle", "backbone", "prompt", "inference", "suggestion", "region"):
        assert not re.search(rf"\b{word}", text), word
