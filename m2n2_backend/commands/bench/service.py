"""The server as a whole: round trips over HTTP, and many annotators at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from m2n2_backend.commands.bench.annotators import Request, load_figures, run_annotators
from m2n2_backend.commands.bench.check import check_masks
from m2n2_backend.commands.bench.client import Answer, Client
from m2n2_backend.commands.bench.options import BenchOptions
from m2n2_backend.commands.bench.photographs import center, jpeg, new_clicks, photograph
from m2n2_backend.commands.bench.server_process import Server, server
from m2n2_backend.commands.bench.timing import percentiles
from m2n2_backend.errors import NotReady
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click
from m2n2_backend.settings import Settings

_SWITCHES = 5
"""Most images that are returned to after a restart."""


def measure_service(segmenter: Segmenter, settings: Settings, folder: Path, options: BenchOptions) -> dict[str, Any]:
    """Measure a server with these settings.

    Args:
        segmenter: Of the same backbone and method, to compute every mask once more, alone.
        settings: Of the server.
        folder: Empty, for images and cache.
        options: Size and number of the images, annotators and seconds.

    Returns:
        ``service``; see :mod:`m2n2_backend.commands.bench`.

    Raises:
        BackboneUnavailable: The server did not become ready.
        NotReady: A single request was refused.
    """
    images, cache = folder / "images", folder / "cache"
    for path in (images, cache):
        path.mkdir()
    switched = max(1, min(options.repeats, _SWITCHES))
    names = [f"{number}.jpg" for number in range(switched + options.images)]
    for number, name in enumerate(names):
        (images / name).write_bytes(jpeg(photograph(*options.size, number)))
    start = partial(server, settings, images, cache, folder / "server.log", options.size)
    figures: dict[str, Any] = {}
    with start() as running:
        figures["start_seconds"] = running.start_seconds
        singles, times = _single_requests(running.client, names[:switched], options)
        figures |= {name: percentiles(values, 50, 95) for name, values in times.items()}
    with start() as running:
        returned = _first_clicks(running.client, names[:switched], options.size)
        figures["disk_image"] = percentiles([each.answer.milliseconds for each in returned], 50, 95)
        annotators, requests = _annotators(running, names[switched:], options)
    everything = [*singles, *returned, *requests]
    figures["annotators"] = {**annotators, "images": options.images, "count": options.annotators}
    return {**figures, "masks": check_masks(segmenter, everything, images, options.size)}


def _single_requests(
    client: Client, names: Sequence[str], options: BenchOptions
) -> tuple[list[Request], dict[str, list[float]]]:
    """One request at a time; times in milliseconds by kind."""
    requests = _first_clicks(client, names, options.size)
    times = {"new_image": [each.answer.milliseconds for each in requests], "new_click": [], "repeated_request": []}
    first = center(options.size)
    for number, click in enumerate(new_clicks(options.size, options.repeats)):
        for kind in ("new_click", "repeated_request"):
            request = _ask(client, names[-1], (first, click), f"single-{number}")
            times[kind].append(request.answer.milliseconds)
            requests.append(request)
    return requests, times


def _first_clicks(client: Client, names: Sequence[str], size: tuple[int, int]) -> list[Request]:
    return [_ask(client, name, (center(size),), "first") for name in names]


def _ask(client: Client, name: str, clicks: tuple[Click, ...], who: str) -> Request:
    answer: Answer = client.predict(name, clicks, who)
    if not answer.ok:
        raise NotReady(f"the server refused a single request: {answer.status} {answer.reason}")
    return Request(name, clicks, answer, first=False)


def _annotators(running: Server, names: Sequence[str], options: BenchOptions) -> tuple[dict[str, Any], list[Request]]:
    before, encoded = running.resident_mb(), running.metric("m2n2_worker_encoded_total")
    requests, seconds = run_annotators(
        running.client, names, options.size, annotators=options.annotators, seconds=options.seconds
    )
    figures = {
        "seconds": seconds,
        **load_figures(requests, seconds),
        "model_runs": running.metric("m2n2_worker_encoded_total") - encoded,
        "resident_mb_before": before,
        "resident_mb_after": running.resident_mb(),
    }
    return figures, requests
