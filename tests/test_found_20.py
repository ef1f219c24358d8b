"""What a review of issue 20 found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "worker"))  # its stood-in processes
from test_supervision import Make, make, nothing  # noqa: F401
from waiting import until

from m2n2_backend.errors import DeadlinePassed, ImageNeeded, ImageRefused, NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.messages import Figures, Reply

KILLER = Prompts((Click(1, 3),))


@pytest.mark.parametrize("said", [ImageNeeded("its file is needed"), NotReady("busy"), DeadlinePassed("too late")])
def test_only_a_mask_says_that_prompts_are_harmless(make: Make, said: Exception) -> None:  # noqa: F811
    """A worker that was started again has no image in memory, and asks for its file before it dies again."""
    rig = make(1).ready()
    for _ in range(2):
        asked = rig.ask("image", prompts=KILLER)
        life = rig.child(0)
        until(lambda life=life: life.keys == ["image"])  # type: ignore[misc]
        rig.at_start = nothing
        life.die("image", clicked=["image"])
        until(lambda life=life: rig.child(0) is not life)  # type: ignore[misc]
        if rig.pool._poison.refusal("image", KILLER) is not None:
            break
        rig.child(0).get_ready()
        rig.ready()
        until(lambda: rig.child(0).keys == ["image"])
        number, _ = rig.child(0).sent.pop()
        rig.child(0).said.put((number, Reply(said, Figures())))
        with pytest.raises(type(said)):
            asked.result(120)

    with pytest.raises(ImageRefused, match="these clicks"):
        rig.ask("image", prompts=KILLER, seconds=1).result(120)
