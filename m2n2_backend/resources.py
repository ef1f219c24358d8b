"""Files that the package ships."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def sample_photograph() -> Path:
    """NASA's portrait of Eileen Collins, public domain, 512×512 JPEG; see ``samples/README.md``."""
    return _PACKAGE / "samples" / "astronaut.jpg"


def sample_photographs() -> list[Path]:
    """All photographs that are shipped, without the pictures made of them."""
    return [_PACKAGE / "samples" / name for name in ("astronaut.jpg", "cat.jpg", "coffee.jpg")]


def label_config(name: str) -> Path:
    """A labeling config to paste into Label Studio.

    Args:
        name: ``brush``, ``polygon``, ``bitmask`` or ``shapes``; ``old/brush``, … are those that were shipped before.
    """
    # In the wheel the folder lies inside the package, in a source tree beside it.
    inside = _PACKAGE / "label_config"
    folder = inside if inside.is_dir() else _PACKAGE.parent / "label_config"
    return folder / f"{name}.xml"
