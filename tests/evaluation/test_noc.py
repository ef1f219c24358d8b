"""Numbers of clicks and the evaluation of one object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from m2n2_backend.evaluation.noc import clicks_per_sample, clicks_to_reach, mean_iou_per_click, summary
from m2n2_backend.evaluation.sample import evaluate_sample, intersection_over_union
from m2n2_backend.prompts import Click


class Scripted:
    """A session that answers with prepared masks."""

    grid = None
    ipf_residual = None

    def __init__(self, *masks: NDArray[np.bool_]) -> None:
        self.masks = list(masks)
        self.seen: list[tuple[Click, ...]] = []

    def mask(self, clicks: Sequence[Click]) -> NDArray[np.bool_]:
        self.seen.append(tuple(clicks))
        return self.masks[min(len(clicks), len(self.masks)) - 1]


def label_of_square() -> NDArray[np.uint8]:
    label = np.zeros((20, 20), np.uint8)
    label[5:15, 5:15] = 255
    return label


def test_the_first_click_at_or_above_the_threshold_counts() -> None:
    assert clicks_to_reach([0.2, 0.85, 0.3, 0.9], 0.85) == 2
    assert clicks_to_reach([0.2, 0.85, 0.3, 0.9], 0.90) == 4
    assert clicks_to_reach([0.2, 0.8499999], 0.85) is None


def test_a_sample_that_never_reaches_the_threshold_counts_twenty() -> None:
    ious = {"never": [0.5] * 20, "last": [0.5] * 19 + [0.9], "first": [0.95] + [0.1] * 19}
    assert clicks_per_sample(ious, 0.90).tolist() == [20, 20, 1]


def test_the_summary_takes_all_figures_from_the_same_clicks() -> None:
    ious = {"a": [0.5, 0.86, 0.91] + [0.92] * 17, "b": [0.7] * 20}
    figures = summary(ious)
    assert figures["n"] == 2
    assert figures["noc85"] == (2 + 20) / 2
    assert figures["noc90"] == (3 + 20) / 2
    assert figures["not_reached_90"] == 1
    assert figures["collapses"] == 0
    assert figures["iou_at"] == pytest.approx({"1": 0.6, "3": 0.805, "5": 0.81, "10": 0.81, "20": 0.81})
    assert mean_iou_per_click(ious).shape == (20,)


def test_a_collapse_is_a_click_that_costs_more_than_a_fifth_of_the_iou() -> None:
    ious = {"a": [0.9, 0.6, 0.9, 0.71] + [0.71] * 16, "b": [0.5, 0.2] + [0.1] * 18}
    assert summary(ious)["collapses"] == 2 / 2


def test_reaching_the_threshold_at_the_last_click_is_reaching_it() -> None:
    assert summary({"a": [0.0] * 19 + [0.9]})["not_reached_90"] == 0


def test_ignored_pixels_are_in_neither_part_of_the_iou() -> None:
    label = label_of_square()
    label[:, 10:] = 128
    mask = np.ones(label.shape, np.bool_)
    assert intersection_over_union(label, mask) == 50 / 200
    mask[:, 10:] = False
    assert intersection_over_union(label, mask) == 50 / 200


def test_the_iou_has_no_epsilon() -> None:
    label = label_of_square()
    assert intersection_over_union(label, label == 255) == 1.0
    assert intersection_over_union(label, label != 255) == 0.0


def test_each_click_answers_the_mask_before_it() -> None:
    half = label_of_square() == 255
    half[:, 10:] = False
    session = Scripted(half, half | (np.arange(20) < 5)[None, :])
    run = evaluate_sample(session, label_of_square(), max_clicks=3)
    assert [len(clicks) for clicks in session.seen] == [1, 2, 3]
    # The square's middle; the first deepest pixel of its missing half; then missing and superfluous are equally deep.
    assert run.clicks == (Click(9, 9, True), Click(12, 7, True), Click(2, 2, False))
    assert run.ious[0] == 0.5
    assert len(run.ious) == len(run.seconds) == 3


def test_a_perfect_mask_ends_the_clicks_and_stays_perfect() -> None:
    session = Scripted(label_of_square() == 255)
    run = evaluate_sample(session, label_of_square())
    assert len(run.clicks) == 1
    assert run.ious == (1.0,) * 20


def test_twenty_clicks_are_made_where_the_mask_never_gets_good() -> None:
    run = evaluate_sample(Scripted(np.zeros((20, 20), np.bool_)), label_of_square())
    assert len(run.clicks) == 20
    assert len({(click.x, click.y) for click in run.clicks}) == 20
    assert all(click.positive for click in run.clicks)
