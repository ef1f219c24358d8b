"""What doctor finds in Label Studio's projects: models that cannot be reached, configs that cannot work."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from doctor_checks import BANNED, with_studio
from fake_label_studio import BRUSH_CONFIG, PERSONAL, FakeLabelStudio
from label_studio_fakes import DiscPool, serving
from processes import free_port

from m2n2_backend.server.app import create_app
from m2n2_backend.settings import load_settings


def test_a_connected_project_with_a_good_config_is_fine(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect("http://backend:9090")
    found = with_studio(tmp_path, studio)
    assert found["model of project 1 (project 1)"].state == "ok"
    assert found["labeling config of project 1 (project 1)"].state == "ok"
    assert "reachable for Label Studio" not in found


def test_a_refused_address_is_told_with_the_line_for_label_studio(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.bans_private = True
    studio.connect("http://127.0.0.1:9090", state="DI")
    found = with_studio(tmp_path, studio, address="http://127.0.0.1:9090")
    for check in (found["model of project 1 (project 1)"], found["reachable for Label Studio"]):
        assert check.state == "fail"
        assert "reserved network address" in check.detail
        assert BANNED in check.cure


def test_before_any_project_is_connected_the_address_to_be_is_judged(tmp_path: Path, studio: FakeLabelStudio) -> None:
    check = with_studio(tmp_path, studio, address="http://backend:9090")["reachable for Label Studio"]
    assert check.state == "warn"
    assert "Connect Model: the URL http://backend:9090" in check.cure
    studio.unknown_hosts = {"backend"}
    check = with_studio(tmp_path, studio, address="http://backend:9090")["reachable for Label Studio"]
    assert check.state == "fail"
    assert "resolve hostname backend" in check.detail
    studio.bans_private = True
    assert BANNED in with_studio(tmp_path, studio)["reachable for Label Studio"].cure


def test_a_backend_that_listens_to_others_is_looked_for_by_its_machines_name(
    tmp_path: Path, studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2N2_HOST", "0.0.0.0")
    monkeypatch.setattr(socket, "gethostname", lambda: "backend")
    assert "the URL http://backend:9090" in with_studio(tmp_path, studio)["reachable for Label Studio"].cure


def test_a_backend_that_is_not_running_is_told_apart(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect(f"http://127.0.0.1:{free_port()}", state="DI")
    check = with_studio(tmp_path, studio)["model of project 1 (project 1)"]
    assert check.state == "fail"
    assert "Connection refused" in check.detail
    assert "start the backend" in check.cure


def test_a_backend_that_only_label_studio_cannot_reach_is_told_apart(tmp_path: Path, studio: FakeLabelStudio) -> None:
    with serving(create_app(load_settings(), DiscPool())) as port:
        studio.connect(f"http://127.0.0.1:{port}", state="DI")
        check = with_studio(tmp_path, studio)["model of project 1 (project 1)"]
    assert "200 from /health" in check.detail
    assert "within a container localhost is the container" in check.cure


def test_a_backend_whose_password_is_missing_is_told_apart(tmp_path: Path, studio: FakeLabelStudio) -> None:
    guarded = load_settings(basic_auth_user="u", basic_auth_password="p")
    with serving(create_app(guarded, DiscPool())) as port:
        studio.connect(f"http://127.0.0.1:{port}", state="DI")
        check = with_studio(tmp_path, studio)["model of project 1 (project 1)"]
    assert "M2N2_BASIC_AUTH_PASSWORD" in check.cure


def test_a_setup_that_was_refused_is_told_in_the_backends_words(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect("http://backend:9090", state="ER", error_message='422 Client Error: write smart="true"')
    check = with_studio(tmp_path, studio)["model of project 1 (project 1)"]
    assert check.state == "fail"
    assert 'write smart="true"' in check.detail


def test_a_model_that_gets_no_clicks_is_a_warning(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect("http://backend:9090", is_interactive=False)
    check = with_studio(tmp_path, studio)["model of project 1 (project 1)"]
    assert check.state == "warn"
    assert "Interactive preannotations" in check.cure


def test_a_labeling_config_that_cannot_work_is_named(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect("http://backend:9090", config='<View><Image name="image" value="$image"/></View>')
    check = with_studio(tmp_path, studio)["labeling config of project 1 (project 1)"]
    assert check.state == "fail"
    assert "add <BrushLabels" in check.detail
    assert "Labeling Interface" in check.cure


def test_a_smart_brush_is_a_warning_that_says_what_to_write(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.connect(
        "http://backend:9090", config=BRUSH_CONFIG.replace('toName="image" smart="false"', 'toName="image"')
    )
    check = with_studio(tmp_path, studio)["labeling config of project 1 (project 1)"]
    assert check.state == "warn"
    assert 'write smart="false" in <BrushLabels name="mask">' in check.detail
    assert "Labeling Interface" in check.cure


def test_nothing_is_changed_in_label_studio(tmp_path: Path, studio: FakeLabelStudio) -> None:
    studio.bans_private = True
    studio.connect("http://127.0.0.1:9090", state="DI")
    with_studio(tmp_path, studio, PERSONAL)
    assert {path for path, _ in studio.posted} == {"/api/ml/", "/api/token/refresh/"}
    assert all("project" not in sent for _, sent in studio.posted)
