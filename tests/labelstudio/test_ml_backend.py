"""The model in the official server; where that is not installed, in a stand-in of what it hands to its models."""

from __future__ import annotations

import base64
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio, png
from flask.testing import FlaskClient
from label_studio_fakes import CONFIG, DiscPool, key_point, payload, settings

IMAGE = "data:image/png;base64," + base64.b64encode(png()).decode()
MODULE = "m2n2_backend.labelstudio.ml_backend"


def test_the_module_says_what_to_install_where_the_server_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ImportError, match="label-studio-ml 2"):
        importlib.import_module(MODULE)


class OneRequest:
    """What that server makes for every request."""

    def __init__(self, label_config: str, project_id: str) -> None:
        self.label_config, self.project_id = label_config, project_id


def test_clicks_on_one_image_download_it_once_although_every_request_makes_an_object(
    studio: FakeLabelStudio, pool: DiscPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("model", {"LabelStudioMLBase": OneRequest}), ("response", {"ModelResponse": dict})):
        module = ModuleType(f"label_studio_ml.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "label_studio_ml", ModuleType("label_studio_ml"))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    ours = settings(label_studio_url=studio.url, label_studio_api_key=LEGACY)
    model = importlib.import_module(MODULE).ml_backend_class(pool, ours)
    del sys.modules[MODULE]

    answers: list[dict[str, Any]] = []
    for x in (20.0, 50.0, 80.0):
        body = payload(key_point(x))
        answers.append(model(CONFIG, "1").predict(body["tasks"], body["params"]["context"]))

    assert [answer["model_version"] for answer in answers] == ["disc-1"] * 3
    assert [prompts.clicks[0].x for _, prompts in pool.calls] == [12, 32, 51]
    assert studio.paths() == ["/data/upload/1/a.png"]


@pytest.fixture
def pool() -> DiscPool:
    return DiscPool()


@pytest.fixture
def client(pool: DiscPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    # That package opens a database in the working directory when it is imported, and warns about itself.
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api = pytest.importorskip("label_studio_ml.api")
        from m2n2_backend.labelstudio.ml_backend import ml_backend_class
    app = api.init_app(ml_backend_class(pool, settings()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield app.test_client()


def test_the_official_server_answers_a_click_with_our_mask(client: FlaskClient, pool: DiscPool) -> None:
    answer = client.post("/predict", json=payload(key_point(), image=IMAGE))
    assert answer.status_code == 200
    (result,) = answer.json["results"]
    assert result["model_version"] == "disc-1"
    assert (result["result"][0]["type"], result["score"]) == ("brushlabels", 0.875)
    assert len(pool.calls) == 1


def test_the_official_server_answers_a_task_without_prompts_with_an_empty_list(
    client: FlaskClient, pool: DiscPool
) -> None:
    body = payload(image=IMAGE)
    body["params"]["context"] = None
    assert client.post("/predict", json=body).json == {"results": [[]]}
    assert pool.calls == []


def test_the_official_server_tells_the_model_version_at_setup(client: FlaskClient) -> None:
    body = {"project": "1.2", "schema": CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
    assert client.post("/setup", json=body).json == {"model_version": "disc-1"}
