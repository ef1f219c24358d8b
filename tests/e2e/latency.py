"""``make latency``: measures how long a click waits for its mask in the browser, beside a backend without a model."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import rig
from editor import Editor
from label_studio_sdk.converter.brush import mask2rle
from pictures import DISC, disc, scene
from PIL import Image

SIZE = (1600, 1200)
CLICKS = 10
_FACTOR = SIZE[0] // 640

# Frame by frame after the mouse goes down, until a layer has the label's blue at a pixel of the red disc.
_PAINTED = """([x, y]) => new Promise(resolve => {
  const stage = m2n2.image().stageRef;
  const [a, , , d, e, f] = stage.getAbsoluteTransform().getMatrix();
  const blue = () => stage.getLayers().some(layer => {
    const canvas = layer.getCanvas(), ratio = canvas.getPixelRatio();
    const left = ratio * (a * x * m2n2.image().stageWidth + e), top = ratio * (d * y * m2n2.image().stageHeight + f);
    const [red, , blue] = canvas._canvas.getContext('2d').getImageData(left, top, 1, 1).data;
    return blue > red + 60;
  });
  window.addEventListener('mousedown', () => {
    const start = performance.now();
    const look = () => blue() ? resolve(performance.now() - start) : requestAnimationFrame(look);
    look();
  }, {once: true, capture: true});
})"""


def main() -> None:
    """Measure both in one run and print the medians and their difference."""
    reason = rig.missing()
    if reason:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder, rig.running_studio(Path(folder)) as studio:
        image = Path(folder) / "large.jpg"
        scene(SIZE).save(image, quality=92)
        with rig.running_browser() as browser, rig.running_backend(studio, studio.account.token) as backend:
            login = rig.log_in(browser, studio)
            with _stub() as stub_url:
                found = {}
                for name, url in (("stub", stub_url), ("color", backend.url)):
                    number, (task,) = studio.project(f"latency {name}", "brush", [image], url)
                    editor = Editor(browser, studio.url, login)
                    editor.open(number, task)
                    found[name] = [_milliseconds(editor, index) for index in range(CLICKS)]
                    editor.close(rig.OUT / f"latency_{name}.png")
    print(f"click → painted mask, {SIZE[0]}x{SIZE[1]}, {CLICKS} clicks, milliseconds")
    for name, times in found.items():
        print(f"{name:>10}: median {statistics.median(times):4.0f}, all {[round(each) for each in times]}")
    fast, ours = (statistics.median(times) for times in found.values())
    print(f"difference: {ours - fast:.0f} (the goal is 250); the first click also prepares the photograph")


def _milliseconds(editor: Editor, index: int) -> float:
    """Make a first click on the disc, wait until its mask is painted, and reject it."""
    x, y = _FACTOR * DISC[0] + 9 * index, _FACTOR * DISC[1] + 7 * index
    probe = [(_FACTOR * DISC[0]) / SIZE[0], (_FACTOR * (DISC[1] - 60)) / SIZE[1]]
    editor.choose_label("Object")
    editor.page.evaluate(f"probe => {{ window.m2n2painted = ({_PAINTED})(probe); }}", probe)
    editor.press(x, y)
    milliseconds = float(editor.page.evaluate("window.m2n2painted"))
    editor.page.get_by_test_id("bottombar-reject-suggestions-button").click()
    editor.page.wait_for_function("m2n2.suggestions().length === 0")
    editor.page.get_by_test_id("bottombar-reset-button").click()
    editor.page.wait_for_function("m2n2.regions().length === 0")
    return milliseconds


@contextmanager
def _stub() -> Iterator[str]:
    """A backend that answers every prompt with the same disc, encoded beforehand."""
    mask = Image.fromarray(disc()).resize(SIZE, Image.Resampling.NEAREST)
    region = {
        "id": "stubbed",
        "from_name": "label",
        "to_name": "image",
        "type": "labels",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": mask2rle(np.asarray(mask).astype(np.uint8) * 255),
            "labels": ["Object"],
        },
    }
    answers = {
        "/health": {"status": "UP", "model_class": "stub"},
        "/setup": {"model_version": "stub"},
        "/versions": {"versions": ["stub"]},
        "/predict": {"results": [{"result": [region], "score": 1.0, "model_version": "stub"}]},
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(answers.get(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = self.path != "/predict" or (body["params"].get("context") or {}).get("result")
            self._answer(answers.get(self.path, {}) if asked else {"results": [[] for _ in body["tasks"]]})

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
