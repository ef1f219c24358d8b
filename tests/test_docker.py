"""The images and the compose files, as far as they can be held to account without a Docker daemon."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker_files as files
import pytest
from docker_files import DOCKER, ROOT
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.settings import Settings, load_settings

COMPOSE = [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")]
TARGETS = ["cpu", "cuda"]
FILLED = files.example() | {"LABEL_STUDIO_PASSWORD": "secret", "LABEL_STUDIO_USER_TOKEN": "0123456789abcdef"}

# What Label Studio 1.23.2 reads of its environment; beside it, what only the compose files read.
LABEL_STUDIO = {
    "LABEL_STUDIO_USERNAME",
    "LABEL_STUDIO_PASSWORD",
    "LABEL_STUDIO_USER_TOKEN",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN",
    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS",
    "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK",
}
ONLY_COMPOSE = {"LABEL_STUDIO_BIND"}
OURS = {str(field.validation_alias or f"M2N2_{name.upper()}") for name, field in Settings.model_fields.items()}

# The part of the compose specification that the files use; a misspelled key is in none of these.
KEYS: dict[str, set[str]] = {
    "": {"name", "services", "volumes"},
    "service": {
        "build",
        "cap_drop",
        "command",
        "depends_on",
        "deploy",
        "environment",
        "expose",
        "healthcheck",
        "hostname",
        "image",
        "init",
        "ports",
        "read_only",
        "restart",
        "security_opt",
        "stop_grace_period",
        "tmpfs",
        "volumes",
    },
    "build": {"context", "dockerfile", "target"},
    "healthcheck": {"test", "interval", "timeout", "retries", "start_period", "disable"},
}


def backend_environment(names: tuple[str, ...], values: dict[str, str]) -> dict[str, str]:
    given = files.compose(*names)["services"]["backend"]["environment"]
    return {name: files.substituted(value, values) for name, value in given.items()}


@pytest.mark.parametrize("names", COMPOSE)
def test_the_compose_files_use_keys_of_the_specification_only(names: tuple[str, ...]) -> None:
    merged = files.compose(*names)
    assert set(merged) <= KEYS[""]
    for service in merged["services"].values():
        assert set(service) <= KEYS["service"]
        assert set(service.get("build", ())) <= KEYS["build"]
        assert set(service.get("healthcheck", ())) <= KEYS["healthcheck"]
        assert all(isinstance(value, str) for value in service["environment"].values()), "quote YAML's booleans"


@pytest.mark.parametrize("names", COMPOSE)
def test_volumes_services_and_build_targets_that_are_named_exist(names: tuple[str, ...]) -> None:
    merged = files.compose(*names)
    services = merged["services"]
    for service in services.values():
        mounted = {entry.partition(":")[0] for entry in service["volumes"]}
        assert mounted <= set(merged["volumes"])
        assert set(service.get("depends_on", ())) <= set(services)
        if "build" in service:
            assert service["build"]["target"] in files.stages()
            assert (DOCKER / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            targets = {entry.split(":")[1] for entry in service["volumes"]}
            assert targets <= set(files.command(service["build"]["target"], "VOLUME"))


def test_the_compose_files_and_the_example_name_the_same_variables() -> None:
    used = files.variables("".join((DOCKER / name).read_text() for name in COMPOSE[1]))
    assert used == set(files.example())


def test_the_example_lacks_only_what_must_be_secret() -> None:
    with pytest.raises(KeyError):
        backend_environment(COMPOSE[0], files.example())
    required = re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text())
    assert {name for name in required if not files.example()[name]} == {
        "LABEL_STUDIO_PASSWORD",
        "LABEL_STUDIO_USER_TOKEN",
    }


@pytest.mark.parametrize("names", COMPOSE)
def test_every_variable_is_known_to_whom_it_is_given(names: tuple[str, ...]) -> None:
    services = files.compose(*names)["services"]
    given = {name: set(service["environment"]) for name, service in services.items()}
    assert given.pop("label-studio") == LABEL_STUDIO
    for variables in given.values():
        assert variables <= OURS | {"HF_HUB_OFFLINE"}
    assert set(files.example()) <= OURS | LABEL_STUDIO | ONLY_COMPOSE | {"HF_HUB_OFFLINE"}


@pytest.mark.parametrize(("names", "stage"), list(zip(COMPOSE, TARGETS, strict=True)))
def test_the_backend_of_each_compose_file_has_valid_settings(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], stage: str
) -> None:
    for name in list(os.environ):
        if name.startswith(("M2N2_", "LABEL_STUDIO_")):
            monkeypatch.delenv(name)
    for name, value in (files.environment(stage) | backend_environment(names, FILLED)).items():
        if name.startswith(("M2N2_", "LABEL_STUDIO_")):
            monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.port) == ("0.0.0.0", 9090)
    assert settings.label_studio_url == "http://label-studio:8080"
    expected = {"cpu": ("auto", "cpu"), "cuda": ("sd2", "cuda")}[stage]
    assert (settings.backbone, settings.device) == expected


def test_label_studio_and_the_backend_share_one_legacy_token() -> None:
    services = files.compose("compose.yaml")["services"]
    studio, backend = services["label-studio"]["environment"], services["backend"]["environment"]
    assert backend["LABEL_STUDIO_API_KEY"] == studio["LABEL_STUDIO_USER_TOKEN"]
    assert studio["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"


def test_everything_that_is_copied_exists_and_reaches_the_builder() -> None:
    assert files.copied()
    for path in files.copied():
        assert (ROOT / path).exists(), path
        assert files.sent_to_the_builder(path), path


@pytest.mark.parametrize(
    "path", [".git", ".venv/bin/python", "docker/.env", "tests", "out", "m2n2_backend/__pycache__"]
)
def test_what_an_image_does_not_need_stays_with_the_caller(path: str) -> None:
    assert not files.sent_to_the_builder(path)


@pytest.mark.parametrize("stage", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_holds_no_build_tools(stage: str) -> None:
    steps = files.lineage(stage)
    assert [rest for word, rest in steps if word == "USER"] == ["10001:10001"]
    commands = " && ".join(rest for word, rest in steps if word == "RUN")
    packages = re.findall(r"apt-get install ([^&]*)", commands)
    assert [name for text in packages for name in text.split() if not name.startswith("--")] == ["libgomp1"]
    assert "pip" not in commands
    for base, _ in files.stages().values():
        assert base in files.stages() or base == "${PYTHON_IMAGE}"
    pinned = next(rest for word, rest in files.instructions() if word == "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", pinned)


@pytest.mark.parametrize("stage", TARGETS)
def test_the_entry_point_is_a_console_script_that_takes_the_commands_given(stage: str) -> None:
    scripts = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("[")[0]
    entry, *arguments = files.command(stage, "ENTRYPOINT")
    services = files.compose(*COMPOSE[1])["services"].values()
    commands = [files.command(stage, "CMD"), *(service["command"] for service in services if "command" in service)]
    assert re.search(rf"^{entry} = ", scripts, re.MULTILINE)
    for command in commands:
        assert CliRunner().invoke(app, [*arguments, *command, "--help"]).exit_code == 0, command


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The image's server in the image's environment, its folders elsewhere; yields that environment."""
    folder = tmp_path_factory.mktemp("data")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {name: value.replace("/data", str(folder)) for name, value in files.environment("cpu").items()}
    environment |= backend_environment(COMPOSE[0], FILLED)
    environment |= {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(ROOT),
        "M2N2_HOST": "127.0.0.1",
        "M2N2_PORT": port,
        "M2N2_BACKBONE": "color",
        "M2N2_BASIC_AUTH_USER": "studio",
        "M2N2_BASIC_AUTH_PASSWORD": "secret",
    }
    command = [sys.executable, "-m", "m2n2_backend", *files.command("cpu", "CMD")]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while health(environment) is not None:
                assert process.poll() is None
                assert time.monotonic() < deadline
            yield environment
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "Traceback" not in log


def health(environment: dict[str, str]) -> str | None:
    """What the image's health check says; None for healthy."""
    command = [sys.executable, str(DOCKER / "health.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return None if done.returncode == 0 else done.stderr.strip()


def test_the_server_of_the_image_starts_with_nothing_but_the_images_environment(container: dict[str, str]) -> None:
    pair = base64.b64encode(b"studio:secret").decode()
    request = urllib.request.Request(f"http://127.0.0.1:{container['M2N2_PORT']}/health")
    request.add_header("Authorization", f"Basic {pair}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b'"status":"UP"' in answer.read()


@pytest.mark.parametrize(
    ("change", "cause"),
    [({}, None), ({"M2N2_BASIC_AUTH_PASSWORD": "wrong"}, "401"), ({"M2N2_PORT": "1"}, "refused")],
)
def test_the_health_check_tells_a_healthy_server_from_others(
    container: dict[str, str], change: dict[str, Any], cause: str | None
) -> None:
    answer = health(container | change | {"http_proxy": "http://127.0.0.1:9"})
    assert answer is None if cause is None else cause in (answer or "")
