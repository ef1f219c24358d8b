"""Masks on the 50 GrabCut photographs: the figures the README gives."""

from __future__ import annotations

import cv2
import numpy as np
from shared_data import GRABCUT, grabcut_mask, grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.evaluation.clicker import Clicker
from m2n2_backend.m2n2.hyperparameters import DESPECKLE, LEAST_CELLS, Hyperparameters
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click

STEMS = sorted(path.stem for path in (GRABCUT / "masks").glob("*.png"))

REFINED = Hyperparameters(refine=True, least_cells=LEAST_CELLS, despeckle=DESPECKLE)

pytestmark = needs_grabcut


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    counted, target = truth != 128, truth == 255
    return float((mask & target & counted).sum() / ((mask | target) & counted).sum())


def center(truth: np.ndarray) -> Click:
    inside = cv2.distanceTransform(np.pad((truth == 255).astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    y, x = np.unravel_index(inside[1:-1, 1:-1].argmax(), truth.shape)
    return Click(int(x), int(y))


def box_around(truth: np.ndarray) -> Box:
    ys, xs = np.nonzero(truth == 255)
    return Box(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)


def opencv_grabcut(rgb: np.ndarray, box: Box) -> np.ndarray:
    labels = np.zeros(rgb.shape[:2], np.uint8)
    rect = (box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0)
    cv2.setRNGSeed(0)
    cv2.grabCut(rgb[..., ::-1].copy(), labels, rect, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def first_click_iou(backbone: Backbone) -> float:
    segmenter = Segmenter(backbone)
    found = []
    for stem in STEMS:
        truth = grabcut_mask(stem)
        state = segmenter.encode(grabcut_photograph(stem))
        found.append(iou(segmenter.segment(state, [center(truth)]).mask, truth))
    print(f"mean IoU of the first click: {np.mean(found):.4f}, {backbone.description}")
    return float(np.mean(found))


@needs_vit_tiny
def test_the_first_click_with_vit_tiny_reaches_a_mean_iou_of_74_percent() -> None:
    assert first_click_iou(vit_tiny()) >= 0.74


def test_the_first_click_with_color_reaches_a_mean_iou_of_50_percent() -> None:
    assert first_click_iou(ColorAffinity()) >= 0.50


@needs_vit_tiny
def test_boxes_with_vit_tiny_beat_opencv_grabcut_on_the_same_boxes() -> None:
    segmenter, refining = Segmenter(vit_tiny()), Segmenter(vit_tiny(), REFINED)
    ours, refined, theirs = [], [], []
    for stem in STEMS:
        truth, rgb = grabcut_mask(stem), grabcut_photograph(stem)
        box, state = box_around(truth), segmenter.encode(rgb)
        ours.append(iou(segmenter.segment(state, [], box).mask, truth))
        refined.append(iou(refining.segment(state, [], box).mask, truth))
        theirs.append(iou(opencv_grabcut(rgb, box), truth))
    means = {"ViT-Tiny": np.mean(ours), "refined": np.mean(refined), "OpenCV GrabCut": np.mean(theirs)}
    print("mean IoU of boxes:", ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
    assert np.mean(ours) > np.mean(theirs)
    assert np.mean(refined) > 0.90


@needs_vit_tiny
def test_the_score_of_a_refined_mask_orders_masks_by_their_iou() -> None:
    segmenter = Segmenter(vit_tiny(), REFINED)
    scores, ious = [], []
    for stem in STEMS[::7]:
        truth = grabcut_mask(stem)
        state, clicker = segmenter.encode(grabcut_photograph(stem)), Clicker(truth)
        mask, clicks = np.zeros(truth.shape, np.bool_), list[Click]()
        for _ in range(6):
            clicks.append(clicker.next_click(mask))
            answer = segmenter.segment(state, clicks)
            mask = answer.mask
            scores.append(answer.score)
            ious.append(iou(mask, truth))
    ranks = [np.argsort(np.argsort(values)) for values in (scores, ious)]
    correlation = float(np.corrcoef(ranks)[0, 1])
    print(f"rank correlation of score and IoU: {correlation:.2f} over {len(ious)} masks")
    assert correlation > 0.5
