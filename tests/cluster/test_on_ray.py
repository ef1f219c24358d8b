"""Real replicas on Ray Serve, on one machine: who answers, how often the model runs, what a death costs."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed; make cluster-test has it", allow_module_level=True)

from counted import HELD, KILLER, entered, hold, load_counted, load_never, model_runs
from ray_machine import ray_machine
from waiting import until

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.commands.bench.photographs import jpeg, photograph
from m2n2_backend.errors import DeadlinePassed, ImageNeeded, ImageRefused, InvalidImage, InvalidPrompt, NotReady
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.settings import Settings, load_settings
from m2n2_backend.worker.cluster.board import STALE_SECONDS, board
from m2n2_backend.worker.cluster.claims import BoardClaims
from m2n2_backend.worker.cluster.deployment import Size, deployed, remove
from m2n2_backend.worker.cluster.pool import RayPool
from m2n2_backend.worker.cluster.replica import deploy
from m2n2_backend.worker.interface import Answer, SourceImage, Work

# Ray and what it brings warn of what is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = (160, 120)
ONE = Prompts((Click(80, 60),))
PATIENCE = 240.0


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    with ray_machine(cpus=6) as ray:
        yield ray


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("cluster")
    return load_settings(
        backbone="color", grid=24, device="cpu", threads=1, cache_dir=folder, store=str(folder / "store")
    )


@pytest.fixture(scope="module")
def pool(ray: ModuleType, settings: Settings) -> Iterator[RayPool]:
    deploy(settings, Size(replicas=2), load_counted)
    pool = RayPool(settings)
    until(lambda: pool.status().state == "ready")
    yield pool
    pool.close()


def image(number: int, *, with_data: bool = True, size: tuple[int, int] = SIZE) -> SourceImage:
    data = jpeg(photograph(size, number))
    image = SourceImage.of(data)
    return image if with_data else image.without_data()


def ask(pool: RayPool, number: int, prompts: Prompts = ONE) -> Answer:
    return pool.segment(Work(image(number), prompts, PATIENCE))


def alone(settings: Settings, number: int, prompts: Prompts = ONE, *, size: tuple[int, int] = SIZE) -> np.ndarray:
    segmenter = Segmenter(backbone_loader(settings)(), settings.method())
    data = image(number, size=size).data
    assert data is not None
    return segmenter.segment(segmenter.encode(decode_image(data, max_pixels=10**7)), prompts.clicks).mask


def test_twenty_simultaneous_first_clicks_on_one_image_run_the_model_once(pool: RayPool, settings: Settings) -> None:
    before = model_runs(settings.cache_dir).total()
    with ThreadPoolExecutor(20) as annotators:
        answers = list(annotators.map(lambda _: ask(pool, 1), range(20)))

    assert model_runs(settings.cache_dir).total() - before == 1
    expected = alone(settings, 1)
    assert all(np.array_equal(answer.mask, expected) for answer in answers)
    assert {answer.model_version for answer in answers} == {pool.status().model_version}


def test_a_large_photograph_is_answered_in_views_which_the_next_click_finds_again(
    pool: RayPool, settings: Settings
) -> None:
    size = (1500, 1100)
    photographed = image(5, size=size)
    first, second = Prompts((Click(700, 500),)), Prompts((Click(700, 500), Click(720, 540)))

    before = model_runs(settings.cache_dir).total()
    answer = pool.segment(Work(photographed, first, PATIENCE))
    encoded = model_runs(settings.cache_dir).total() - before
    assert 2 <= encoded <= 3, "the whole photograph and one view or two"
    assert answer.view.startswith("view "), answer.view
    assert np.array_equal(answer.mask, alone(settings, 5, first, size=size))

    answer = pool.segment(Work(photographed, second, PATIENCE))
    assert np.array_equal(answer.mask, alone(settings, 5, second, size=size))
    assert model_runs(settings.cache_dir).total() - before == encoded, "a further click in the view encodes nothing"


def test_images_are_spread_over_the_replicas_and_each_is_encoded_once(pool: RayPool, settings: Settings) -> None:
    before = model_runs(settings.cache_dir)
    for number in [*range(10, 26), *range(10, 26)]:
        ask(pool, number)

    after = model_runs(settings.cache_dir)
    assert (after - before).total() == 16
    assert max(after.values()) == 1
    until(lambda: sum(worker.figures.encoded for worker in pool.stats()) >= 16)
    assert all(worker.figures.encoded > 0 for worker in pool.stats())


def test_errors_travel_as_what_they_are(pool: RayPool) -> None:
    with pytest.raises(ImageNeeded):
        pool.segment(Work(image(90, with_data=False), ONE, PATIENCE))
    with pytest.raises(InvalidImage):
        pool.segment(Work(SourceImage("ff00", b"no image"), ONE, PATIENCE))
    with pytest.raises(InvalidPrompt, match="outside"):
        ask(pool, 1, Prompts((Click(5000, 5000),)))


def test_a_deadline_that_has_passed_is_told(pool: RayPool) -> None:
    with pytest.raises(DeadlinePassed):
        pool.segment(Work(image(91), ONE, 0.0))


def test_a_prefetched_image_is_encoded_before_its_click(pool: RayPool, settings: Settings) -> None:
    before = model_runs(settings.cache_dir).total()
    assert pool.prefetch(image(40))
    until(lambda: model_runs(settings.cache_dir).total() > before)
    ask(pool, 40)
    assert model_runs(settings.cache_dir).total() == before + 1


def test_each_replica_is_seen_with_its_node_and_the_age_of_its_figures(pool: RayPool, ray: ModuleType) -> None:
    node = ray.util.get_node_ip_address()
    assert [worker.node for worker in pool.stats()] == [node, node]
    assert all(worker.alive and worker.silence < 60 and worker.figures.tiers for worker in pool.stats())
    assert len({worker.name for worker in pool.stats()}) == 2


def test_a_replica_that_is_killed_costs_no_answer_and_no_second_run_of_the_model(
    pool: RayPool, settings: Settings
) -> None:
    numbers = range(50, 58)
    masks = [ask(pool, number).mask for number in numbers]
    until(lambda: all((settings.cache_dir / "store").rglob(f"{image(number).key}.*") for number in numbers))
    before = model_runs(settings.cache_dir)
    victim = pool._reports[0][0]

    os.kill(victim.pid, signal.SIGKILL)
    again = [ask(pool, number).mask for number in numbers]

    assert all(np.array_equal(one, other) for one, other in zip(masks, again, strict=True))
    assert model_runs(settings.cache_dir) == before, "the store answers for the dead one"
    until(
        lambda: (
            pool.status().state == "ready"
            and victim.replica not in {worker.name for worker in pool.stats() if worker.alive}
        )
    )


def test_an_image_that_another_replica_encodes_is_waited_for_until_that_falls_silent(
    pool: RayPool, settings: Settings
) -> None:
    elsewhere, before = BoardClaims("a replica that dies"), model_runs(settings.cache_dir).total()
    elsewhere.board, start = board(), time.monotonic()
    assert elsewhere.take(image(70).key)

    assert np.array_equal(ask(pool, 70).mask, alone(settings, 70))
    assert time.monotonic() - start >= STALE_SECONDS
    assert model_runs(settings.cache_dir).total() == before + 1


def test_the_image_of_a_replica_that_is_killed_while_it_encodes_is_encoded_by_another_one(
    pool: RayPool, settings: Settings
) -> None:
    before, held = model_runs(settings.cache_dir).total(), image(71, size=HELD)
    hold(settings.cache_dir, held=True)
    with ThreadPoolExecutor(1) as annotators:
        answer = annotators.submit(pool.segment, Work(held, Prompts((Click(40, 30),)), PATIENCE))
        until(lambda: entered(settings.cache_dir))
        os.kill(entered(settings.cache_dir)[0], signal.SIGKILL)
        until(lambda: len(entered(settings.cache_dir)) == 2)
        hold(settings.cache_dir, held=False)
        assert answer.result(PATIENCE).mask.shape == HELD[::-1]
    assert model_runs(settings.cache_dir).total() == before + 1
    until(lambda: pool.status().state == "ready")


def test_an_image_that_kills_its_replica_takes_two_of_them_however_many_web_processes_there_are(
    pool: RayPool, settings: Settings
) -> None:
    killer, before = image(72, size=KILLER), len(entered(settings.cache_dir))
    work, other = Work(killer, Prompts((Click(40, 30),)), PATIENCE), RayPool(settings)
    with pytest.raises(NotReady, match="2 times with this image"):
        pool.segment(work)
    until(lambda: killer.key in other._quarantine.suspects & pool._quarantine.suspects)

    for each in (other, pool):
        with pytest.raises(ImageRefused, match="down 2 times"):
            each.segment(work)
        assert not each.prefetch(killer)
    other.close()
    assert len(entered(settings.cache_dir)) - before == 2
    until(lambda: pool.status().state == "ready")


def test_clicks_are_answered_while_the_board_is_lost_and_it_fills_again(
    pool: RayPool, settings: Settings, ray: ModuleType
) -> None:
    ray.kill(board())
    assert np.array_equal(ask(pool, 73).mask, alone(settings, 73))
    until(lambda: pool.status().state == "ready" and all(worker.silence < STALE_SECONDS for worker in pool.stats()))
    assert len(pool.stats()) == 2


def test_a_new_model_serves_when_it_is_ready_and_the_old_one_until_then(
    pool: RayPool, settings: Settings, ray: ModuleType
) -> None:
    old = pool.status().model_version
    newer = settings.model_copy(update={"grid": 28})
    old_name = deployed(ray)[0].name

    new_name = deploy(newer, Size(replicas=1), load_counted)
    versions = [ask(pool, 60).model_version]
    while versions[-1] == old and len(versions) < 10_000:
        versions.append(ask(pool, 60).model_version)
    remove(ray, old_name)

    assert versions[0] == old
    assert versions[-1] != old
    until(lambda: [each.name for each in deployed(ray)] == [new_name] and pool.status().state == "ready")
    assert ask(pool, 60).model_version == pool.status().model_version == versions[-1]


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why(
    pool: RayPool, settings: Settings, ray: ModuleType
) -> None:
    good = ask(pool, 60).model_version
    name = deploy(settings.model_copy(update={"grid": 32}), Size(replicas=1), load_never)

    until(lambda: pool.status().detail == "no weights are there: fetch them")
    assert pool.status().state == "degraded"
    assert ask(pool, 60).model_version == good
    remove(ray, name)
    until(lambda: pool.status().state == "ready")
