"""Requests made from the published schema, and damaged ones: always an answer, never a traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_studio_fakes import CONFIG, DiscPool, key_point, payload, rectangle
from label_studio_fakes import settings as backend_settings
from questions import require_explained

from m2n2_backend import __version__
from m2n2_backend.labelstudio.contract.drawn import LABEL_KEYS, DrawnItem
from m2n2_backend.labelstudio.contract.models import KINDS, PredictRequest, SetupRequest
from m2n2_backend.labelstudio.contract.openapi import openapi
from m2n2_backend.server.app import create_app

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def from_schema(schema: dict[str, Any], root: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Values that conform to a schema, of the keywords that pydantic writes for the models."""
    root = root or schema
    if "$ref" in schema:
        return from_schema(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return st.one_of([from_schema(one, root) for one in schema[several]])
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = {name: from_schema(inner, root) for name, inner in schema["properties"].items()}
            required = {name: fields.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=fields)
        case "object":
            return st.dictionaries(st.text(max_size=4), JSON, max_size=2)
        case "array":
            return st.lists(from_schema(schema["items"], root), max_size=3)
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=6)
        case "integer":
            return st.integers(schema.get("minimum", -9), schema.get("maximum", 2**40))
        case "number":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    return JSON


SLOW = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    app = create_app(backend_settings(), DiscPool())
    app.testing = True  # an exception of a route would come through
    return app.test_client()


def check(client: FlaskClient, path: str, body: object) -> int:
    answer = client.post(path, data=json.dumps(body), content_type="application/json")
    if answer.status_code >= 400:
        require_explained(answer.status_code, answer.status.partition(" ")[2], answer.json)
    return int(answer.status_code)


@SLOW
@given(from_schema(SetupRequest.model_json_schema()))
def test_every_setup_of_the_schema_is_answered(client: FlaskClient, body: Any) -> None:
    check(client, "/setup", body)


@SLOW
@given(from_schema(PredictRequest.model_json_schema()))
def test_every_request_of_the_schema_is_read(client: FlaskClient, body: Any) -> None:
    assert check(client, "/predict", {**body, "params": None}) == 200
    check(client, "/predict", body)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


GOOD = payload(key_point(), rectangle(10, 10, 50, 50, id="box"), key_point(5, 5, id="far", is_positive=False))
PLACES = [path for path in _places(GOOD) if path]


@SLOW
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=3))
def test_whatever_stands_at_a_place_of_a_real_request_is_answered(
    client: FlaskClient, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    body = copy.deepcopy(GOOD)
    for path, value in changes:
        at: Any = body
        try:
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change took the place away
    check(client, "/predict", body)


def test_the_document_names_every_route_and_model(client: FlaskClient) -> None:
    document = client.get("/openapi.json").json
    assert document == openapi(__version__)
    rules = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert set(document["paths"]) == rules - {"/openapi.json", "/webhook", "/static/<path:filename>"}
    for path in ("/setup", "/predict"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["$ref"].rpartition("/")[2] in document["components"]["schemas"]


def test_a_request_that_label_studio_sends_conforms_to_the_schema() -> None:
    jsonschema.validate(GOOD, PredictRequest.model_json_schema())
    jsonschema.validate(
        {"schema": CONFIG, "project": "1.17", "hostname": "http://x"}, SetupRequest.model_json_schema()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_turns_itself_into_pixels_and_has_a_place_for_its_labels(kind: type[DrawnItem]) -> None:
    assert not kind.__abstractmethods__
    assert kind.names[0] in LABEL_KEYS
    assert kind.names[0] == f"{kind.names[1]}labels"
