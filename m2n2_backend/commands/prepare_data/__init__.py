"""``m2n2-backend prepare-data``: the benchmarks' archives → folders that ``evaluate`` reads."""

from __future__ import annotations

import importlib.util
import io
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from m2n2_backend.commands.prepare_data.archive import files_of
from m2n2_backend.commands.prepare_data.download import download
from m2n2_backend.commands.progress import counted
from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data.datasets import load_samples
from m2n2_backend.evaluation.data.masks import MaskRule, read_label

_FBRS = "https://github.com/saic-vul/fbrs_interactive_segmentation/releases/download/v1.0"
_BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_MIB = 1024**2


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and what becomes of it.

    Attributes:
        address: Where the archive is downloaded from.
        most: The largest size of the archive, in bytes.
        folders: Folder in the archive, by the end of its path → folder below the root; other files are left out.
        rule: How masks are read that are written anew as 255 object, 0 background, 128 ignored; None keeps all files.
        md5: The archive's sum; None where its publisher names none: those zip files carry a sum of each file.
    """

    address: str
    most: int
    folders: Mapping[str, str]
    rule: MaskRule | None = None
    md5: str | None = None


SOURCES: dict[str, Source] = {
    "grabcut": Source(
        f"{_FBRS}/GrabCut.zip", 64 * _MIB, {"data_GT": "images", "boundary_GT": "masks"}, rule="trimap"
    ),
    # Its masks are read by a rule of their own, under its own name.
    "berkeley": Source(f"{_FBRS}/Berkeley.zip", 64 * _MIB, {"images": "images", "masks": "masks"}),
    "davis": Source(f"{_FBRS}/DAVIS.zip", 256 * _MIB, {"img": "images", "gt": "masks"}, rule="nonzero"),
    "coco_mval": Source(f"{_FBRS}/COCO_MVal.zip", 512 * _MIB, {"img": "images", "gt": "masks"}, rule="nonzero"),
    "sbd": Source(
        f"{_BERKELEY}/benchmark.tgz",
        2048 * _MIB,
        {"dataset/img": "img", "dataset/inst": "inst", "dataset/cls": "cls"},
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
    ),
}
"""Data sets by the name that ``evaluate`` has for them; f-BRS published the archives that RITM and the paper use."""


def prepare_data(dataset: str, root: Path, console: Console, sources: Mapping[str, Source] = SOURCES) -> int:
    """Download an archive, and lay its files out as ``evaluate --dataset NAME --root DIR`` reads them.

    GrabCut, Berkeley, DAVIS and COCO_MVal become ``images/STEM.*`` and ``masks/STEM.*``. GrabCut's border of unknown
    pixels stays 128. SBD becomes ``val.txt``, ``img/``, ``inst/`` and ``cls/`` of its validation images: instances
    and classes from one folder. Nothing is at its place before all is there.

    Args:
        dataset: One of ``sources``.
        root: Folder of this data set; the archive is kept in ``downloads/`` below it until all is done.

    Returns:
        Number of samples.

    Raises:
        DatasetError: Unknown name, the archive cannot be downloaded or is not what it should be, something else is
            there, or scipy is missing.
    """
    if dataset not in sources:
        raise DatasetError(f"no archive of {dataset} is known: there are {', '.join(sources)}")
    if dataset == "sbd" and importlib.util.find_spec("scipy") is None:
        raise DatasetError("SBD's label files need scipy: pip install '.[eval]' in a checkout")
    source = sources[dataset]
    there = [root / folder for folder in source.folders.values() if (root / folder).exists()]
    if not there:
        archive = root / "downloads" / source.address.rpartition("/")[2]
        try:
            download(source.address, archive, most=source.most, md5=source.md5, console=console)
            _lay_out(dataset, source, archive, root, console)
        except OSError as error:
            raise DatasetError(f"{root} cannot be written: {error}") from error
    try:
        count = len(load_samples(dataset, root))
    except DatasetError as error:
        raise DatasetError(f"{error}; remove {', '.join(map(str, there)) or root} and run this again") from error
    shutil.rmtree(root / "downloads", ignore_errors=True)
    console.print(f"{dataset}: {count} samples in {root}", highlight=False, soft_wrap=True)
    return count


def _lay_out(dataset: str, source: Source, archive: Path, root: Path, console: Console) -> None:
    """Write all files beside their place, then put them there."""
    building = root / "downloads" / "unpacked"
    shutil.rmtree(building, ignore_errors=True)
    stems: Collection[str] | None = None
    if dataset == "sbd":
        listing = next((content for path, content in files_of(archive) if path.match("dataset/val.txt")), None)
        if listing is None:
            raise DatasetError(f"{archive} holds no val.txt: it is not SBD's archive; remove it and run this again")
        building.mkdir(parents=True)
        (building / "val.txt").write_bytes(listing)
        stems = frozenset(listing.decode("ascii", "replace").split())
    for folder in source.folders.values():
        (building / folder).mkdir(parents=True, exist_ok=True)
    for folder, name, content in counted("unpack", _wanted(source, archive, stems), console):
        target = building / folder / name
        target.write_bytes(content)
        if source.rule is not None and folder == "masks":
            _rewrite(target, read_label(target, source.rule))
    for path in sorted(building.iterdir()):
        path.rename(root / path.name)


def _wanted(source: Source, archive: Path, stems: Collection[str] | None) -> Iterator[tuple[str, str, bytes]]:
    """Folder below the root, name and content."""
    found = False
    for path, content in files_of(archive):
        folder = _folder(source, path)
        if folder is not None and (stems is None or path.stem in stems):
            found = True
            yield folder, path.name, content
    if not found:
        wanted = ", ".join(source.folders)
        raise DatasetError(f"{archive} holds none of the folders {wanted}: it is not the data set; remove it")


def _folder(source: Source, path: PurePosixPath) -> str | None:
    return next((own for end, own in source.folders.items() if path.parent.match(end)), None)


def _rewrite(path: Path, label: NDArray[np.uint8]) -> None:
    """Replace a mask by STEM.png."""
    written = io.BytesIO()
    Image.fromarray(label).save(written, "PNG")
    path.unlink()
    path.with_suffix(".png").write_bytes(written.getvalue())
