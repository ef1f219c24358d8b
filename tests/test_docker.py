"""The images and the compose files, as far as they can be held to account without a Docker daemon."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker_files as files
import pytest
from docker_files import DOCKER, ROOT
from kubernetes_services import services
from processes import free_port, wait_until_ready
from typer.testing import CliRunner
from waiting import LAST_RESORT_SECONDS

from m2n2_backend.cli import app
from m2n2_backend.settings import Settings, load_settings

COMPOSE = [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")]
FILES = ("compose.yaml", "compose.gpu.yaml", "compose.files.yaml")
TARGETS = ["cpu", "cuda"]
FILLED = files.example() | {"LABEL_STUDIO_PASSWORD": "secret", "LABEL_STUDIO_USER_TOKEN": "0123456789abcdef"}

# What Label Studio 1.23.2 reads of its environment; beside it, what only the compose files read.
SENDS_NOTHING = {
    "COLLECT_ANALYTICS": "False",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "0",
}
"""With these, Label Studio tells its maker nothing."""

LABEL_STUDIO = {
    "LABEL_STUDIO_USERNAME",
    "LABEL_STUDIO_PASSWORD",
    "LABEL_STUDIO_USER_TOKEN",
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN",
    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS",
    "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK",
    *SENDS_NOTHING,
}
ONLY_COMPOSE = {
    "LABEL_STUDIO_BIND",
    "LABEL_STUDIO_MEMORY",
    "M2N2_MEMORY",
    "PYTHON_IMAGE",
    "TORCH_INDEX_URL",
    "IMAGES",
}
HUB = {"HF_HUB_OFFLINE", "HF_ENDPOINT"}
OURS = {str(field.validation_alias or f"M2N2_{name.upper()}") for name, field in Settings.model_fields.items()}

# The part of the compose specification that the files use; a misspelled key is in none of these.
KEYS: dict[str, set[str]] = {
    "": {"name", "services", "networks", "volumes"},
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
        "logging",
        "mem_limit",
        "ports",
        "read_only",
        "restart",
        "security_opt",
        "stop_grace_period",
        "tmpfs",
        "volumes",
    },
    "build": {"context", "dockerfile", "target", "args"},
    "healthcheck": {"test", "interval", "timeout", "retries", "start_period", "disable"},
}


def backend_environment(names: tuple[str, ...], values: dict[str, str]) -> dict[str, str]:
    given = files.compose(*names)["services"]["backend"]["environment"]
    return {name: files.substituted(value, values) for name, value in given.items()}


@pytest.mark.parametrize("names", COMPOSE)
def test_the_compose_files_use_keys_of_the_specification_only(names: tuple[str, ...]) -> None:
    merged = files.compose(*names)
    assert {name for name in merged if not name.startswith("x-")} <= KEYS[""]
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
    used = files.variables("".join((DOCKER / name).read_text() for name in FILES))
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
def test_label_studio_sends_no_figures_to_its_maker(names: tuple[str, ...]) -> None:
    environment = files.compose(*names)["services"]["label-studio"]["environment"]
    assert {name: environment[name] for name in SENDS_NOTHING} == SENDS_NOTHING


@pytest.mark.parametrize("names", COMPOSE)
def test_every_variable_is_known_to_whom_it_is_given(names: tuple[str, ...]) -> None:
    services = files.compose(*names)["services"]
    given = {name: set(service["environment"]) for name, service in services.items()}
    assert given.pop("label-studio") == LABEL_STUDIO
    for variables in given.values():
        assert variables <= OURS | HUB
    assert set(files.example()) <= OURS | LABEL_STUDIO | ONLY_COMPOSE | HUB


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


def test_label_studio_reaches_the_subnet_of_its_own_network_and_no_other_private_address() -> None:
    merged = files.compose("compose.yaml")
    (network,) = merged["networks"]["default"]["ipam"]["config"]
    subnet = ipaddress.ip_network(network["subnet"])
    studio = merged["services"]["label-studio"]["environment"]
    banned = [ipaddress.ip_network(each) for each in studio["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"].split(",")]

    def closed(address: str) -> bool:
        return any(ipaddress.ip_address(address) in each for each in banned)

    assert studio["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert not closed(str(subnet[2]))
    assert not closed(str(subnet[-2]))
    assert not closed("142.250.185.78")
    assert closed(network["gateway"])
    assert closed(str(subnet[0] - 1))
    assert closed("172.17.0.1")
    metadata = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
    assert all(closed(address) for address in (*metadata, "fd00:ec2::254", "fd20:ce::254", "64:ff9b::a9fe:a9fe"))
    # What Label Studio 1.23.2 closes by default, but for the subnet.
    for default in ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
                    "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
                    "233.252.0.0/24", "240.0.0.0/4", "::1/128", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96",
                    "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:20::/28", "2001:db8::/32", "2002::/16",
                    "fc00::/7", "fe80::/10", "ff00::/8"):  # fmt: skip
        whole = ipaddress.ip_network(default)
        for address in (whole[0], whole[-1]):
            assert closed(str(address)) or address in subnet, default


def test_no_pod_is_told_of_the_services_beside_it() -> None:
    assert all(pod["enableServiceLinks"] is False for pod in files.pods("rayservice.yaml"))


def test_the_service_of_the_manifest_makes_a_variable_that_looks_like_a_setting() -> None:
    names = [one["metadata"]["name"] for one in files.manifests("rayservice.yaml") if one["kind"] == "Service"]
    assert names == ["m2n2-backend"]


def test_every_pip_of_the_build_reads_the_same_index_and_trusts_the_same_authorities() -> None:
    steps = [(name, word, rest) for name, (_, own) in files.stages().items() for word, rest in own]
    installing = {name for name, word, rest in steps if word == "RUN" and "pip install" in rest}
    assert installing == {"venv-cpu", "venv-cuda", "project"}
    for stage in installing:
        assert {"PIP_INDEX_URL", "PIP_CERT"} <= set(files.environment(stage))
        assert ("ARG", "PIP_INDEX_URL=https://pypi.org/simple") in files.lineage(stage)
    commands = [rest.split("pip install")[1].split("&&")[0] for _, word, rest in steps if "pip install" in rest]
    for command in commands:
        # Without versions of the list, or with a build environment of its own, it would fetch what it likes.
        assert "constraint" in command or "torch==" in command or "--no-build-isolation --no-deps" in command


def test_folders_that_are_written_are_open_to_the_group_of_arbitrary_users() -> None:
    (made,) = re.findall(r"install --directory ([^&]*)", " && ".join(rest for _, rest in files.lineage("cpu")))
    assert {"--group=root", "--mode=0775", "/data/cache", "/data/huggingface"} <= set(made.split())


def test_one_service_builds_each_image() -> None:
    services = files.compose(*COMPOSE[1])["services"].values()
    built = [service["image"] for service in services if "build" in service]
    assert len(built) == len(set(built))
    assert {service["image"] for service in services if service["image"].startswith("m2n2-backend")} == set(built)


def test_fetching_weights_sees_the_same_backbone_and_device_as_the_backend_that_waits_for_them() -> None:
    services = files.compose(*COMPOSE[1])["services"]
    weights, backend = services["weights"], services["backend"]
    for name in ("M2N2_BACKBONE", "M2N2_MODEL", "M2N2_DEVICE", "HF_ENDPOINT"):
        assert weights["environment"][name] == backend["environment"][name]
    assert weights["deploy"] == backend["deploy"]
    # An image's volume that no volume of the file covers would stay behind, without a name, at each run.
    mounted = {entry.split(":")[1] for entry in weights["volumes"]}
    assert mounted == set(files.command("cuda", "VOLUME"))


@pytest.mark.parametrize("name", ["label-studio", "backend"])
def test_a_container_ends_on_sigterm_and_fills_neither_memory_nor_disk(name: str) -> None:
    service = files.compose("compose.yaml")["services"][name]
    assert service["init"] is True
    assert service["mem_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert "test" in service["healthcheck"]


def test_the_build_arguments_of_compose_default_to_those_of_the_dockerfile() -> None:
    arguments = dict(rest.split("=", 1) for word, rest in files.instructions() if word == "ARG" and "PYTHON" in rest)
    for names, target in zip(COMPOSE, TARGETS, strict=True):
        given = files.compose(*names)["services"]["backend"]["build"]["args"]
        own = dict(rest.split("=", 1) for word, rest in files.stages()[f"venv-{target}"][1] if word == "ARG")
        assert {name: files.substituted(value, {}) for name, value in given.items()} == arguments | own


def test_a_changed_source_line_reaches_the_image_in_a_layer_without_dependencies() -> None:
    for target in TARGETS:
        assert not any("m2n2_backend" in rest for word, rest in files.lineage(f"venv-{target}") if word == "COPY")
    assert any("--no-deps" in rest for word, rest in files.stages()["project"][1] if word == "RUN")


def test_the_file_with_the_password_is_not_for_git() -> None:
    assert "docker/.env" in (ROOT / ".gitignore").read_text().splitlines()


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
    environment = {name: value.replace("/data", str(folder)) for name, value in files.environment("cpu").items()}
    environment |= backend_environment(COMPOSE[0], FILLED)
    environment |= services("m2n2-backend", "m2n2-head-svc", "m2n2-serve-svc")
    environment |= {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(ROOT),
        "M2N2_HOST": "127.0.0.1",
        "M2N2_PORT": str(free_port()),
        "M2N2_BACKBONE": "color",
        "M2N2_BASIC_AUTH_USER": "studio",
        "M2N2_BASIC_AUTH_PASSWORD": "secret",
    }
    command = [sys.executable, "-m", "m2n2_backend", *files.command("cpu", "CMD")]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_ready(process, lambda: health(environment) is None)
            yield environment
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=LAST_RESORT_SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log


def health(environment: dict[str, str]) -> str | None:
    """What the image's health check says; None for healthy."""
    command = [sys.executable, str(DOCKER / "health.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LAST_RESORT_SECONDS)
    return None if done.returncode == 0 else done.stderr.strip()


def test_the_server_of_the_image_starts_with_nothing_but_the_images_environment(container: dict[str, str]) -> None:
    pair = base64.b64encode(b"studio:secret").decode()
    request = urllib.request.Request(f"http://127.0.0.1:{container['M2N2_PORT']}/health")
    request.add_header("Authorization", f"Basic {pair}")
    with urllib.request.urlopen(request, timeout=60) as answer:
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
