from __future__ import annotations

import os
from pathlib import Path

import pytest
from kubernetes_services import services
from pydantic import ValidationError

from m2n2_backend.errors import SettingsError
from m2n2_backend.settings import load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("M2N2_", "LABEL_STUDIO_")):
            monkeypatch.delenv(name)


def test_without_an_environment_the_server_is_private_and_the_backbone_automatic() -> None:
    settings = load_settings()

    assert (settings.backbone, settings.device, settings.grid, settings.layers) == ("auto", "auto", None, None)
    assert (settings.host, settings.port) == ("127.0.0.1", 9090)
    assert settings.label_studio_api_key is None
    assert settings.local_files_root is None


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2N2_BACKBONE", "vit")
    monkeypatch.setenv("M2N2_LAYERS", "6,7")
    monkeypatch.setenv("M2N2_GRID", "40")
    monkeypatch.setenv("M2N2_ALLOWED_HOSTS", " S3.local, ,minio ")
    monkeypatch.setenv("M2N2_LOCAL_FILES_ROOT", "/data")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://localhost:8080/")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-token")

    settings = load_settings()

    assert settings.backbone == "vit"
    assert settings.layers == (6, 7)
    assert settings.grid == 40
    assert settings.allowed_hosts == ("s3.local", "minio")
    assert settings.local_files_root == Path("/data")
    assert settings.label_studio_url == "http://localhost:8080"
    assert settings.label_studio_api_key is not None
    assert settings.label_studio_api_key.get_secret_value() == "secret-token"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("M2N2_BACKBON", "did you mean M2N2_BACKBONE?"),
        ("m2n2_grids", "did you mean M2N2_GRID?"),
        ("M2N2_LABEL_STUDIO_URL", "did you mean LABEL_STUDIO_URL?"),
        ("M2N2_LABEL_STUDIO_API_KEY", "did you mean LABEL_STUDIO_API_KEY?"),
        ("M2N2_", "m2n2_backend/SETTINGS.md lists all settings"),
        ("M2N2_QZXJK", "m2n2_backend/SETTINGS.md lists all settings"),
    ],
)
def test_an_unknown_name_is_warned_of_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, advice: str
) -> None:
    default = load_settings()
    monkeypatch.setenv(name, "http://localhost:8080")

    assert load_settings() == default
    assert caplog.messages == [f"unknown setting {name}: {advice}"]


def test_an_unknown_override_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(SettingsError, match="setting backbon"):
        load_settings(backbon="vit")


def test_the_variables_of_kubernetes_services_change_nothing_and_are_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    default = load_settings()
    for name, value in services("m2n2-backend", "m2n2-head-svc", "m2n2-serve-svc", "label-studio").items():
        monkeypatch.setenv(name, value)

    assert load_settings() == default
    assert caplog.messages == []


def test_the_address_of_a_service_in_the_place_of_the_port_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services("m2n2").items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=r"M2N2_PORT.*Service called m2n2.*enableServiceLinks: false"):
        load_settings()
    assert load_settings(port=9191).port == 9191


def test_a_port_of_a_name_that_no_service_made_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("M2N2_BACKEND_PORT", "9090")

    load_settings()
    (message,) = caplog.messages
    assert message.startswith("unknown setting M2N2_BACKEND_PORT: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grid", "7"),
        ("grid", "wide"),
        ("backbone", "sd3"),
        ("device", "tpu"),
        ("layers", "6,x"),
        ("port", "70000"),
        ("deadline", "0"),
        ("despeckle", "-1"),
        ("log_level", "LOUD"),
    ],
)
def test_a_bad_value_is_named_with_its_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"M2N2_{name.upper()}", value)

    with pytest.raises(SettingsError, match=f"setting {name}.*{value}"):
        load_settings()


def test_an_address_needs_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "localhost:8080")

    with pytest.raises(SettingsError, match="http://"):
        load_settings()


def test_what_is_given_wins_over_the_environment_and_none_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2N2_GRID", "40")
    monkeypatch.setenv("M2N2_PORT", "9191")

    settings = load_settings(grid=64, port=None)

    assert (settings.grid, settings.port) == (64, 9191)


def test_an_empty_variable_is_as_if_it_were_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2N2_MODEL", "")
    monkeypatch.setenv("M2N2_GRID", "")

    settings = load_settings()

    assert (settings.model, settings.grid) == (None, None)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().grid = 5


def test_secrets_do_not_show_in_the_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "secret-token")
    monkeypatch.setenv("M2N2_BASIC_AUTH_PASSWORD", "secret-word")

    assert "secret-" not in repr(load_settings())


def test_the_cache_follows_the_desktop_s_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert load_settings().cache_dir == tmp_path / "m2n2_backend"
