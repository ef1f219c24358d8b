"""What doctor finds and advises."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from m2n2_backend.doctor import Check, diagnose
from m2n2_backend.settings import Settings, load_settings


def checks(tmp_path: Path, **settings: Any) -> dict[str, Check]:
    values: dict[str, Any] = {"backbone": "color", "device": "cpu", "cache_dir": tmp_path, **settings}
    return {check.name: check for check in diagnose(load_settings(**values))}


def with_label_studio(tmp_path: Path, url: str, key: str | None) -> Check:
    names = {"LABEL_STUDIO_URL": url} | ({"LABEL_STUDIO_API_KEY": key} if key else {})
    settings = Settings(backbone="color", device="cpu", cache_dir=tmp_path, **names)
    return next(check for check in diagnose(settings) if check.name == "Label Studio")


def test_the_banned_subnets_line_is_always_printed(tmp_path: Path) -> None:
    cure = checks(tmp_path)["reachable for Label Studio"].cure
    assert "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false" in cure


def test_missing_weights_fail_with_the_command_that_gets_them(tmp_path: Path) -> None:
    check = checks(tmp_path, backbone="sd2", model=str(tmp_path))["weights of sd2"]
    assert (check.state, check.cure) == ("fail", "m2n2-backend fetch-weights --backbone sd2")


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = checks(tmp_path, cache_dir=tmp_path / "file" / "below")["cache folder"]
    assert check.state == "warn"
    assert "M2N2_CACHE_DIR" in check.cure


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = checks(tmp_path, port=taken.getsockname()[1])["address"]
    assert check.state == "warn"
    assert "M2N2_PORT" in check.cure


def test_a_missing_address_of_label_studio_is_a_warning(tmp_path: Path) -> None:
    assert "LABEL_STUDIO_URL" in checks(tmp_path)["Label Studio"].cure


def test_a_missing_token_fails(tmp_path: Path) -> None:
    check = with_label_studio(tmp_path, "http://127.0.0.1:9", None)
    assert check.state == "fail"
    assert "LABEL_STUDIO_API_KEY" in check.cure


def test_a_label_studio_that_does_not_answer_fails(tmp_path: Path) -> None:
    check = with_label_studio(tmp_path, "http://127.0.0.1:9", "0123456789")
    assert check.state == "fail"
    assert "legacy token" in check.detail
