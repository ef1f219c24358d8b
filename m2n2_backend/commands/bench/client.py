"""An interactive request as Label Studio sends it, and what comes back."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray

from m2n2_backend.prompts import Click
from m2n2_backend.resources import label_config

NO_ANSWER = "no answer"
"""Status of a request that broke off."""

_TIMEOUT = 120.0  # seconds; the server gives up earlier


@dataclass(frozen=True)
class Answer:
    """One request's end.

    Attributes:
        status: HTTP status as text, or ``NO_ANSWER``.
        reason: Its phrase.
        milliseconds: From the connection to the last byte.
        rle: Brush RLE of the first region; empty where there is none.
    """

    status: str
    reason: str
    milliseconds: float
    rle: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a prediction."""
        return self.status == "200"


class Client:
    """Asks one server; threads share it, every request has its own connection as Label Studio's have."""

    def __init__(self, port: int, size: tuple[int, int]) -> None:
        self._port = port
        self._size = size
        self._config = label_config("brush").read_text(encoding="utf-8")

    def predict(self, image: str, clicks: Sequence[Click], who: str = "bench") -> Answer:
        """One /predict; never raises for what the server or the connection does.

        Args:
            image: Name of a file below the server's local files, such as 7.jpg; the number is the task's id.
            clicks: All of the object so far.
            who: Makes the ids of the prompts, which tell objects and annotators apart.
        """
        body = json.dumps(self._body(image, clicks, who)).encode()
        started = time.perf_counter()
        try:
            status, reason, data = self.call("POST", "/predict", body)
        except (OSError, http.client.HTTPException) as error:
            return Answer(NO_ANSWER, type(error).__name__, (time.perf_counter() - started) * 1e3, b"")
        milliseconds = (time.perf_counter() - started) * 1e3
        return Answer(str(status), reason, milliseconds, _rle(data) if status == 200 else b"")

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        """Status, reason phrase and body of any request.

        Raises:
            OSError: No connection.
            http.client.HTTPException: It broke off.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.reason, response.read()
        finally:
            connection.close()

    def _body(self, image: str, clicks: Sequence[Click], who: str) -> dict[str, Any]:
        items = [self._item(click, f"{who}-{index}") for index, click in enumerate(clicks)]
        task = {"id": int(image.partition(".")[0]), "data": {"image": f"/data/local-files/?d={image}"}}
        return {
            "tasks": [{**task, "drafts": [], "annotations": [], "predictions": []}],
            "project": "1.1700000000",
            "label_config": self._config,
            "params": {"login": None, "password": None, "context": {"result": items}},
        }

    def _item(self, click: Click, item_id: str) -> dict[str, Any]:
        width, height = self._size
        place = {"x": 100 * (click.x + 0.5) / width, "y": 100 * (click.y + 0.5) / height, "width": 0.3}
        return {
            "id": item_id,
            "type": "keypointlabels",
            "from_name": "keypoint",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "is_positive": click.positive,
            "origin": "manual",
            "value": {**place, "labels": ["Object"], "keypointlabels": ["Object"]},
        }


def decode_mask(rle: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Brush RLE → bool [H, W] for an image's width and height; no RLE is an empty mask."""
    if not rle:
        return np.zeros(size[::-1], np.bool_)
    pixels = np.asarray(decode_rle(list(rle)))
    return pixels.reshape(size[1], size[0], 4)[..., 3] > 0


def _rle(data: bytes) -> bytes:
    regions = json.loads(data)["results"][0]["result"]
    return bytes(regions[0]["value"]["rle"]) if regions else b""
