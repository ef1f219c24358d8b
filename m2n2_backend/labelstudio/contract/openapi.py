"""The contract with Label Studio as an OpenAPI document, for readers and for tools that test servers."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from m2n2_backend.labelstudio.contract.models import PredictRequest, SetupRequest

_DETAIL = {"type": "object", "required": ["error", "detail"]}
_PLACE = "#/components/schemas/{model}"


@cache
def openapi(version: str) -> dict[str, Any]:
    """OpenAPI 3.1: every route, with the models that requests are read with, of a server of this version."""
    models: list[tuple[Any, Any]] = [(PredictRequest, "validation"), (SetupRequest, "validation")]
    _, definitions = models_json_schema(models, ref_template=_PLACE)
    error = {
        "description": "The reason phrase names the cause.",
        "content": {"application/json": {"schema": _DETAIL}},
    }
    answer = {"200": {"description": "Done."}, "4XX": error, "5XX": error}

    def posted(name: str, summary: str) -> dict[str, Any]:
        schema = {"$ref": _PLACE.format(model=name)}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        return {"post": {"summary": summary, "requestBody": body, "responses": answer}}

    def asked(summary: str) -> dict[str, Any]:
        return {"get": {"summary": summary, "responses": answer}}

    return {
        "openapi": "3.1.0",
        "info": {"title": "m2n2-backend", "version": version},
        "components": {"schemas": definitions["$defs"]},
        "paths": {
            "/": asked("Status, as a page for browsers"),
            "/health": asked("Whether clicks can be answered"),
            "/versions": asked("Version of the model"),
            "/metrics": asked("Prometheus metrics"),
            "/setup": posted("SetupRequest", "Check a labeling config"),
            "/predict": posted("PredictRequest", "Prompts to regions; without prompts, an empty list per task"),
        },
    }
