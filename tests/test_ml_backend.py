import base64
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_label_studio import png
from flask.testing import FlaskClient
from label_studio_fakes import CONFIG, DiscPool, key_point, payload, settings

from m2n2_backend.labelstudio.images.reader import MediaReader
from m2n2_backend.labelstudio.predictor import Predictor

IMAGE = "data:image/png;base64," + base64.b64encode(png()).decode()


def test_the_module_says_what_to_install_where_the_server_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", None)
    monkeypatch.delitem(sys.modules, "m2n2_backend.labelstudio.ml_backend", raising=False)
    with pytest.raises(ImportError, match="label-studio-ml 2"):
        import m2n2_backend.labelstudio.ml_backend  # noqa: F401


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
    predictor = Predictor(pool, MediaReader(settings()), at_once=2)
    app = api.init_app(ml_backend_class(predictor, deadline=20.0))
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
