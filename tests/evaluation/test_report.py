"""The page of an evaluation and the pictures that explain a mask."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from PIL import Image
from small_data_set import options_for, quietly

from m2n2_backend.errors import InvalidPrompt, SettingsError
from m2n2_backend.evaluation.data.datasets import load_samples
from m2n2_backend.evaluation.methods import MethodChoice, SegmenterMethod, start_method
from m2n2_backend.evaluation.report import build as report
from m2n2_backend.evaluation.report.build import choose_cases, ranked, write_report
from m2n2_backend.evaluation.report.explain import explain, score_curves
from m2n2_backend.evaluation.report.page import render_page
from m2n2_backend.evaluation.report.plots import TITLE_WIDTH, draw_image, new_figure
from m2n2_backend.evaluation.report.published import PUBLISHED
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.threshold import Scores, choose_threshold
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.overlay import NEGATIVE, POSITIVE, draw_overlay
from m2n2_backend.prompts import Box, Click

pytestmark = pytest.mark.usefixtures("single_thread")

CLICKS = (Click(22, 30), Click(67, 30), Click(45, 5, positive=False))


class References(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]


def references(page: str) -> list[str]:
    parser = References()
    parser.feed(page)
    assert "script" not in parser.tags
    return [source for source in parser.sources if not source.startswith("data:")]


def test_the_page_and_all_its_pictures_lie_in_the_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "CASES", 2)
    folder = data.parent / "report"
    result = quietly(options_for(data, report=folder))
    page = (folder / "index.html").read_text()
    pictures = references(page)
    assert {"iou_per_click.png", "noc_histogram.png", "best.png", "median.png", "worst.png"} <= set(pictures)
    assert "explain/result.png" in pictures
    assert "explain/click_01.png" in pictures
    for picture in pictures:
        with Image.open(folder / picture) as image:
            assert image.width > 300
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    assert f"{result['noc85']:.2f} / {result['noc90']:.2f}" in page


def test_another_methods_run_stands_beside_refined_in_tables_curves_and_cases(data: Path) -> None:
    paper = quietly(options_for(data, limit=2, method=MethodChoice.of("m2n2")))
    folder = data.parent / "report"
    choice = MethodChoice.of("refined")
    beside = data.parent / "out" / "result.json"
    own = data.parent / "out" / "refined.json"
    refined = quietly(options_for(data, limit=2, report=folder, json=own, method=choice, beside=beside))
    page = (folder / "index.html").read_text()
    for result in (paper, refined):
        assert f"<td>{result['noc85']:.2f} / {result['noc90']:.2f}</td>" in page
        assert f"<td>{result['method']}</td>" in page
    assert "noc_histogram_beside.png" in references(page)
    assert "refined above m2n2" in page
    with Image.open(folder / "best.png") as image:
        assert image.height > 0.8 * image.width  # two rows of two


@pytest.mark.parametrize("wrong", ["samples", "method", "text"])
def test_a_run_that_cannot_stand_beside_is_refused_before_the_work(data: Path, wrong: str) -> None:
    limit = 1 if wrong == "samples" else 2
    quietly(options_for(data, limit=limit, method=MethodChoice.of("geodesic")))
    beside = data.parent / "out" / "result.json"
    if wrong == "text":
        beside.write_text("no JSON")
    method = MethodChoice.of("geodesic" if wrong == "method" else "refined")
    options = options_for(data, limit=2, json=data.parent / "own.json", method=method, beside=beside)
    with pytest.raises(SettingsError, match=r"result\.json"):
        quietly(options)
    assert not options.json.exists()


def test_a_classic_has_a_page_without_maps(data: Path) -> None:
    folder = data.parent / "report"
    quietly(options_for(data, limit=2, report=folder, method=MethodChoice.of("geodesic")))
    assert not any(source.startswith("explain/") for source in references((folder / "index.html").read_text()))


def test_the_maps_of_a_chosen_sample_are_shown(data: Path) -> None:
    result = quietly(options_for(data, limit=2))
    method = SegmenterMethod(Segmenter(FakeBackbone()))
    page = write_report(result, load_samples("folder", data, 2), method, data.parent / "report", explain="01")
    assert "01 after" in page.read_text()


def example(**changes: Any) -> dict[str, Any]:
    result = {
        "dataset": "grabcut", "method": "m2n2", "preset": "ours", "protocol": "ritm", "backbone": "<vit>", "grid": 40,
        "n": 50, "noc85": 2.3, "noc90": 3.9, "noc95": 9.5, "not_reached_90": 1, "collapses": 0.5,
        "iou_at": {"1": 0.75}, "seconds_per_click": 0.1, "seconds_per_encode": 1.0,
        "fingerprint": {}, "samples": {},
    }  # fmt: skip
    return {**result, **changes}


def rows(page: str) -> list[list[str]]:
    table = page.split("<table>")[1].split("</table>")[0]
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in table.split("<tr")[1:]]


def test_the_measured_row_stands_under_its_data_set_above_the_published_ones() -> None:
    head, measured, *published = rows(render_page(example(), [], []))
    assert head == ["method", "GrabCut", "Berkeley", "SBD", "DAVIS"]
    assert measured == ["m2n2, &lt;vit&gt; (measured, protocol ritm)", "2.30 / 3.90", "", "", ""]
    assert len(published) == len(PUBLISHED)
    assert published[0] == ["M2N2, SD2 (published)", "1.62 / 1.90", "2.45 / 3.88", "7.72 / 10.94", "4.60 / 6.72"]
    assert all(row[0].endswith("(published)") for row in published)


def test_the_title_names_data_set_method_and_backbone() -> None:
    assert "<h1>GrabCut: m2n2, &lt;vit&gt;</h1>" in render_page(example(), [], [])
    color = "color and texture only, grid 40: no neural network"
    page = render_page(example(dataset="folder", method="refined", backbone=color), [], [], None, "street scenes")
    assert "<h1>street scenes: refined, color and texture only, grid 40</h1>" in page


@pytest.mark.parametrize("dataset", ["folder", "coco_mval", "project 7"])
def test_no_published_figures_stand_beside_a_data_set_that_they_are_not_of(dataset: str) -> None:
    page = render_page(example(dataset=dataset), [], [], None, "street scenes")
    head, measured = rows(page)
    assert (head, measured[1:]) == (["method", "street scenes"], ["2.30 / 3.90"])
    assert "(published)" not in page
    assert "Karmann" not in page


def test_the_fingerprint_is_folded_at_the_end_of_the_page() -> None:
    page = render_page(example(fingerprint={"code": "abc"}), [], [])
    end = page[page.index("<details>") :]
    assert "abc" in end
    assert "<h2>" not in end


def test_titles_above_pictures_are_broken_into_lines_that_fit() -> None:
    axes = new_figure(4.0, 4.0).add_subplot()
    draw_image(axes, np.zeros((4, 4, 3), np.uint8), "a_name_without_any_blank_" * 4 + "\nclick 3, IoU 0.912")
    *name, last = axes.get_title().splitlines()
    assert max(map(len, name)) <= TITLE_WIDTH
    assert last == "click 3, IoU 0.912"


def test_ten_worst_cases_are_drawn_in_rows_of_four(data: Path) -> None:
    result = quietly(options_for(data, limit=6, method=MethodChoice.of("geodesic")))
    method = start_method(MethodChoice.of("geodesic"), None)
    steps: list[tuple[int, int]] = []
    samples = load_samples("folder", data, 6)
    folder = data.parent / "report"
    write_report(result, samples, method, folder, worst=6, step=lambda *step: steps.append(step))
    assert steps[0] == (0, 14)
    assert steps[-1] == (14, 14)
    assert len(steps) > 14
    with Image.open(folder / "worst.png") as worst, Image.open(folder / "best.png") as best:
        assert worst.height > 1.6 * best.height
        assert worst.width == pytest.approx(best.width, rel=0.1)


def test_a_page_of_the_other_protocol_says_how_to_compare() -> None:
    assert "run --protocol released to compare" in render_page(example(), [], [])
    page = render_page(example(protocol="released", preset="released"), [], [])
    assert "to compare" not in page
    assert rows(page)[1][0] == "m2n2 as released, &lt;vit&gt; (measured, protocol released)"


def test_a_part_of_a_data_set_is_not_passed_off_as_the_whole() -> None:
    assert "over 69 objects, the published ones over 345" in render_page(example(dataset="davis", n=69), [], [])
    assert "another set" not in render_page(example(), [], [])


def test_cases_are_ranked_by_clicks_and_then_by_iou() -> None:
    ious = {
        "slow": [0.5] * 10 + [0.95] * 10,
        "never": [0.5] * 20,
        "fast": [0.95] * 20,
        "faster": [0.99] * 20,
        "worse": [0.4] * 20,
    }
    assert ranked(ious) == ["faster", "fast", "slow", "never", "worse"]
    cases = choose_cases(ious)
    assert cases["best"][0] == "faster"
    assert cases["worst"][-1] == "worse"
    assert choose_cases({"one": [0.9] * 20}) == {"best": ["one"], "median": ["one"], "worst": ["one"]}


def test_clicks_are_drawn_green_and_red_where_they_are() -> None:
    rgb = np.full((120, 160, 3), 100, np.uint8)
    mask = np.zeros((120, 160), np.bool_)
    mask[30:90, 30:90] = True
    picture = draw_overlay(rgb, mask, [Click(60, 60), Click(140, 20, positive=False)])
    assert tuple(picture[60, 60]) == POSITIVE
    assert tuple(picture[20, 140]) == NEGATIVE
    assert picture[60, 75, 2] > picture[60, 75, 0]  # tinted inside
    assert tuple(picture[100, 100]) == (95, 95, 95)
    assert (rgb == 100).all()


@pytest.mark.parametrize(
    "method",
    [
        Hyperparameters(),
        Hyperparameters(flood_fill=False),
        Hyperparameters(relation="kl"),
        Hyperparameters(working_size=50, scores=Scores(pos=False)),
        Hyperparameters(refine=True),
        Hyperparameters(refine=True, working_size=50),
    ],
)
def test_a_photograph_and_its_clicks_are_explained_by_one_picture_each(
    method: Hyperparameters, tmp_path: Path
) -> None:
    paths = explain(Segmenter(FakeBackbone(), method), scene(), CLICKS, tmp_path / "why")
    assert [path.name for path in paths] == ["result.png", "click_01.png", "click_02.png", "click_03.png"]
    for path in paths:
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_a_refined_click_is_explained_by_a_second_row(tmp_path: Path) -> None:
    heights = []
    for refine in (False, True):
        paths = explain(
            Segmenter(FakeBackbone(), Hyperparameters(refine=refine)), scene(), CLICKS[:2], tmp_path / str(refine)
        )
        with Image.open(paths[-1]) as image:
            heights.append(image.height)
    assert heights[1] > 1.6 * heights[0]


def test_a_box_is_explained_with_and_without_clicks(tmp_path: Path) -> None:
    segmenter, box = Segmenter(FakeBackbone(), Hyperparameters(refine=True)), Box(5, 10, 45, 50)
    assert [path.name for path in explain(segmenter, scene(), [], tmp_path, [box])] == ["result.png"]
    negative = [Click(10, 12, positive=False)]
    assert len(explain(segmenter, scene(), negative, tmp_path, [box])) == 2


def test_explaining_twice_writes_the_same_files(tmp_path: Path) -> None:
    segmenter = Segmenter(FakeBackbone())
    first, second = (explain(segmenter, scene(), CLICKS[:1], tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_click_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPrompt):
        explain(Segmenter(FakeBackbone()), scene(), [Click(500, 0)], tmp_path)


def test_the_product_of_the_drawn_scores_is_largest_at_the_threshold_that_is_chosen() -> None:
    segmenter = Segmenter(FakeBackbone())
    state = segmenter.encode(scene())
    own = segmenter.prompt_map(state, CLICKS[0])
    at = [int(own.levels[click.y, click.x]) for click in CLICKS]
    curves = score_curves(own.profile, at[:2], at[2:], Hyperparameters())
    chosen = choose_threshold(own.profile, at[:2], at[2:], scores=Scores())
    assert curves.total[chosen] == pytest.approx(curves.total[1:].max())
    assert set(curves.scores) == {"prior", "edge", "pos", "neg"}
    assert all(score.min() >= 0 and score.max() <= 1 for score in curves.scores.values())


def test_the_drawn_product_leaves_out_what_the_method_leaves_out() -> None:
    segmenter = Segmenter(FakeBackbone())
    own = segmenter.prompt_map(segmenter.encode(scene()), CLICKS[0])
    without_edge = score_curves(own.profile, [0], [], Hyperparameters(scores=Scores(edge=False)))
    assert set(np.unique(without_edge.total)) <= {0.0, 1.0}
    large_only = score_curves(own.profile, [0], [], Hyperparameters(), least_area=0.1)
    assert not large_only.total[own.profile.area < 0.1].any()
