"""Hyperparameters: each has a range, and whatever lies within it gives masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from fake_backbone import FakeBackbone, scene
from small_data_set import one_thread

from m2n2_backend.errors import SettingsError
from m2n2_backend.m2n2.hyperparameters import Hyperparameters, hyperparameter_types, with_values
from m2n2_backend.m2n2.paper.threshold import Scores
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click
from m2n2_backend.settings import Settings

BASES = {"paper": Hyperparameters(), "refined": Hyperparameters(refine=True), "released": Hyperparameters.released()}

ODD = (math.nan, math.inf, -math.inf, -1, -1e-300, 0, 1e-300, 0.5, 1, 1.5, 2, 3, 40, 10**6, 1e300, 10**400, 10**5000,
       "", "x", "0.5", "nan", "1e999", None, True, False, b"1", (), [1], {}, 1j, object(), np.nan, np.float32(0.5),
       np.int64(2), np.bool_(True), np.arange(3))  # fmt: skip


def limits(wanted: Any) -> dict[str, Any]:
    """The ends of a range by kind: ``ge``, ``gt``, ``le``, ``lt``."""
    return {
        kind: getattr(own, kind)
        for field in getattr(wanted, "__metadata__", ())
        for own in field.metadata
        for kind in ("ge", "gt", "le", "lt")
        if hasattr(own, kind)
    }


def plain(wanted: Any) -> set[type]:
    """The types that a hyperparameter may have: ``float | None`` without its range → float, None."""
    inner = get_args(wanted)[0] if hasattr(wanted, "__metadata__") else wanted
    return {type(None) if each is None else each for each in (get_args(inner) or (inner,))}


def changed(base: Hyperparameters, name: str, value: object) -> Hyperparameters:
    outer, _, inner = name.partition(".")
    return replace(base, **{outer: Scores(**{inner: value}) if inner else value})  # type: ignore[arg-type]


def run(method: Hyperparameters) -> None:
    """On a photograph of a few pixels."""
    segmenter = Segmenter(FakeBackbone(4, 5), method)
    state = segmenter.encode(np.ascontiguousarray(scene()[::3, ::3]))
    found = segmenter.segment(state, [Click(8, 10), Click(24, 3, positive=False), Click(12, 12)])
    assert found.mask.shape == (20, 30)
    assert math.isfinite(found.score)
    assert all(map(math.isfinite, found.thresholds))
    if method.rules != "released" and method.relation == "markov":
        segmenter.segment(state, [], Box(3, 3, 20, 18))


def made(make: Callable[[], Hyperparameters]) -> Hyperparameters | None:
    """The method; None where it is refused in one sentence. Any other error is raw."""
    try:
        return make()
    except SettingsError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 250
    return None


@pytest.mark.parametrize("name", hyperparameter_types())
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_every_odd_value_is_refused_in_one_sentence_or_gives_a_mask(name: str, base: Hyperparameters) -> None:
    wanted = hyperparameter_types()[name]
    ends = [value for end in limits(wanted).values() for value in (end, *(math.nextafter(end, to) for to in (0, 9)))]
    choices = get_args(wanted) if get_origin(wanted) is Literal else ()
    from_python = (made(partial(changed, base, name, value)) for value in (*ODD, *ends, *choices))
    texts = [
        f"{name}={value}" for value in (*ODD, *ends, *choices) if not (isinstance(value, int) and value > 10**4300)
    ]
    from_text = (made(partial(with_values, base, [text])) for text in texts)
    accepted = {*from_python, *from_text} - {None}

    assert accepted
    with one_thread():
        for method in accepted:
            run(method)


def test_every_number_has_a_range_and_a_reason_and_no_other_number_is_taken() -> None:
    for name, wanted in hyperparameter_types().items():
        if not plain(wanted) & {int, float}:
            continue
        ends = limits(wanted)
        assert {"ge", "gt"} & set(ends), name
        assert {"le", "lt"} & set(ends), name
        (field,) = wanted.__metadata__
        beyond = [ends.get("ge", ends.get("gt")) - 1, ends.get("le", ends.get("lt")) + 1]
        for value in (*beyond, math.nan, math.inf, -math.inf):
            for attempt in (
                lambda: changed(Hyperparameters(), name, value),  # noqa: B023
                lambda: with_values(Hyperparameters(), [f"{name}={value}"]),  # noqa: B023
            ):
                with pytest.raises(SettingsError) as refusal:
                    attempt()
                assert str(refusal.value).startswith(f"{name}={value}: ")
                assert str(refusal.value).endswith(f", as {field.description}")


def test_values_of_numpy_and_of_the_command_line_become_pythons_own() -> None:
    swept = Hyperparameters(temperature=np.float32(0.5), radius=np.int64(3), scores=Scores(edge=np.bool_(False)))  # type: ignore[arg-type]

    assert swept == with_values(Hyperparameters(), ["temperature=0.5", "radius=3", "scores.edge=no"])
    with pytest.raises(SettingsError, match="Scores"):
        Hyperparameters(scores={"edge": False})  # type: ignore[arg-type]
    assert (type(swept.temperature), type(swept.radius), swept.scores.edge) == (float, int, False)


@pytest.mark.parametrize("name", ["working_size", "despeckle", "least_cells"])
def test_whatever_the_settings_allow_the_method_takes(name: str) -> None:
    ends = [
        getattr(own, kind)
        for own in Settings.model_fields[name].metadata
        for kind in ("ge", "le")
        if hasattr(own, kind)
    ]

    assert len(ends) == 2
    assert [getattr(Hyperparameters(**{name: end}), name) for end in ends] == ends
