"""Objects are counted once each, and only where a predictor has a meter."""

from __future__ import annotations

from typing import Any

import pytest
from label_studio_fakes import CountingMedia, DiscPool, key_point
from questions import asked
from waiting import soon

from m2n2_backend.errors import NotReady
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.labelstudio.meter import Meter
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.worker.interface import Answer, SourceImage, Work


class ReluctantMedia(CountingMedia):
    """Reads the file only where it is needed."""

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        image = super().fetch(ref, deadline=deadline)
        return image if data_needed else image.without_data()


class Counted:
    """A meter of one place, and the outcomes that it counted."""

    def __init__(self, pool: DiscPool) -> None:
        self.outcomes: list[Any] = []
        self.meter = Meter(self._count, pool.stats, at_once=1, most_bytes=10**6)

    def _count(self, work: Work, answer: Answer | None, error: Exception | None) -> None:
        self.outcomes.append(type(error) if error else answer)


def predicted(predictor: Predictor) -> list[Any]:
    return predictor.predict(asked(key_point()), deadline=soon())


def test_an_object_that_is_asked_for_again_with_its_file_is_counted_once() -> None:
    pool = DiscPool()
    counted = Counted(pool)
    (found,) = predicted(Predictor(pool, ReluctantMedia(), meter=counted.meter))
    assert len(pool.calls) == 2
    assert [answer.score for answer in counted.outcomes] == [found["score"]]


def test_an_error_of_the_model_is_counted_and_its_place_is_free_again() -> None:
    pool = DiscPool("loading")
    counted = Counted(pool)
    predictor = Predictor(pool, CountingMedia(), meter=counted.meter)
    for _ in range(2):
        with pytest.raises(NotReady, match="still loading"):
            predicted(predictor)
    assert counted.outcomes == [NotReady, NotReady]


def test_a_click_that_finds_no_place_is_counted_and_a_predictor_without_a_meter_asks_the_model_anyway() -> None:
    pool = DiscPool()
    counted = Counted(pool)
    image = CountingMedia().fetch(ImageRef("/a.png"), deadline=soon())
    with counted.meter.place(Work(image, None)):
        with pytest.raises(NotReady, match="busy: 1 clicks wait for the model"):
            predicted(Predictor(pool, CountingMedia(), meter=counted.meter))
        assert predicted(Predictor(pool, CountingMedia()))
    assert counted.outcomes == [NotReady]
