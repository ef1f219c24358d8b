"""Stand-ins for what surrounds the app: a model that draws discs, media, requests, settings, and a server for it."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from fake_label_studio import HEIGHT, WIDTH, FakeLabelStudio, png
from flask import Flask
from numpy.typing import NDArray
from werkzeug.serving import make_server

from m2n2_backend.errors import BackboneUnavailable, ImageNeeded, NotReady
from m2n2_backend.images import decode_image
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader
from m2n2_backend.prompts import Prompts
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.figures import Figures, Tier, WorkerStats
from m2n2_backend.worker.interface import Answer, SourceImage, Status, Subject, Work


def labels(*names: str) -> str:
    return "".join(f'<Label value="{name}"/>' for name in names)


CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image" smart="false">{labels("Cat", "Dog")}</BrushLabels>
<KeyPointLabels name="kp" toName="image" smart="true">{labels("Cat", "Dog", "Cow")}</KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true">{labels("Cat", "Dog")}</RectangleLabels></View>"""


def key_point(x: Any = 50.0, y: Any = 50.0, label: str = "Cat", *, id: str = "kp1", **fields: Any) -> dict[str, Any]:
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.23, "labels": [label], "keypointlabels": [label]},
        "is_positive": True,
        "id": id,
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
        **fields,
    }


def rectangle(x: Any, y: Any, width: Any, height: Any, *, rotation: Any = 0, **fields: Any) -> dict[str, Any]:
    value = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "rotation": rotation,
        "rectanglelabels": ["Cat"],
    }
    item = key_point(id="rect1", value=value, from_name="rect", type="rectanglelabels")
    del item["is_positive"]
    return {**item, **fields}


def payload(*items: Any, image: Any = "/data/upload/1/a.png", config: str = CONFIG, **task: Any) -> dict[str, Any]:
    """The body of an interactive /predict."""
    return {
        "tasks": [{"id": 7, "data": {"image": image}, "drafts": [], "annotations": [], "predictions": [], **task}],
        "project": "1.1795354407",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(items)}},
    }


class DiscPool:
    """A pool whose mask is a disc around the newest positive click, or the box."""

    def __init__(self, state: str = "ready", radius: float = 8.0) -> None:
        self.state = state
        self.radius = radius
        self.calls: list[tuple[SourceImage, Prompts]] = []
        self.subjects: list[Subject | None] = []
        self.prefetched: list[SourceImage] = []
        self.closed = False
        self.encode_seconds = 0.5
        self.known: dict[str, tuple[int, ...]] = {}

    def segment(self, work: Work) -> Answer:
        image, prompts = work.image, work.prompts
        assert prompts is not None
        self.calls.append((image, prompts))
        self.subjects.append(work.subject)
        if self.state == "loading":
            raise NotReady("the model is still loading")
        if self.state == "failed":
            raise BackboneUnavailable("no weights: run m2n2-backend fetch-weights")
        if work.seconds <= 0:
            raise NotReady("the deadline passed")
        if image.data is None and image.key not in self.known:
            raise ImageNeeded("the file is needed")
        if image.data is not None:
            self.known[image.key] = decode_image(image.data, max_pixels=10**8).shape[:2]
        height, width = self.known[image.key]
        prompts.validate(width, height)
        return Answer(self.mask(prompts, width, height), 0.875, "disc-1", {})

    def mask(self, prompts: Prompts, width: int, height: int) -> NDArray[np.bool_]:
        mask = np.zeros((height, width), bool)
        rows, columns = np.ogrid[:height, :width]
        for click in [click for click in prompts.clicks if click.positive][-1:]:
            mask |= (columns - click.x) ** 2 + (rows - click.y) ** 2 < self.radius**2
        for box in prompts.boxes:
            mask[box.y0 : box.y1, box.x0 : box.x1] = True
        return mask

    def status(self) -> Status:
        detail = "no weights: run m2n2-backend fetch-weights" if self.state == "failed" else ""
        return Status(self.state, "disc-1", "discs", "paper", detail)  # type: ignore[arg-type]

    def prefetch(self, image: SourceImage) -> bool:
        self.prefetched.append(image)
        return True

    def stats(self) -> list[WorkerStats]:
        tiers = {name: Tier(10, 100, 1, 5, 3, 2) for name in ("device", "memory", "disk")}
        figures = Figures(
            waiting=4,
            superseded=2,
            refused=6,
            encoded=7,
            encode_seconds=self.encode_seconds,
            age=1.5,
            rss=8000,
            tiers=tiers,
            view="view 481x321 at 962,0 (about the box)",
        )
        return [WorkerStats("paper", self.state == "ready", figures, restarts=1, timed_out=3, silence=0.5)]

    def close(self) -> None:
        self.closed = True


class CountingMedia:
    """An image reader that always reads the same picture, and keeps the addresses that it was given."""

    def __init__(self) -> None:
        self.refs: list[ImageRef] = []
        self._reader = MediaReader(settings())

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        self.refs.append(ref)
        return self._reader.fetch(ImageRef(data_url(png())))

    def host(self, ref: ImageRef) -> str:
        return self._reader.host(ref)

    def close(self) -> None:
        pass


def settings(**overrides: Any) -> Settings:
    return load_settings(**{"deadline": 60.0, "download_timeout": 30.0, **overrides})


def reader(studio: FakeLabelStudio | None = None, key: str | None = None, **overrides: Any) -> MediaReader:
    """A reader of images whose settings name a Label Studio and its token."""
    url = studio.url if studio else None
    return MediaReader(settings(label_studio_url=url, label_studio_api_key=key, **overrides))


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@contextmanager
def serving(app: Flask) -> Iterator[int]:
    """Serve the app on a real socket; yields its port."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(
    port: int, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
) -> tuple[int, str, bytes]:
    """Send one request; returns the status, the reason phrase and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers.setdefault("Content_Type", "application/json")
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.reason, response.read()
    finally:
        connection.close()
