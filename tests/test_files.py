"""One way to write a file that others may read meanwhile."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from m2n2_backend.files import create_file, replace_file


def test_a_file_takes_the_place_of_an_older_one_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"

    replace_file(path, b"first")
    replace_file(path, b"second")

    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_put_there_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken" / "below").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        replace_file(tmp_path / "taken", b"data")

    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target.json", tmp_path / "link.json"
    replace_file(target, b"first")
    link.symlink_to(target)

    replace_file(link, b"second")

    assert link.is_symlink()
    assert target.read_bytes() == b"second"


def test_a_pipe_is_written_to_instead_of_being_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(pipe.read_bytes)
        replace_file(pipe, b"data")

        assert read.result(timeout=60) == b"data"
    assert pipe.is_fifo()


def test_of_many_that_create_a_file_at_once_one_is_the_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"

    with ThreadPoolExecutor(16) as threads:
        first = list(threads.map(lambda number: create_file(path, b"%d" % number), range(16)))

    assert first.count(True) == 1
    assert path.read_bytes() == b"%d" % first.index(True)
    assert list(path.parent.iterdir()) == [path]
