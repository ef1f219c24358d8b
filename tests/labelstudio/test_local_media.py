import base64
import os
import tracemalloc
from pathlib import Path

import pytest
from fake_label_studio import LEGACY, FakeLabelStudio, png
from label_studio_fakes import reader

from m2n2_backend.errors import ImageNotAllowed, ImageTooLarge, ImageUnavailable, InvalidImage
from m2n2_backend.labelstudio.images.reader import ImageRef


def test_a_data_url_is_decoded() -> None:
    encoded = base64.b64encode(png()).decode()
    quoted = encoded.replace("+", "%2B").replace("/", "%2F")
    for url in (f"data:image/png;base64,{encoded}", f"DATA:image/png;base64,{quoted}"):
        assert reader().fetch(ImageRef(url)).data == png()


@pytest.mark.parametrize("rest", [0, 1, 2])
@pytest.mark.parametrize(
    "form",
    [
        "data:image/png;base64,{start}\n{end}",
        "data:image/png;base64,{start}\r\n\t {end}\n",
        "data:image/png;base64,{start}%0A%20{end}",
        "  data:image/png;charset=utf-8; BASE64 ,{start}{end}#fragment",
        "data:text/html;base64,{start}{end}",
        "data:;base64,{start}{bare}",
        "data:image/png;base64,{escaped}",
        "data:image/png,{percent}",
    ],
)
def test_a_data_url_is_read_as_browsers_read_it(form: str, rest: int) -> None:
    data = png() + bytes(rest)
    text = base64.b64encode(data).decode()
    parts = {"start": text[:50], "end": text[50:], "bare": text[50:].rstrip("=")}
    parts["escaped"] = "".join(f"%{ord(letter):02x}" for letter in text)
    parts["percent"] = "".join(f"%{byte:02X}" for byte in data)

    assert reader().fetch(ImageRef(form.format(**parts))).data == data


def test_the_message_about_a_drawing_in_a_data_url_says_what_it_is() -> None:
    drawing = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()
    for url in (f"data:image/svg+xml;base64,{drawing}", "data:image/svg+xml,<svg%20xmlns='x'/>"):
        with pytest.raises(InvalidImage, match="SVG drawing: export it as PNG"):
            reader().fetch(ImageRef(url))


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:image/png,abc",
        "data:image/png;base64,a",
        "data:;base64,\u00e4\ud800",
        "data:image/png;base64,abcd-_",
        "data:image/png;base64,ab=c",
        "data:image/png;base64,a===",
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E",
    ],
)
def test_a_data_url_that_holds_no_image_is_refused(url: str) -> None:
    with pytest.raises(InvalidImage, match="data URL"):
        reader().fetch(ImageRef(url))


def test_millions_of_escapes_do_not_become_objects_all_at_once() -> None:
    tracemalloc.start()
    with pytest.raises(InvalidImage, match="data URL"):
        reader().fetch(ImageRef("data:image/png;base64," + "%41" * 1_000_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * 3_000_000


@pytest.mark.parametrize("size", [1025, 100_000])
def test_a_data_url_over_the_limit_is_refused(size: int) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(size)).decode()
    with pytest.raises(ImageTooLarge):
        reader(max_image_bytes=1024).fetch(ImageRef(url))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("url", ["/data/local-files/?d=sub/a%20b.png", "/data/local-files?d=sub%2Fa+b.png"])
def test_local_files_are_read_from_disk_without_any_request(files: Path, url: str) -> None:
    assert reader(local_files_root=files).fetch(ImageRef(url)).data == png()


@pytest.mark.parametrize(
    "url",
    [
        "/data/local-files/?d=sub\\a%20b.png",
        "/data/local-files/?d=sub%5Ca%20b.png",
        "\\data\\local-files\\?d=sub\\a b.png",
        "{url}\\data/local-files/?d=sub%5ca+b.png",
    ],
)
def test_backslashes_of_local_files_are_slashes(files: Path, studio: FakeLabelStudio, url: str) -> None:
    ref = ImageRef(url.replace("{url}", studio.url))
    assert reader(studio, local_files_root=files).fetch(ref).data == png()
    assert studio.requests == []


def test_a_file_whose_name_holds_a_backslash_goes_before_the_folder(files: Path) -> None:
    (files / "sub\\a b.png").write_bytes(png(4, 4))
    read = reader(local_files_root=files).fetch(ImageRef("/data/local-files/?d=sub%5Ca%20b.png"))
    assert read.data == png(4, 4)


def test_local_files_of_label_studios_full_address_are_read_from_disk(files: Path, studio: FakeLabelStudio) -> None:
    url = f"{studio.url}/data/local-files/?d=sub/a%20b.png"
    assert reader(studio, local_files_root=files).fetch(ImageRef(url)).data == png()
    assert studio.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "sub/../../secret.png",
        "%2e%2e/secret.png",
        "/etc/passwd",
        "link.png",
        "..\\..",
        "sub\\..\\..\\secret.png",
        "..%5Csecret.png",
        "\\etc\\passwd",
        "nope",
    ],
)
def test_a_path_out_of_the_root_is_refused(files: Path, path: str) -> None:
    with pytest.raises((ImageNotAllowed, ImageUnavailable)) as caught:
        reader(local_files_root=files).fetch(ImageRef(f"/data/local-files/?d={path}"))
    assert isinstance(caught.value, ImageNotAllowed) == (path != "nope")
    assert str(files) not in str(caught.value)


@pytest.mark.parametrize("path", ["", "sub", "pipe", "loop", "a%00b", "x" * 5000])
def test_what_is_no_file_is_explained(files: Path, path: str) -> None:
    with pytest.raises(ImageUnavailable, match="M2N2_LOCAL_FILES_ROOT"):
        reader(local_files_root=files).fetch(ImageRef(f"/data/local-files/?d={path}"))


def test_a_local_file_over_the_limit_is_refused(files: Path) -> None:
    (files / "large.png").write_bytes(bytes(2000))
    with pytest.raises(ImageTooLarge):
        reader(local_files_root=files, max_image_bytes=1024).fetch(ImageRef("/data/local-files/?d=large.png"))


def test_without_a_root_local_files_are_asked_of_label_studio(studio: FakeLabelStudio) -> None:
    assert reader(studio, LEGACY).fetch(ImageRef("/data/local-files/?d=a.png")).data == png()
