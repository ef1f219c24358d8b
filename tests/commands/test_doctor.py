"""What doctor finds on this machine and about Label Studio and the token, and what it advises."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from doctor_checks import BANNED, checks, with_studio
from fake_label_studio import LEGACY, PERSONAL, FakeLabelStudio, jwt
from kubernetes_services import services
from label_studio_fakes import DiscPool, serving
from random_vits import save_family
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.server.app import create_app
from m2n2_backend.settings import load_settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path


# This machine


def test_missing_weights_fail_with_the_command_that_gets_them(folder: Path) -> None:
    check = checks(folder, backbone="sd2", model=str(folder))["weights of sd2"]
    assert (check.state, check.cure) == ("fail", "m2n2-backend fetch-weights --backbone sd2")


def test_missing_weights_of_the_default_are_a_warning_with_the_same_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    check = checks(folder, backbone="auto")["weights of auto"]
    assert (check.state, check.cure) == ("warn", "m2n2-backend fetch-weights")
    assert "color and texture" in check.detail


def test_the_layer_that_is_read_of_a_vision_transformer_is_told_and_a_missing_one_fails(folder: Path) -> None:
    model = str(save_family("ViT", folder / "vit"))
    assert "layer 1 of 0 to 2 is read" in checks(folder, backbone="vit", model=model)["weights of vit"].detail
    named = checks(folder, backbone="vit", model=model, layers=(0, 2))["weights of vit"]
    assert "layer 0, 2 of 0 to 2 is read" in named.detail
    check = checks(folder, backbone="vit", model=model, layers=(7,))["weights of vit"]
    assert (check.state, "has layers 0 to 2; asked for [7]" in check.detail) == ("fail", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_fails_with_what_lacks(folder: Path) -> None:
    check = checks(folder, device="cuda")["device"]
    assert check.state == "fail"
    assert ("without CUDA" if torch.version.cuda is None else "nvidia-smi") in check.cure
    assert "M2N2_DEVICE=cpu" in check.cure


def test_a_cache_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").touch()
    check = checks(folder, cache_dir=folder / "file" / "below")["cache folder"]
    assert check.state == "warn"
    assert "M2N2_CACHE_DIR" in check.cure
    said_by_health = f"the cache in {folder / 'file' / 'below' / 'images'} cannot be written (Not a directory)"
    assert check.detail == f"{said_by_health}: images are encoded again after a restart"


def test_a_shared_store_is_tried_where_one_is_named(folder: Path) -> None:
    assert "shared store" not in checks(folder)
    assert checks(folder, store=str(folder / "store"))["shared store"].state == "ok"
    (folder / "file").touch()
    check = checks(folder, store=str(folder / "file"))["shared store"]
    assert (check.state, "M2N2_STORE" in check.cure) == ("warn", True)
    assert f"the store {folder / 'file'} cannot be written (Not a directory)" in check.detail


@pytest.mark.parametrize(
    ("host", "given", "is_open"),
    [
        ("127.0.0.1", {}, False),
        ("::1", {}, False),
        ("localhost", {}, False),
        ("127.8.8.8", {}, False),
        ("0.0.0.0", {}, True),
        ("192.168.1.4", {}, True),
        ("backend", {}, True),
        ("0.0.0.0", {"basic_auth_user": "u", "basic_auth_password": "p"}, False),
    ],
)
def test_a_server_that_other_machines_reach_without_a_password_is_warned_of(
    folder: Path, host: str, given: dict[str, str], is_open: bool
) -> None:
    check = checks(folder, host=host, **given).get("access")
    assert (check is not None) == is_open
    assert check is None or (check.state == "warn" and "M2N2_BASIC_AUTH_USER" in check.cure)


def test_an_unknown_setting_fails_with_the_nearest_known_name_and_a_services_variable_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in services("m2n2-backend").items():
        monkeypatch.setenv(name, value)
    assert "settings" not in checks(folder)
    monkeypatch.setenv("M2N2_CACHEDIR", "/data")
    check = checks(folder)["settings"]
    assert (check.state, check.detail) == ("fail", "unknown setting M2N2_CACHEDIR: did you mean M2N2_CACHE_DIR?")


def test_credentials_that_serve_would_refuse_fail(folder: Path) -> None:
    check = checks(folder, basic_auth_user="annotator", basic_auth_password="пароль")["access"]
    assert (check.state, "Label Studio cannot send" in check.detail) == ("fail", True)
    assert check.cure.startswith("choose one of Latin-1")


def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = checks(folder, port=taken.getsockname()[1])["address"]
    assert check.state == "warn"
    assert "M2N2_PORT" in check.cure


def test_a_backend_that_runs_already_is_no_port_in_use(folder: Path) -> None:
    settings = load_settings(backbone="color", device="cpu", cache_dir=folder)
    with serving(create_app(settings, DiscPool())) as port:
        check = checks(folder, port=port)["address"]
    assert check.state == "ok"
    assert "m2n2-backend answers" in check.detail


# Label Studio's address and version


def test_a_missing_address_of_label_studio_is_a_warning(folder: Path) -> None:
    found = checks(folder)
    assert "LABEL_STUDIO_URL" in found["Label Studio"].cure
    assert BANNED in found["reachable for Label Studio"].cure


def test_a_label_studio_that_does_not_answer_fails(folder: Path) -> None:
    found = with_studio(folder, "http://127.0.0.1:9")
    assert found["Label Studio"].state == "fail"
    assert "Connection refused" in found["Label Studio"].detail
    assert "container" in found["Label Studio"].cure
    assert BANNED in found["reachable for Label Studio"].cure


def test_another_server_is_not_taken_for_label_studio(folder: Path) -> None:
    with serving(create_app(load_settings(), DiscPool())) as port:
        check = with_studio(folder, f"http://127.0.0.1:{port}")["Label Studio"]
    assert check.state == "fail"
    assert "not Label Studio" in check.detail


@pytest.mark.parametrize(("release", "state"), [("1.12.1", "warn"), ("1.19.0.post0", "warn"), ("1.20.0", "ok")])
def test_an_old_label_studio_is_told_to_be_upgraded(
    folder: Path, studio: FakeLabelStudio, release: str, state: str
) -> None:
    studio.release = release
    check = with_studio(folder, studio)["Label Studio"]
    assert check.state == state
    assert release in check.detail
    assert ("upgrade label-studio" in check.cure) == (state == "warn")


# The token


def test_a_missing_token_fails(folder: Path, studio: FakeLabelStudio) -> None:
    check = with_studio(folder, studio, None)["token"]
    assert check.state == "fail"
    assert "set LABEL_STUDIO_API_KEY" in check.cure


@pytest.mark.parametrize(
    ("key", "cause", "cure"),
    [
        ("0" * 40, "does not know the legacy token", "copy it again"),
        (PERSONAL[:-3] + "abc", "personal access token is wrong, expired or revoked", "make a personal access token"),
    ],
)
def test_a_wrong_token_fails_and_is_not_shown(
    folder: Path, studio: FakeLabelStudio, key: str, cause: str, cure: str
) -> None:
    check = with_studio(folder, studio, key)["token"]
    assert check.state == "fail"
    assert cause in check.detail
    assert cure in check.cure
    assert key not in check.detail + check.cure


def test_a_legacy_token_where_they_are_switched_off_fails_with_both_ways_out(
    folder: Path, studio: FakeLabelStudio
) -> None:
    studio.legacy_tokens = False
    check = with_studio(folder, studio)["token"]
    assert check.state == "fail"
    assert "legacy tokens are switched off" in check.detail
    assert "personal access token" in check.cure
    assert "Access Token Settings" in check.cure


def test_either_kind_of_token_is_accepted(folder: Path, studio: FakeLabelStudio) -> None:
    for key, kind in ((LEGACY, "legacy token"), (PERSONAL, "personal access token")):
        check = with_studio(folder, studio, key)["token"]
        assert (check.state, check.detail) == ("ok", f"Label Studio accepts the {kind} of annotator@example.com")


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (f'"{LEGACY}"', "quotation marks"),
        (f"Token {LEGACY}", "the word of a header"),
        (f"Bearer {PERSONAL}", "the word of a header"),
        (PERSONAL.rpartition(".")[0], "not all of it"),
        (jwt(token_type="access"), "access token, which lives five minutes"),
    ],
)
def test_a_token_that_was_copied_badly_is_told_so_without_asking(
    folder: Path, studio: FakeLabelStudio, key: str, cause: str
) -> None:
    check = with_studio(folder, studio, key)["token"]
    assert check.state == "fail"
    assert cause in check.detail
    assert studio.paths() == ["/api/version"]


def test_the_command_prints_causes_and_cures_and_fails(
    folder: Path, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.legacy_tokens = False
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", LEGACY)
    monkeypatch.setenv("M2N2_CACHE_DIR", str(folder))
    done = CliRunner().invoke(app, ["doctor", "--backbone", "color", "--device", "cpu"])
    assert done.exit_code == 1
    assert "fail token: the legacy token is right, but legacy tokens are switched off" in done.stdout
    assert "cure: make a personal access token" in done.stdout
