"""Annotators as a closed loop: each clicks, waits for the mask, and clicks again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from m2n2_backend.commands.bench.client import NO_ANSWER, Answer, Client
from m2n2_backend.commands.bench.timing import percentiles
from m2n2_backend.prompts import Click

MOST_CLICKS = 4
"""An annotator makes one to so many clicks on an object."""

_FOREGROUND = 0.6  # share of the clicks after the first, which always is


@dataclass(frozen=True)
class Request:
    """One of an annotator's requests.

    Attributes:
        image: Name of the file.
        clicks: All of the object so far.
        answer: What came back.
        first: Whether nobody had asked about this image before.
    """

    image: str
    clicks: tuple[Click, ...]
    answer: Answer
    first: bool


def run_annotators(
    client: Client, images: Sequence[str], size: tuple[int, int], *, annotators: int, seconds: float
) -> tuple[list[Request], float]:
    """Let them click; each one's choice of images and clicks is the same in every run.

    Args:
        client: Of a server that is ready.
        images: Names of the files.
        size: Width and height of all of them.
        annotators: Threads.
        seconds: After which nobody begins another request.

    Returns:
        All requests, and the seconds until the last one was answered.
    """
    started = time.monotonic()
    room = _Room(client, images, size, started + seconds)
    threads = [threading.Thread(target=room.annotate, args=(number,)) for number in range(annotators)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return room.requests, time.monotonic() - started


def load_figures(requests: Sequence[Request], seconds: float) -> dict[str, Any]:
    """Counts, throughput and latencies of the answered requests."""
    answered = [request for request in requests if request.answer.ok]
    failed = [request.answer for request in requests if not request.answer.ok]
    kinds = {
        "latency_ms": answered,
        "new_image_ms": [request for request in answered if request.first],
        "known_image_ms": [request for request in answered if not request.first],
    }
    return {
        "requests": len(requests),
        "answered": len(answered),
        "images_asked": len({request.image for request in requests}),
        "errors": dict(Counter(answer.status for answer in failed)),
        "first_error": failed[0].reason if failed else None,
        "throughput_per_second": len(answered) / seconds,
        **{name: percentiles([each.answer.milliseconds for each in of], 50, 95, 99) for name, of in kinds.items()},
    }


class _Room:
    """What the annotators share."""

    def __init__(self, client: Client, images: Sequence[str], size: tuple[int, int], until: float) -> None:
        self.requests: list[Request] = []
        self._client = client
        self._images = images
        self._size = size
        self._until = until
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def annotate(self, number: int) -> None:
        """Objects one after the other until the time is over or the server is gone."""
        generator = random.Random(number)
        objects = 0
        while time.monotonic() < self._until:
            image = generator.choice(self._images)
            clicks = self._object(generator)
            objects += 1
            for count in range(1, len(clicks) + 1):
                if time.monotonic() >= self._until:
                    return
                first = self._is_first(image)
                answer = self._client.predict(image, clicks[:count], f"a{number}-{objects}")
                with self._lock:
                    self.requests.append(Request(image, clicks[:count], answer, first))
                if answer.status == NO_ANSWER:
                    return

    def _object(self, generator: random.Random) -> tuple[Click, ...]:
        count = generator.randint(1, MOST_CLICKS)
        places = [(generator.randrange(self._size[0]), generator.randrange(self._size[1])) for _ in range(count)]
        return tuple(
            Click(x, y, index == 0 or generator.random() < _FOREGROUND) for index, (x, y) in enumerate(places)
        )

    def _is_first(self, image: str) -> bool:
        with self._lock:
            first = image not in self._asked
            self._asked.add(image)
            return first
