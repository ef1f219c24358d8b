"""Which images and prompts are blamed for the deaths of a worker."""

from __future__ import annotations

import pytest
from stood_in_workers import ONE, Make, nothing
from waiting import until

from m2n2_backend.errors import DeadlinePassed, ImageNeeded, ImageRefused, NotReady
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.local.handle import Died
from m2n2_backend.worker.messages import InWork, Reply
from m2n2_backend.worker.quarantine import REFUSED_SECONDS

KILLER = Prompts((Click(1, 3),))


@pytest.mark.parametrize("said", [ImageNeeded("its file is needed"), NotReady("busy"), DeadlinePassed("too late")])
def test_only_a_mask_says_that_prompts_are_harmless(make: Make, said: Exception) -> None:
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


def test_prompts_that_only_waited_while_others_brought_the_process_down_are_not_refused(make: Make) -> None:
    rig, harmless = make(1).ready(), Prompts((Click(2, 2),))
    asked = rig.begun("image", prompts=KILLER)
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


def test_an_image_whose_callers_were_told_that_it_took_too_long_is_blamed_for_the_death(make: Make) -> None:
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


def test_an_image_in_work_at_two_deaths_is_refused_for_ten_minutes_with_the_reason(make: Make) -> None:
    rig = make(1).ready()
    asked = rig.ask("poison")
    for life in range(2):
        until(lambda life=life: len(rig.lives["cuda:0"]) == life + 1 and rig.child(0).keys == ["poison"])  # type: ignore[misc]
        rig.child(0).die("poison")
    with pytest.raises(ImageRefused, match="brought the model's process down 2 times"):
        asked.result(120)

    rig.ready()
    with pytest.raises(ImageRefused, match="10 minutes"):
        rig.ask("poison").result(120)
    assert rig.pool.stats()[0].restarts == 2
    rig.now += REFUSED_SECONDS
    rig.child(0).said.put(Figures())
    rig.ready()
    again = rig.begun("poison", seconds=90)
    assert rig.answered(again).mask.any()


def test_prompts_that_bring_the_process_down_are_refused_and_other_clicks_on_the_image_are_not(make: Make) -> None:
    rig = make(1).ready()

    def brought_down(x: int) -> None:
        prompts = Prompts((Click(x, 3),))
        asked = rig.ask("image", prompts=prompts)
        for _ in range(2):
            life = rig.child(0)
            until(lambda life=life: prompts in [work.prompts for _, work in life.sent])  # type: ignore[misc]
            life.die(clicked=[("image", prompts)])
            until(lambda life=life: rig.child(0) is not life)  # type: ignore[misc]
            rig.ready()
        with pytest.raises(ImageRefused, match="these clicks on this image brought the model's process down 2 times"):
            asked.result(120)

    brought_down(1)
    with pytest.raises(ImageRefused, match="these clicks"):
        rig.ask("image", prompts=Prompts((Click(1, 3),))).result(120)
    other = rig.begun("image", prompts=Prompts((Click(2, 3),)))
    assert rig.answered(other).mask.any(), "to everybody else the image is as good as any"

    brought_down(3)
    brought_down(4)
    with pytest.raises(ImageRefused, match=r"^clicks on this image brought the model's process down 4 times"):
        rig.ask("image", prompts=Prompts((Click(5, 3),))).result(120)


def test_only_what_was_in_work_counts_and_an_answer_clears_it(make: Make) -> None:
    rig = make(1).ready()
    for _ in range(3):
        asked = [rig.ask("worked on"), rig.ask("waiting")]
        life = rig.child(0)
        until(lambda life=life: len(life.sent) == 2)  # type: ignore[misc]
        life.die("worked on", "answered long ago")
        until(lambda life=life: rig.child(0) is not life and len(rig.child(0).sent) == 2)  # type: ignore[misc]
        rig.child(0).answer(0)
        rig.child(0).answer(1)
        assert all(each.result(120).mask.any() for each in asked), "neither is refused"


def test_a_prefetch_in_work_at_a_death_is_never_tried_again(make: Make) -> None:
    rig = make(1).ready()
    assert rig.pool.prefetch(SourceImage("a", b"file"))
    until(lambda: rig.child(0).keys == ["a"])
    rig.child(0).die("a")
    until(lambda: len(rig.lives["cuda:0"]) == 2)
    rig.ready()

    assert not rig.pool.prefetch(SourceImage("a", b"file"))
    asked = rig.ask("a")
    until(lambda: rig.child(0).sent)
    assert [work.prompts for _, work in rig.child(0).sent] == [ONE], "the click alone"
    rig.child(0).die("a")
    with pytest.raises(ImageRefused):
        asked.result(120)
