"""The hyperparameters of the whole path, each with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.paper.markov import MAX_ITERATIONS, TAU
from m2n2_backend.m2n2.paper.threshold import PRIOR, Scores
from m2n2_backend.m2n2.paper.transition import MAX_SWEEPS, TEMPERATURE, TOLERANCE
from m2n2_backend.m2n2.paper.upsample import RADIUS, SAMPLES
from m2n2_backend.m2n2.refine.limits import KAPPA

LEAST_CELLS = 4.0
"""``least_cells`` of the service, and of ``refined`` in an evaluation."""

DESPECKLE = 1e-4
"""``despeckle`` of the service, and of ``refined`` in an evaluation."""

VIEWED_FROM = 1024
"""``views`` of ``refined`` in an evaluation; the service's is its working size."""

RelationName = Literal["markov", "attention", "kl"]

PHOTOGRAPH_SIZE = 1 << 16
"""A working size no photograph reaches: masks are computed at the photograph's own size."""

RELEASED_SWEEPS = 200
"""IPF sweeps of the released code, however large the deviation still is."""

_LONGEST = 60  # characters of a name and value in a message


def _number(why: str, **limits: Any) -> Any:
    """Limits of a field, with the reason in words that follow "as"."""
    return Field(description=why, allow_inf_nan=False, **limits)


def _count(why: str, **limits: Any) -> Any:
    return Field(description=why, **limits)


@dataclass(frozen=True)
class Hyperparameters:
    """Every choice between attention and mask; the defaults are the paper's where it states one.

    Attributes:
        relation: ``markov`` is M2N2; the others are the paper's baselines (Sec. 8).
        temperature: T of Eq. 5 for ``markov``; the baselines use 10 and 2.
        tolerance: IPF ends when no |row sum - 1| is larger.
        max_sweeps: Largest number of IPF sweeps.
        tau: τ of Eq. 6.
        max_iterations: Largest number of steps of the chain.
        doublings: k; the chain advances 2^k steps per pass. None decides by device and by how fast the chain mixes.
        half: Keep the powers of P in 16-bit. None does so on CUDA alone.
        batch: Chains of new clicks that run together; None decides by device.
        radius: Reach of the JBU window, in cells.
        samples: JBU guidance samples per side of a cell; 0 reads every pixel.
        flood_fill: False is the paper's "without flood fill".
        scores: Factors of Eq. 9.
        prior: Share of the image from which on s_prior is 0.
        fixed_threshold: Share of each map's maximum that is taken as λ instead of Eq. 8; 0.5 is the first row of
            the paper's Table 2.
        least_cells: Cells that a segment needs for its threshold to be a candidate; 0 admits all, as the paper does.
        working_size: Longest side, in pixels, at which steps 4 to 7 run; larger photographs are reduced for them.
        despeckle: Specks and holes of less than this share of the image are removed; 0 is the paper's exact output.
        refine: Answer the clicks in their order, each bounded by its radius, and let color decide in doubt
            and at the edge; False follows the paper.
        kappa: No click changes more than this many times the area of its circle (``refine.limits``).
        cut: After a foreground click, color counts in the whole object (``object_cut``); only with ``refine``.
        views: A photograph with a longer side, in pixels, is also looked at in views (``m2n2.views``), for objects
            that are small in it; 0 looks at the whole alone. Only with ``refine``.
        band: Width on either side of the mask's edge in which color decides, in cells; 0 leaves the edge as it is.
            None is the backbone's own ``band``, or half a cell where it has none.
        start: Where the chain starts: in the cell that holds the click, or in the four cells around it with
            bilinear weights (released code).
        crossing: How the step at which a cell crosses τ is interpolated; the two differ in the first step.
        ipf: ``plain`` sweeps end with the rows (released code); ``accelerated`` ones need far fewer.
        jbu: What bilateral upsampling samples at every pixel: the value of its ``cell``, or the bilinear
            ``solution`` over a disc of 3σ (released code); ``radius`` and ``samples`` have no effect there.
        rules: How the upsampled maps become a mask: normalization, candidates, scores and nearest neighbor;
            ``released`` follows the authors' code.
        half_softmax: Each head's softmax in 16-bit, on CUDA alone (released code).
    """

    relation: RelationName = "markov"
    temperature: Annotated[float, _number("32-bit numbers cannot tell cells apart beyond it", ge=0.01, le=100)] = (
        TEMPERATURE
    )
    tolerance: Annotated[float, _number("it is the deviation of a row sum from 1", ge=0, le=1)] = TOLERANCE
    max_sweeps: Annotated[int, _count("each sweep reads the whole matrix", ge=1, le=10_000)] = MAX_SWEEPS
    tau: Annotated[float, _number("it is a share of a chain's largest probability", gt=0, lt=1)] = TAU
    max_iterations: Annotated[int, _count("each step reads the whole matrix", ge=1, le=10_000)] = MAX_ITERATIONS
    doublings: Annotated[int | None, _count("each keeps one more matrix and doubles a block", ge=0, le=6)] = None
    half: bool | None = None
    batch: Annotated[int | None, _count("all chains that run together are held at once", ge=1, le=64)] = None
    radius: Annotated[
        int, _count("the table grows with its square, and cells further away weigh nothing", ge=1, le=4)
    ] = RADIUS
    samples: Annotated[int, _count("a cell has hardly more pixels a side; 0 reads all of them", ge=0, le=64)] = (
        SAMPLES
    )
    flood_fill: bool = True
    scores: Scores = field(default_factory=Scores)
    prior: Annotated[float, _number("it is a share of the image", gt=0, le=1)] = PRIOR
    fixed_threshold: Annotated[float | None, _number("it is a share of the map's maximum", gt=0, le=1)] = None
    least_cells: Annotated[float, _number("it is meant for segments of a few cells", ge=0, le=100)] = 0.0
    working_size: Annotated[
        int, _count("a smaller photograph shows nothing, and larger ones do not exist", ge=16, le=PHOTOGRAPH_SIZE)
    ] = 1024
    despeckle: Annotated[float, _number("it is a share of the image", ge=0, le=1)] = 0.0
    refine: bool = False
    kappa: Annotated[float, _number("it is a number of circles that fit into a photograph", gt=0, le=1e6)] = KAPPA
    cut: bool = True
    views: Annotated[int, _count("photographs have no longer side", ge=0, le=PHOTOGRAPH_SIZE)] = 0
    band: Annotated[float | None, _number("every pixel in the band is decided on its own", ge=0, le=4)] = None
    start: Literal["cell", "bilinear"] = "cell"
    crossing: Literal["interpolated", "released"] = "interpolated"
    ipf: Literal["accelerated", "plain"] = "accelerated"
    jbu: Literal["cell", "solution"] = "cell"
    rules: Literal["ours", "released"] = "ours"
    half_softmax: bool = False

    def __post_init__(self) -> None:
        """Refuse values without meaning, and convert numbers of other libraries to Python's.

        Raises:
            SettingsError: A value is out of its range or of another type, or the released rules are combined with
                something that the released code lacks.
        """
        if not isinstance(self.scores, Scores):
            raise SettingsError(f"scores={_text(self.scores)}: expected Scores(…)")
        for name in hyperparameter_types():
            given = attrgetter(name)(self)
            value = _checked(name, f"{name}={_text(given)}", given)
            outer, _, inner = name.partition(".")
            object.__setattr__(self, outer, replace(self.scores, **{inner: value}) if inner else value)
        lacking = [name for name in ("refine", "despeckle", "least_cells") if getattr(self, name)]
        if self.rules == "released" and lacking:
            raise SettingsError(
                f"rules=released does not go with {', '.join(lacking)}: the released code has nothing like it"
            )

    @classmethod
    def released(cls) -> Hyperparameters:
        """The authors' released code, which made the paper's figures, in every step after the model.

        Its backbones also prepare the image in their own way: ``load_backbone(…, released=True)``.
        """
        return cls(
            tolerance=0.0,
            max_sweeps=RELEASED_SWEEPS,
            doublings=0,
            half=False,
            working_size=PHOTOGRAPH_SIZE,
            start="bilinear",
            crossing="released",
            ipf="plain",
            jbu="solution",
            rules="released",
            half_softmax=True,
        )


def with_values(method: Hyperparameters, values: Sequence[str]) -> Hyperparameters:
    """Replace some hyperparameters of a method.

    Args:
        values: ``NAME=VALUE`` each; ``scores.edge=false`` for a factor of Eq. 9, ``none`` for None. The last value of
            a name counts.

    Raises:
        SettingsError: A name is unknown, or a value is of another type or out of its range.
    """
    for text in values:
        name, equals, value = text.partition("=")
        known = hyperparameter_types()
        if not equals or name not in known:
            raise SettingsError(f"{text}: expected NAME=VALUE with one of {', '.join(known)} as NAME")
        parsed = _checked(name, text, None if value.lower() == "none" else value)
        outer, _, inner = name.partition(".")
        method = replace(method, **{outer: replace(getattr(method, outer), **{inner: parsed}) if inner else parsed})
    return method


@cache
def hyperparameter_types() -> Mapping[str, Any]:
    """Types of all hyperparameters by name, with their limits; a field of ``scores`` is named ``scores.edge``."""
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(Hyperparameters, include_extras=True).items():
        inner = get_type_hints(hint) if is_dataclass(hint) else {}
        types |= {f"{name}.{own}": type_ for own, type_ in inner.items()} or {name: hint}
    return MappingProxyType(types)


@cache
def _validator(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(hyperparameter_types()[name])


def _checked(name: str, text: str, value: object) -> Any:
    """The value of the hyperparameter ``name`` as Python's own type.

    Args:
        text: Name and value as a message shows them.

    Raises:
        SettingsError: The value has another type, or is out of its range; the message says why.
    """
    try:
        return _validator(name).validate_python(value)
    except ValidationError as error:
        reasons = [each.description for each in getattr(hyperparameter_types()[name], "__metadata__", ())]
        message = error.errors()[0]["msg"]
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        sentence = f"{shown}: {message[0].lower()}{message[1:]}"
        raise SettingsError(", as ".join([sentence, *reasons])) from error


def _text(value: object) -> str:
    """A value as one line of text."""
    try:
        return " ".join(str(value).split())
    except ValueError:  # Python does not write numbers of more than 4300 digits
        return "a number of thousands of digits"
