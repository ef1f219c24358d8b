"""Which view answers some prompts: a function of the prompts alone, kept in the photograph's memo.

PLACEHOLDER
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.refine.rule import RefinedRule
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.state import Views
from m2n2_backend.m2n2.views.looks import Choice, Look
from m2n2_backend.m2n2.views.view import View, finest_level, joined, view_about, view_of_box, view_of_stroke
from m2n2_backend.prompts import Click, Prompts

LEAST_SHARE, MOST_SHARE = 0.06, 0.45
"""Share of the view that a mask of a whole object covers. A smaller one is more often a part of the object, or of
something else; a larger one is more often what holds it."""

CUT = 0.6
"""A mask that ends at the view's border counts as one whose share is too small or large by a factor of e^0.6."""


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
        part = self.rule.segment(views.state_of(view), view.prompts(prompts), pause)
        kept = iter(part.thresholds)
        thresholds = tuple(0.0 if view.click(each) is None else next(kept) for each in prompts.clicks)
        mask = view.placed(part.mask, views.size)
        return replace(part, mask=mask, thresholds=thresholds, prompts=prompts, choice=choice)

    def choice(self, views: Views, prompts: Prompts) -> Choice:
        """The view that answers all prompts.

        Boxes, polygons and strokes know the size of the object; a first click looks for it. Further clicks stay in
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
        size, last = views.size, prompts.clicks[-1:]
        if prompts.boxes:
            return Choice(view_of_box(size, joined(prompts.boxes, size)), "about the box")
        if not isinstance(last[0], Click):
            return Choice(view_of_stroke(size, joined(last, size)), "about the stroke")
        key = hashlib.sha256(repr(prompts).encode()).digest()
        choice = views.choices.get(key)
        if choice is None:
            choice = self._of_click(views, prompts)
            views.choices.put(key, choice)
        return choice

    def _of_click(self, views: Views, prompts: Prompts) -> Choice:
        """The finest view in which the first answer looks like a whole object, else the one where it does most."""
        looks: list[Look] = []
        for view in _candidates(views.size, prompts.clicks[-1:]):
            looks.append(self._look(views, view, prompts))
            if looks[-1].doubt == 0.0:
                return Choice(view, "the finest view that shows a whole object", tuple(looks))
        best = min(looks, key=lambda look: look.doubt)
        return Choice(best.view, "no view surely shows a whole object, this one most likely", tuple(looks))

    def _look(self, views: Views, view: View, prompts: Prompts) -> Look:
        mask = self.rule.refinement(views.state_of(view), view.prompts(prompts)).settled.unpacked()
        share = float(mask.mean())
        is_cut = _is_cut(mask, view, views.size)
        doubt = max(0.0, math.log(LEAST_SHARE / share), math.log(share / MOST_SHARE)) + CUT * is_cut
        return Look(view, share, is_cut, doubt)


def _candidates(size: tuple[int, int], clicks: tuple[Click, ...]) -> Iterator[View]:
    """The two finest views about a click, and the whole photograph, which is encoded in any case."""
    finest = finest_level(size)
    for level in sorted({finest, max(0, finest - 1), 0}, reverse=True):
        yield view_about(size, joined(clicks, size), level)


def _is_cut(mask: NDArray[np.bool_], view: View, size: tuple[int, int]) -> bool:
    """Whether a mask, bool [h, w], ends at the view's border, beyond which the photograph of (H, W) pixels goes on."""
    return bool(
        (view.top > 0 and mask[:_EDGE].any())
        or (view.left > 0 and mask[:, :_EDGE].any())
        or (view.top + view.height < size[0] and mask[-_EDGE:].any())
        or (view.left + view.width < size[1] and mask[:, -_EDGE:].any())
    )


def _widened(size: tuple[int, int], choice: Choice, prompts: Prompts) -> Choice:
    """The choice before the last click, or the finest wider view if this is a foreground click outside of the view."""
    last = prompts.clicks[-1]
    if not last.positive or choice.view.holds(joined([last], size)):
        return choice
    bounds = joined([*prompts.boxes, *(each for each in prompts.clicks if each.positive)], size)
    for level in range(finest_level(size), 0, -1):
        view = view_about(size, bounds, level)
        if view.height > choice.view.height and view.holds(bounds):
            return Choice(view, "widened to hold all foreground prompts", choice.looks)
    return Choice(View.whole(size), "widened to hold all foreground prompts", choice.looks)
