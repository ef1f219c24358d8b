from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, pkgutil, sys
from numba.core.registry import CPUDispatcher
import m2n2_backend.m2n2 as package
from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.hyperparameters import DESPECKLE, LEAST_CELLS, Hyperparameters
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Box, Click
from m2n2_backend.resources import sample_photographs
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.replica.engine import Engine

names = [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
modules = [importlib.import_module(name) for name in names]
kernels = {own for module in modules for own in vars(module).values() if isinstance(own, CPUDispatcher)}

def compiled():
    return {(own.py_func.__name__, str(signature)) for own in kernels for signature in own.signatures}

backbone = ColorAffinity()
Engine(backbone, load_settings(cache_dir=sys.argv[1], device="cpu")).warm_up()
before = compiled()
assert len(before) > 10
segmenter = Segmenter(backbone, Hyperparameters(refine=True, least_cells=LEAST_CELLS, despeckle=DESPECKLE))
for path in sample_photographs():
    state = segmenter.encode(decode_image(path.read_bytes(), max_pixels=10**7))
    clicks = [Click(200, 200), Click(20, 20, positive=False), Click(250, 120), Click(90, 240, positive=False)]
    segmenter.segment(state, clicks)
    segmenter.segment(state, clicks, Box(50, 50, 300, 280))
print(sorted(compiled() - before))
"""


def test_no_click_waits_for_a_kernel_that_the_warm_up_left_uncompiled(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout
