"""An authority of one's own signs the certificates of Label Studio, of images and of the hub's mirror."""

from __future__ import annotations

import io
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from doctor_checks import checks, with_studio
from fake_label_studio import LEGACY, FakeLabelStudio
from label_studio_fakes import settings
from local_hub import Hub, running_hub
from rich.console import Console
from waiting import LAST_RESORT_SECONDS

from m2n2_backend.commands.prepare_data.download import download
from m2n2_backend.errors import DatasetError, ImageUnavailable, LabelStudioUnavailable, SettingsError
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader
from m2n2_backend.tls import tls_context

FOLDER = Path(__file__).parent / "authority"
AUTHORITY = str(FOLDER / "ca.pem")
NAMES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR")

# How the authority is named, and what else the environment names.
WAYS = {
    "a file": {"SSL_CERT_FILE": AUTHORITY},
    "a file, as requests reads it": {"REQUESTS_CA_BUNDLE": AUTHORITY},
    "a file, as curl reads it": {"CURL_CA_BUNDLE": AUTHORITY},
    "a folder": {"SSL_CERT_DIR": os.pathsep.join(["/nowhere", str(FOLDER)])},
    "a folder, as requests reads it": {"REQUESTS_CA_BUNDLE": str(FOLDER)},
    "a file beside the usual ones": {"SSL_CERT_FILE": certifi.where(), "REQUESTS_CA_BUNDLE": AUTHORITY},
    "an empty variable": {"SSL_CERT_FILE": "", "CURL_CA_BUNDLE": AUTHORITY, "SSL_CERT_DIR": ""},
}


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / "server.pem")
    return context


@pytest.fixture
def secured() -> Iterator[FakeLabelStudio]:
    studio = FakeLabelStudio(server_tls())
    yield studio
    studio.close()


@pytest.fixture
def hub() -> Iterator[str]:
    with running_hub(server_tls()) as address:
        yield address


def named(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setenv(name, value)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=LAST_RESORT_SECONDS
    )


@pytest.mark.parametrize("way", WAYS)
def test_label_studio_and_its_images_are_read_however_the_authority_is_named(
    secured: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    named(monkeypatch, way)
    assert LabelStudioClient(secured.url, LEGACY).ask("GET", "/api/version").status == 200
    media = MediaReader(settings(label_studio_url=secured.url, label_studio_api_key=LEGACY))
    assert media.fetch(ImageRef("/data/upload/1/a.png")).data == secured.files["a.png"]


@pytest.mark.parametrize("way", WAYS)
def test_a_data_set_is_downloaded_however_the_authority_is_named(
    secured: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    named(monkeypatch, way)
    download(
        f"{secured.url}/open/a.png", tmp_path / "a.png", most=10_000, md5=None, console=Console(file=io.StringIO())
    )
    assert (tmp_path / "a.png").read_bytes() == secured.files["a.png"]


@pytest.mark.parametrize("way", WAYS)
def test_the_hub_is_asked_however_the_authority_is_named(hub: str, way: str, tmp_path: Path) -> None:
    ask = "from m2n2_backend.backbones.weights.hub import listing; print(len(listing('some/whole', 30)), end='')"
    done = run("-c", ask, HF_ENDPOINT=hub, HF_HOME=str(tmp_path), **WAYS[way])
    assert done.stdout == str(len(Hub.repository)), done.stderr


def test_the_environment_is_what_it_was_after_the_hub_was_asked(hub: str, tmp_path: Path) -> None:
    ask = (
        "import os; before = dict(os.environ)\n"
        "from m2n2_backend.backbones.weights.hub import listing; listing('some/whole', 30)\n"
        "print(before == dict(os.environ))"
    )
    done = run("-c", ask, HF_ENDPOINT=hub, HF_HOME=str(tmp_path), CURL_CA_BUNDLE=AUTHORITY)
    assert done.stdout.strip() == "True", done.stderr


def test_without_a_name_the_authority_is_refused_and_every_client_says_which_variable_to_set(
    secured: FakeLabelStudio, hub: str, tmp_path: Path
) -> None:
    cure = "of an authority that is not trusted here: set SSL_CERT_FILE"
    with pytest.raises(LabelStudioUnavailable, match=cure):
        LabelStudioClient(secured.url, LEGACY).ask("GET", "/api/version")
    with pytest.raises(ImageUnavailable, match=cure):
        MediaReader(settings(label_studio_url=secured.url)).fetch(ImageRef("/data/upload/1/a.png"))
    with pytest.raises(DatasetError, match=cure):
        download(
            f"{secured.url}/open/a.png", tmp_path / "a", most=10_000, md5=None, console=Console(file=io.StringIO())
        )
    ask = "from m2n2_backend.backbones.weights.hub import listing; listing('some/whole', 30)"
    assert cure in run("-c", ask, HF_ENDPOINT=hub, HF_HOME=str(tmp_path)).stderr
    check = with_studio(tmp_path, secured)["Label Studio"]
    assert (check.state, cure in check.cure, "start Label Studio" in check.cure) == ("fail", True, False)


def test_doctor_asks_label_studio_and_its_models_with_the_authority(
    secured: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secured.connect(secured.url, state="DI")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", AUTHORITY)
    found = with_studio(tmp_path, secured)
    assert {"ok"} == {found[name].state for name in ("Label Studio", "token")}
    (model,) = [check for name, check in found.items() if name.startswith("model of project")]
    assert "CERTIFICATE" not in model.detail


def test_https_to_a_server_that_speaks_http_is_told_as_such(studio: FakeLabelStudio) -> None:
    with pytest.raises(LabelStudioUnavailable, match="does not speak TLS there: is its address one of http://"):
        LabelStudioClient(studio.url.replace("http", "https"), LEGACY).ask("GET", "/api/version")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["missing", "empty.pem", "text.pem"])
def test_a_file_that_is_missing_or_holds_no_certificate_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "text.pem").write_text("nothing")
    monkeypatch.setenv(name, str(tmp_path / what))
    with pytest.raises(SettingsError, match=f"{name} names .*{what}.*your authority's certificate"):
        tls_context()
    check = checks(tmp_path)["certificates"]
    assert (check.state, name in check.detail, "set it to" in check.cure) == ("fail", True, True)
    assert with_studio(tmp_path, "https://localhost:1")["Label Studio"].state == "fail"


def test_serve_ends_with_one_sentence_where_the_authority_is_missing() -> None:
    done = run("-m", "m2n2_backend", "serve", "--backbone", "color", SSL_CERT_FILE="/nowhere/ca.pem", M2N2_PORT="1")
    assert done.returncode == 1
    assert "error: SSL_CERT_FILE names /nowhere/ca.pem, which does not exist" in done.stderr
    assert "failed to boot" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_asks_nobody_does_not_need_the_authority() -> None:
    done = run("-m", "m2n2_backend", "fetch-weights", "--backbone", "color", SSL_CERT_FILE="/nowhere/ca.pem")
    assert (done.returncode, "needs no weights" in done.stderr) == (0, True), done.stderr
