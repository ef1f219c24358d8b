"""Which images and prompts are blamed for the deaths of a worker."""

from __future__ import annotations

import pytest
from test_supervision import ONE, Make, make, nothing  # noqa: F401
from waiting import until

from m2n2_backend.errors import DeadlinePassed, ImageNeeded, ImageRefused, NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.local.handle import Died
from m2n2_backend.worker.messages import InWork, Reply

KILLER = Prompts((Click(1, 3),))


@pytest.mark.parametrize("said", [ImageNeeded("its file is needed"), NotReady("busy"), DeadlinePassed("too late")])
def test_only_a_mask_says_that_prompts_are_harmless(make: Make, said: Exception) -> None:  # noqa: F811
    """A worker that was started again has no image in memory, and asks for its file before it dies again."""
    rig = make(1).ready()
    for _ in range(2):
        asked = rig.ask("image", prompts=KILLER)
        life = rig.child(0)
        until(lambda life=life: life.keys == ["image"])
        rig.at_start = nothing
        life.die(clicked=[("image", KILLER)])
        until(lambda life=life: rig.child(0) is not life)
        if rig.pool._dispatcher.quarantine.refusal("image", KILLER) is not None:
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


def test_prompts_that_only_waited_while_others_brought_the_process_down_are_not_refused(make: Make) -> None:  # noqa: F811
    rig, harmless = make(1).ready(), Prompts((Click(2, 2),))
    asked = rig.ask("image", prompts=KILLER)
    until(lambda: rig.child(0).keys == ["image"])
    rig.ask("image", prompts=harmless)
    for _ in range(2):
        life = rig.child(0)
        until(lambda life=life: len(life.sent) == 2)
        life.die(clicked=[("image", KILLER)])  # in work are those that came first
        until(lambda life=life: rig.child(0) is not life)
        rig.ready()

    with pytest.raises(ImageRefused):
        asked.result(120)
    assert rig.pool._dispatcher.quarantine.refusal("image", harmless) is None


def test_an_image_whose_callers_were_told_that_it_took_too_long_is_blamed_for_the_death(make: Make) -> None:  # noqa: F811
    """M2N2_DEADLINE is below the time after which a step has hung: 30 s, or 10 times the slowest run of the model."""
    rig = make(1).ready()
    for _ in range(2):
        asked, life = rig.ask("image"), rig.child(0)
        until(lambda life=life: life.keys == ["image"])
        number, _ = life.sent[-1]
        life.said.put(InWork(frozenset({"image"})))
        life.said.put((number, Reply(DeadlinePassed("too late"), Figures(age=20.0, hang_seconds=30.0))))
        with pytest.raises(DeadlinePassed):
            asked.result(120)
        life.said.put(Died("did not answer for 31 s and was ended"))
        until(lambda life=life: rig.child(0) is not life)
        rig.ready()

    assert rig.pool._dispatcher.quarantine.refusal("image", ONE) is not None
