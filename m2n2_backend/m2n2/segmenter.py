"""Clicks → mask: the steps of the paper in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.images import rgb_of
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.hyperparameters import Hyperparameters
from m2n2_backend.m2n2.paper.attention import Backbone, aggregate
from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.prompt_maps import cell_maps, place_of, prompt_maps, start_at
from m2n2_backend.m2n2.refine.band import WIDTH
from m2n2_backend.m2n2.refine.confidence import Calibration
from m2n2_backend.m2n2.refine.object_cut import CoarseGraph
from m2n2_backend.m2n2.refine.rule import RefinedRule
from m2n2_backend.m2n2.refine.steps import Refinement
from m2n2_backend.m2n2.released.strategy import ReleasedRule, with_released_steps
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.semantic_distance import semantic_distance_of
from m2n2_backend.m2n2.state import EncodedImage, ImageState, PromptMap, Views
from m2n2_backend.m2n2.strategy import EarlySteps, PaperRule, Rule, least_area, never, transition_of
from m2n2_backend.m2n2.views.choice import ViewRule
from m2n2_backend.m2n2.views.view import View, finest_level
from m2n2_backend.prompts import Click, PointPrompt, Prompts, Region
from m2n2_backend.rasters import reduced

VIEW_BYTES = 256 * 1024**2
"""Bytes of the states of one photograph's views that ``encode`` keeps: three to five at grid 40."""


class Segmenter:
    """Stateless: ``encode`` once per photograph, ``segment`` for every set of prompts.

    Attributes:
        backbone: The model that encodes photographs.
        method: All hyperparameters.
        band: The method's ``band``, or the backbone's.
    """

    def __init__(self, backbone: Backbone, method: Hyperparameters | None = None) -> None:
        self.backbone = backbone
        self.method = method or Hyperparameters()
        own = getattr(backbone, "band", WIDTH)
        self.band: float = own if self.method.band is None else self.method.band
        calibration = getattr(backbone, "calibration", Calibration())
        self._steps, self._rule = _strategy(self.method, self.band, calibration)

    def encode(self, picture: Any) -> ImageState:
        """Run the model and prepare for clicks: steps 1 and 2, and the JBU operator.

        Args:
            picture: A PIL image, uint8 [H, W, 3], or another image that :func:`m2n2_backend.images.rgb_of` takes.

        Raises:
            InvalidImage: It is not a photograph.
        """
        rgb = rgb_of(picture)
        state = self.prepare(self.extract(rgb))
        size = state.size
        if not self.is_viewed(size):
            return state
        whole, kept = View.whole(size), ByteCache[ImageState](VIEW_BYTES)

        def state_of(view: View) -> ImageState:
            if view == whole:
                return state
            own = kept.get(str(view))
            if own is None:
                own = self.prepare(self.extract(view.crop(rgb)))
            kept.put(str(view), own)  # again: it has grown by the maps of its clicks
            return own

        return replace(state, views=Views(size, state_of))

    def is_viewed(self, shape: tuple[int, ...]) -> bool:
        """Whether a photograph, [H, W] or [H, W, 3], is also looked at in views."""
        size = shape[0], shape[1]
        return self.method.refine and 0 < self.method.views < max(size) and finest_level(size) > 0

    def extract(self, picture: Any) -> EncodedImage:
        """Run the model: the part of ``encode`` that is worth keeping on disk.

        Args:
            picture: An image as ``encode`` takes it.

        Raises:
            InvalidImage: It is not a photograph.
        """
        rgb = rgb_of(picture)
        features = self.backbone.features(rgb)
        return EncodedImage((rgb.shape[0], rgb.shape[1]), features, reduced(rgb, self.method.working_size))

    @torch.inference_mode()
    def prepare(self, encoded: EncodedImage, upsample: JointBilateral | None = None) -> ImageState:
        """Build what clicks need: matrix (steps 1 and 2) and JBU operator.

        Args:
            encoded: The output of ``extract`` of a segmenter with equal backbone and working size.
            upsample: The operator of an earlier state of the same photograph, if it is still in memory.

        Raises:
            FloatingPointError: The features are not finite.
        """
        features, steps = encoded.features, self._steps
        half = steps.half_softmax and self.backbone.device.type == "cuda"
        attention = aggregate(features, self.backbone.device, half_softmax=half)
        relation = semantic_distance_of(attention, self.method, steps.fit, steps.crossing)
        # An accelerator is still busy with the powers of the matrix, for which nothing has waited yet.
        upsample = upsample or self.joint_bilateral(encoded)
        return ImageState(
            size=encoded.size,
            grid=(features.height, features.width),
            relation=relation,
            upsample=upsample,
            device=attention.device,
            start=steps.start,
            guide=encoded.guide,
            copy=CoarseGraph.of(encoded.guide) if self.method.refine and self.method.cut else None,
        )

    def joint_bilateral(self, encoded: EncodedImage) -> JointBilateral:
        """The JBU operator of one photograph."""
        return self._steps.upsampling(encoded.guide, encoded.features.height, encoded.features.width)

    @torch.inference_mode()
    def segment(
        self,
        state: ImageState,
        clicks: PointPrompt | Sequence[PointPrompt] = (),
        box: Region | Sequence[Region] | None = None,
        *,
        pause: Callable[[], bool] = never,
    ) -> Segmentation:
        """Steps 3 to 7, for each prefix of the prompts in turn if the method refines (see ``refine.steps``).

        Args:
            state: The image, encoded by the same segmenter.
            clicks: One or several, also scribbles, in pixels of the photograph; each computes a map once per image.
            box: A box or polygon: the object lies inside, or a part of it in each of several; needs
                ``relation="markov"``.
            pause: Called between two prefixes; True ends the call early.

        Raises:
            InvalidPrompt: A prompt lies outside the photograph, none is foreground, there are too many, there is a
                box without the Markov relation, or a box or scribble for the released code, which has neither.
            Paused: ``pause`` returned True.
        """
        clicks = (clicks,) if isinstance(clicks, PointPrompt) else clicks
        boxes = (box,) if isinstance(box, Region) else tuple(box or ())
        prompts = Prompts(tuple(clicks), boxes)
        prompts.validate(state.size[1], state.size[0])
        if state.views is not None:
            return self.segment_views(state.views, prompts, pause=pause)
        return self._rule.segment(state, prompts, pause)

    @torch.inference_mode()
    def segment_views(self, views: Views, prompts: Prompts, *, pause: Callable[[], bool] = never) -> Segmentation:
        """The same for a photograph whose states somebody else keeps; it raises what ``views.state_of`` raises."""
        if not isinstance(self._rule, RefinedRule):
            raise ValueError("only a method that refines has views")
        prompts.validate(views.size[1], views.size[0])
        return ViewRule(self._rule).segment(views, prompts, pause)

    @torch.inference_mode()
    def refined_step(self, state: ImageState, prompts: Prompts) -> Refinement:
        """The refinement behind the answer of ``segment``, with the bound of the last click.

        Raises:
            ValueError: The method does not refine.
            InvalidPrompt: ``segment`` would refuse the prompts.
        """
        if not isinstance(self._rule, RefinedRule):
            raise ValueError("only a method that refines has steps")
        prompts.validate(state.size[1], state.size[0])
        return self._rule.refinement(state, prompts)

    def prompt_map(self, state: ImageState, click: PointPrompt) -> PromptMap:
        """M' and threshold profile of one click or scribble, which ``segment`` then finds in the memo.

        Raises:
            InvalidPrompt: The prompt lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        return prompt_maps(self.method, state, [place_of(state, click)])[0]

    @torch.inference_mode()
    def attention(self, picture: Any) -> NDArray[np.float32]:
        """A, the weighted mean of the model's self-attentions (Eq. 3): float32 [n, n], rows sum to 1. Runs the model.

        Args:
            picture: An image as ``encode`` takes it.
        """
        return np.asarray(aggregate(self.backbone.features(rgb_of(picture)), self.backbone.device).cpu())

    def transition_matrix(self, state: ImageState) -> NDArray[np.float32]:
        """P (Eq. 5 and IPF): float32 [n, n], rows and columns sum to 1; cells go row by row.

        Raises:
            InvalidPrompt: The method is a baseline, which has none.
        """
        return np.asarray(transition_of(state).matrix.cpu())

    @torch.inference_mode()
    def markov_map(self, state: ImageState, click: Click, *, upsampled: bool = True) -> NDArray[np.float32]:
        """M of a click (Eq. 6), in steps of the chain: float32 [H', W'] at working size, or [h, w] before the JBU.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        Prompts((click,)).check_inside(state.size[1], state.size[0])
        start = start_at(state, place_of(state, click))
        small = cell_maps(self.method, state, [start])[start]
        return state.upsample.apply(small) if upsampled else small.copy()

    def flooded_map(self, state: ImageState, click: Click) -> NDArray[np.float32]:
        """M' of a click (Algorithm 1), in steps of the chain: float32 [H', W'] at working size, 0 at the click.

        Raises:
            InvalidPrompt: The click lies outside the photograph.
        """
        own = self.prompt_map(state, click)
        return own.levels * np.float32(own.step)

    def least_area(self, state: ImageState) -> float:
        """Share of the image below which a segment is not a candidate."""
        return least_area(self.method, state)


def _strategy(method: Hyperparameters, band: float, calibration: Calibration) -> tuple[EarlySteps, Rule]:
    """The steps before the maps, and the rule that makes a mask of them: the only place that picks between them."""
    steps = with_released_steps(EarlySteps.of_paper(method), method)
    if method.rules == "released":
        return steps, ReleasedRule(method)
    return steps, RefinedRule(method, band, calibration) if method.refine else PaperRule(method)
