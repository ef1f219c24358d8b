"""Runs code as a program of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def program(folder: Path, code: str) -> dict[str, Any]:
    """Write code to a file; returns `args` and `env` for `subprocess` to run it with a cache in the same folder."""
    script = folder / "program.py"
    script.write_text(code)
    environment = {**os.environ, "M2N2_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    return {"args": [sys.executable, str(script)], "env": environment}
