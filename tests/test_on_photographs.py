"""Masks on the 50 GrabCut photographs: the figures the README gives."""

from __future__ import annotations

import cv2
import numpy as np
from shared_data import GRABCUT, grabcut_mask, grabcut_photograph, needs_grabcut, needs_vit_tiny, vit_tiny

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click

STEMS = sorted(path.stem for path in (GRABCUT / "masks").glob("*.png"))

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
    segmenter = Segmenter(vit_tiny())
    ours, theirs = [], []
    for stem in STEMS:
        truth, rgb = grabcut_mask(stem), grabcut_photograph(stem)
        box = box_around(truth)
        ours.append(iou(segmenter.segment(segmenter.encode(rgb), [], box).mask, truth))
        theirs.append(iou(opencv_grabcut(rgb, box), truth))
    print(f"mean IoU of boxes: ViT-Tiny {np.mean(ours):.4f}, OpenCV GrabCut {np.mean(theirs):.4f}")
    assert np.mean(ours) > np.mean(theirs)
