"""Reads the files of docker/: the Dockerfile's instructions, merged compose files, substituted variables."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from repository import ROOT

DOCKER = ROOT / "docker"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in pairs]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each stage's base and its own instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = (base, [])
        elif found:
            list(found.values())[-1][1].append((word, rest))
    return found


def lineage(stage: str) -> list[tuple[str, str]]:
    """All instructions that end in an image, those of its base stages first."""
    known = stages()
    base, own = known[stage]
    return [*(lineage(base) if base in known else []), *own]


def environment(stage: str) -> dict[str, str]:
    """What ENV sets in an image."""
    text = " ".join(rest for word, rest in lineage(stage) if word == "ENV")
    return dict(pair.split("=", 1) for pair in text.split())


def command(stage: str, word: str) -> list[str]:
    """The ENTRYPOINT or CMD of an image, which must be in the form without a shell."""
    return [str(part) for part in json.loads(next(rest for name, rest in lineage(stage) if name == word))]


def copied() -> list[str]:
    """Paths of the build context that COPY reads."""
    copies = [rest.split() for word, rest in instructions() if word == "COPY" and "--from=" not in rest]
    return [part for parts in copies for part in parts[:-1] if not part.startswith("--")]


def sent_to_the_builder(path: str) -> bool:
    """Whether the ignore file keeps a path in the build context: the last line that matches decides."""
    sent = True
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!").removeprefix("**/")
            parts = Path(path).parts
            if fnmatch(path, pattern) or path.startswith(f"{pattern}/") or (line[:2] == "**" and pattern in parts):
                sent = line.startswith("!")
    return sent


def compose(*names: str) -> dict[str, Any]:
    """Compose files merged, each over the one before."""
    merged: dict[str, Any] = {}
    for name in names:
        merged = _merge(merged, yaml.safe_load((DOCKER / name).read_text()))
    return merged


def manifests(name: str) -> list[dict[str, Any]]:
    """The objects in a file for Kubernetes."""
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def pods(name: str) -> list[dict[str, Any]]:
    """The specs of all pods in a file for Kubernetes, at any depth."""
    found: list[dict[str, Any]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "containers" in value:
                found.append(value)
            value = list(value.values())
        for one in value if isinstance(value, list) else []:
            look(one)

    look(manifests(name))
    assert found, "a file for Kubernetes without pods"
    return found


def example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def variables(text: str) -> set[str]:
    """The names of the variables in ``${…}``."""
    return {match[1] for match in _VARIABLE.finditer(text)}


def substituted(text: str, values: dict[str, str]) -> str:
    """``text`` with its variables replaced as compose does; a required one that is empty raises KeyError."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        if kind == "?":
            raise KeyError(name)
        return rest or ""

    return _VARIABLE.sub(value, text)


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merge(below.get(key), value) for key, value in above.items()}
    if isinstance(below, list) and isinstance(above, list):
        return [*below, *above]
    return above
