"""Which view answers some prompts: a function of the prompts alone, kept in the photograph's memo.

The first click or stroke is answered in the finest view. Its mask must look like a whole object there: of middling
size, not ending at the view's border, with one edge that is clearly the best. Otherwise the next coarser view and the
whole photograph are asked too, and the most convincing mask wins. The evaluation's README has the figures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.prompt_maps import place_of, prompt_maps
from m2n2_backend.m2n2.refine.confidence import ambiguity_of
from m2n2_backend.m2n2.refine.rule import RefinedRule
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.state import Views
from m2n2_backend.m2n2.strategy import least_area
from m2n2_backend.m2n2.views.looks import Choice, Look
from m2n2_backend.m2n2.views.view import (
    AROUND_STROKE,
    View,
    finest_level,
    joined,
    view_about,
    view_of_box,
    view_of_stroke,
)
from m2n2_backend.prompts import Click, PointPrompt, Prompts

LEAST_SHARE, MOST_SHARE = 0.04, 0.3
"""Share of the view that the mask of a whole object covers. A smaller one is more often a part of the object, or of
something else; a larger one is more often what holds it."""

CUT = 0.6
"""Doubt about a mask that ends at the view's border: as much as about a share that is wrong by a factor of e^0.6."""

CLEAR, UNCLEAR = 0.8, 2.0
"""Ambiguity up to which there is no doubt, and doubt for each further 1. Ambiguity is how good an edge of a clearly
smaller or larger segment would be, as a share of the chosen one's."""

_EDGE = 2  # pixels of the view's border


@dataclass(frozen=True)
class ViewRule:
    """The refined rule in the view that suits the prompts."""

    rule: RefinedRule

    def segment(self, views: Views, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation:
        """Answer in the chosen view, and bring the mask to the photograph's size.

        Raises:
            Paused: See ``RefinedRule.refinement``.
        """
        choice = self.choice(views, prompts)
        view = choice.view
        moved = [view.click(each) for each in prompts.clicks]
        own = Prompts(tuple(each for each in moved if each is not None), view.regions(prompts.boxes))
        part = self.rule.segment(views.state_of(view), own, pause)
        kept = iter(part.thresholds)
        thresholds = tuple(0.0 if each is None else next(kept) for each in moved)
        mask = view.placed(part.mask, views.size)
        return replace(part, mask=mask, thresholds=thresholds, prompts=prompts, choice=choice)

    def choice(self, views: Views, prompts: Prompts) -> Choice:
        """The view that answers all prompts.

        Boxes and polygons know the size of the object; a first click or stroke looks for it. Further clicks stay in
        the view, until a foreground click outside of it widens the view.

        Args:
            prompts: Prompts that ``validate`` accepts.
        """
        first = 0 if prompts.boxes else 1 + [each.positive for each in prompts.clicks].index(True)
        choice = self._of_first(views, Prompts(prompts.clicks[:first], prompts.boxes))
        for count in range(first + 1, len(prompts.clicks) + 1):
            choice = _widened(views.size, choice, Prompts(prompts.clicks[:count], prompts.boxes))
        return choice

    def _of_first(self, views: Views, prompts: Prompts) -> Choice:
        """Boxes' own view, or the finest in which the first answer looks like a whole object, or most like one."""
        if prompts.boxes:
            return Choice(view_of_box(views.size, joined(prompts.boxes, views.size)), "about the box")
        looks: list[Look] = []
        for view in _candidates(views.size, prompts.clicks[-1]):
            key = hashlib.sha256(f"{view} {prompts}".encode()).digest()
            look = views.looks.get(key) or self._look(views, view, prompts)
            views.looks.put(key, look)
            looks.append(look)
            if look.doubt == 0.0:
                return Choice(view, "the finest view that shows a whole object", tuple(looks))
        best = min(looks, key=lambda each: each.doubt)
        return Choice(best.view, "no view surely shows a whole object, this one most likely", tuple(looks))

    def _look(self, views: Views, view: View, prompts: Prompts) -> Look:
        state, own = views.state_of(view), view.prompts(prompts)
        step = self.rule.refinement(state, own)
        mask = step.settled.unpacked()
        share, is_cut = float(mask.mean()), _is_cut(mask, view, views.size)
        (click,) = prompt_maps(self.rule.method, state, [place_of(state, own.clicks[-1])])
        least = least_area(self.rule.method, state)
        ambiguity = ambiguity_of(click.profile, round(step.thresholds[-1] / click.step), least)
        doubt = max(0.0, math.log(LEAST_SHARE / share), math.log(share / MOST_SHARE))
        doubt += CUT * is_cut + UNCLEAR * max(0.0, ambiguity - CLEAR)
        return Look(view, share, ambiguity, is_cut, doubt)


def _candidates(size: tuple[int, int], prompt: PointPrompt) -> list[View]:
    """Two views about a click or stroke, and the whole photograph, which is encoded in any case."""
    bounds = joined([prompt], size)
    if isinstance(prompt, Click):
        finest = finest_level(size)
        views = [view_about(size, bounds, level) for level in (finest, finest - 1)]
    else:
        views = [view_of_stroke(size, bounds, factor * AROUND_STROKE) for factor in (1, 2)]
    return list(dict.fromkeys([*views, View.whole(size)]))


def _is_cut(mask: NDArray[np.bool_], view: View, size: tuple[int, int]) -> bool:
    """Whether a mask, bool [h, w], ends at the view's border where the photograph, of (H, W) pixels, goes on."""
    return bool(
        (view.top > 0 and mask[:_EDGE].any())
        or (view.left > 0 and mask[:, :_EDGE].any())
        or (view.top + view.height < size[0] and mask[-_EDGE:].any())
        or (view.left + view.width < size[1] and mask[:, -_EDGE:].any())
    )


def _widened(size: tuple[int, int], choice: Choice, prompts: Prompts) -> Choice:
    """The choice before the last click, or the finest wider view if that is a foreground click outside of it."""
    last = prompts.clicks[-1]
    if not last.positive or choice.view.holds(joined([last], size)):
        return choice
    bounds = joined([*prompts.boxes, *(each for each in prompts.clicks if each.positive)], size)
    for level in range(finest_level(size), 0, -1):
        view = view_about(size, bounds, level)
        if view.area > choice.view.area and view.holds(bounds):
            return Choice(view, "widened to hold all foreground prompts", choice.looks)
    return Choice(View.whole(size), "widened to hold all foreground prompts", choice.looks)
