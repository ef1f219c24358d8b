"""Finds the samples in the benchmarks' folders, which are laid out as for RITM and SimpleClick."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.errors import DatasetError
from m2n2_backend.evaluation.data.masks import MaskRule, read_indices, read_label, read_rgb
from m2n2_backend.evaluation.protocol import ProtocolName

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".mat"})
"""Endings of photographs and masks; other files in the folders are ignored."""

SBD_IMAGES = 2857
"""Images of SBD's validation set; they hold 6671 instances."""


@dataclass(frozen=True)
class Layout:
    """Two folders, of photographs and of masks, with files of the same stems.

    Attributes:
        images: Name of the photographs' folder.
        masks: Name of the masks' folder.
        rule: How masks are read.
        count: Number of files in each folder of the complete set.
    """

    images: str
    masks: str
    rule: MaskRule
    count: int = 1


LAYOUTS: dict[str, Layout] = {
    "grabcut": Layout("data_GT", "boundary_GT", "trimap", 50),
    # 100 objects, but 96 photographs: fewer files than that are certainly too few.
    "berkeley": Layout("images", "masks", "trimap", 96),
    "davis": Layout("img", "gt", "nonzero", 345),
    "coco_mval": Layout("img", "gt", "nonzero", 800),
    "folder": Layout("images", "masks", "strict"),
}
"""Data sets whose masks are image files; only SBD has ``.mat`` files."""

DATASETS = (*LAYOUTS, "sbd")
"""Names that ``load_samples`` knows."""


@dataclass(frozen=True)
class Sample:
    """One object in one photograph.

    Attributes:
        name: Stem of the image file; for SBD followed by the object's index.
        image: File of the photograph.
        mask: File of the ground truth.
        rule: How ``mask`` is read.
        instance: Index of the instance or class in an SBD file.
    """

    name: str
    image: Path
    mask: Path
    rule: MaskRule
    instance: int = 0

    @property
    def photograph(self) -> Hashable:
        """Equal for the objects of one photograph, and for no others."""
        return self.image

    def rgb(self) -> NDArray[np.uint8]:
        """Read the photograph, uint8 [H, W, 3]; raises ``DatasetError`` if that fails."""
        return read_rgb(self.image)

    def label(self, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read the ground truth, uint8 [H, W]: 255 object, 128 ignored, 0 background.

        Args:
            size: (H, W) of the photograph.

        Raises:
            DatasetError: The file cannot be read, has no object, or differs in size from the photograph.
        """
        label = read_label(self.mask, self.rule, self.instance)
        if label.shape != size:
            raise DatasetError(
                f"{self.mask} has {label.shape[1]}x{label.shape[0]} pixels, its photograph {size[1]}x{size[0]}"
            )
        return label


def check_limit(limit: int | None, of: str) -> None:
    """Refuse a limit that leaves nothing; ``of`` says in the plural what it limits.

    Raises:
        DatasetError: The limit is not positive. None, for all, is right.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"a limit of {limit} {of} leaves nothing to evaluate")


def load_samples(dataset: str, root: Path, limit: int | None = None, protocol: ProtocolName = "ritm") -> list[Sample]:
    """Find all objects of a data set.

    A root with ``images/`` and ``masks/`` is read as ``folder`` under every name but ``sbd``, so that subsets and
    converted copies can be used; only the published layouts are checked for completeness.

    Args:
        dataset: One of ``DATASETS``.
        root: The folder that holds the layout's two folders.
        limit: Number of samples to use, from the first on; None for all.
        protocol: By ``released`` every value > 0 of a mask image is object, and SBD has an object for each class.

    Returns:
        At least one sample, sorted by name.

    Raises:
        DatasetError: The name is unknown, or files are missing; the message says which files are expected where.
    """
    if dataset not in DATASETS:
        raise DatasetError(f"unknown data set {dataset}: there are {', '.join(DATASETS)}")
    check_limit(limit, "samples")
    if dataset == "sbd":
        return _sbd(root, "class" if protocol == "released" else "instance")[:limit]
    layout = LAYOUTS[dataset]
    if dataset != "berkeley" and not (root / layout.images).is_dir() and (root / "images").is_dir():
        layout = LAYOUTS["folder"]
    if protocol == "released":
        layout = replace(layout, rule="nonzero")
    return _paired(dataset, root, layout)[:limit]


def data_fingerprint(samples: Iterable[Sample]) -> str:
    """16 hex digits over the names and sizes of all files of the samples."""
    digest = hashlib.sha256()
    for sample in samples:
        sizes = (sample.image.stat().st_size, sample.mask.stat().st_size)
        digest.update(f"{sample.name}\0{sizes[0]}\0{sizes[1]}\0".encode())
    return digest.hexdigest()[:16]


def _paired(dataset: str, root: Path, layout: Layout) -> list[Sample]:
    images = _by_stem(root / layout.images)
    masks = _by_stem(root / layout.masks)
    count = f" ({layout.count} of each)" if layout.count > 1 else ""
    expected = f"{root} should hold {layout.images}/STEM.* and {layout.masks}/STEM.*{count}"
    for folder, found in ((layout.images, images), (layout.masks, masks)):
        if not found:
            raise DatasetError(f"data set {dataset} not found: {expected}, but there are no files in {folder}/")
    _refuse_incomplete(dataset, expected, f"in {layout.masks}/", masks, images.keys())
    _refuse_incomplete(dataset, expected, f"in {layout.images}/", images, masks.keys())
    if len(images) < layout.count:
        raise DatasetError(f"data set {dataset} is incomplete: {expected}, but there are {len(images)}")
    return [Sample(stem, images[stem], masks[stem], layout.rule) for stem in sorted(images)]


def _sbd(root: Path, kind: Literal["instance", "class"]) -> list[Sample]:
    """Every instance or class in a validation image as a sample of its own."""
    folder = "inst" if kind == "instance" else "cls"
    expected = f"{root} should hold val.txt ({SBD_IMAGES} names), img/NAME.jpg and {folder}/NAME.mat"
    try:
        names = (root / "val.txt").read_text().split()
    except OSError as error:
        raise DatasetError(f"data set sbd not found: {expected}, but val.txt cannot be read") from error
    images, masks = _by_stem(root / "img"), _by_stem(root / folder)
    _refuse_incomplete("sbd", expected, f"in {folder}/", masks, names)
    _refuse_incomplete("sbd", expected, "in img/", images, names)
    if len(names) < SBD_IMAGES:
        raise DatasetError(f"data set sbd is incomplete: {expected}, but val.txt has {len(names)} names")
    return [
        Sample(f"{name}_{index:02d}", images[name], masks[name], kind, index)
        for name in sorted(names)
        for index in map(int, np.unique(read_indices(masks[name], kind)))
        if index > 0
    ]


def _by_stem(folder: Path) -> dict[str, Path]:
    """Images and .mat files by the part of the name before the last dot, without hidden and empty files."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
    return {
        path.stem: path
        for path in files
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.stat().st_size > 0
    }


def _refuse_incomplete(
    dataset: str, expected: str, where: str, present: Collection[str], wanted: Iterable[str]
) -> None:
    missing: Sequence[str] = sorted(set(wanted) - set(present))
    if missing:
        names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise DatasetError(
            f"data set {dataset} is incomplete: {expected}, but {len(missing)} are missing or empty {where}: {names}"
        )
