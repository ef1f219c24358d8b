"""What decides the results of an evaluation, so that figures say what they are figures of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import m2n2_backend
from m2n2_backend.evaluation.data.datasets import Sample, data_fingerprint
from m2n2_backend.evaluation.methods import MethodChoice
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.m2n2.paper.attention import Backbone

Identity = Mapping[str, Any]
"""Code, libraries and backbone of one process. It has to be equal in all processes of a run."""

LIBRARIES = ("torch", "transformers", "diffusers", "numpy", "numba", "opencv-python-headless", "Pillow", "scipy")
"""Libraries whose versions may change a last digit."""


def identity(backbone: Backbone | None) -> Identity:
    """The identity of this process; a classic method has no backbone."""
    return {
        "version": m2n2_backend.__version__,
        "code": code_fingerprint(Path(m2n2_backend.__file__).parent),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "backbone": backbone.fingerprint if backbone else None,
    }


def make_fingerprint(
    dataset: str,
    method: MethodChoice,
    protocol: ProtocolName,
    samples: Sequence[Sample],
    backbone: Backbone | None,
) -> dict[str, Any]:
    """Everything that decides the results, as JSON: code, libraries, backbone, settings, data."""
    own = method.hyperparameters
    fingerprint = {
        **identity(backbone),
        "preset": method.preset,
        "protocol": protocol,
        "method": {"name": method.name} | (asdict(own) if own else {}),
        "data": {"dataset": dataset, "samples": len(samples), "files": data_fingerprint(samples)},
    }
    return dict(json.loads(json.dumps(fingerprint)))


def code_fingerprint(package: Path) -> str:
    """12 hex digits over the sources in ``package`` that results depend on, subfolders included."""
    digest = hashlib.sha256()
    for folder in ("m2n2", "backbones", "evaluation"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
