"""Programs of their own, for what only a whole process shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def program(folder: Path, code: str) -> dict[str, Any]:
    """The code as a file, and what `subprocess` needs to run it with a cache in the same folder: `args` and `env`."""
    script = folder / "program.py"
    script.write_text(code)
    environment = {**os.environ, "M2N2_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    return {"args": [sys.executable, str(script)], "env": environment}
