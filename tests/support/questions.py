"""Interactive requests as the server reads them, and what holds for every refusal of one."""

from __future__ import annotations

from typing import Any

from label_studio_fakes import CONFIG, payload

from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.models import PredictRequest
from m2n2_backend.labelstudio.contract.reading import read
from m2n2_backend.labelstudio.contract.request import InteractiveRequest, parse_request


def asked(*items: Any, config: str = CONFIG, **task: Any) -> PredictRequest:
    """An interactive /predict with these prompts."""
    return read(PredictRequest, payload(*items, config=config, **task))


def question(*items: Any, config: str = CONFIG, **task: Any) -> InteractiveRequest | None:
    """The question of an interactive /predict, None where it holds no prompt."""
    return parse_request(asked(*items, config=config, **task), parse_label_config(config))


def parsed(*items: Any, config: str = CONFIG, **task: Any) -> InteractiveRequest:
    """The question of an interactive /predict that has one."""
    found = question(*items, config=config, **task)
    assert found is not None
    return found


def require_explained(status: int, phrase: str, body: dict[str, Any]) -> None:
    """Check what holds for every refusal: a 4xx, one short line of ASCII, and the same cause as JSON."""
    assert 400 <= status < 500
    assert phrase.isascii()
    assert 0 < len(phrase) <= 200
    assert set(body) == {"error", "detail"}
