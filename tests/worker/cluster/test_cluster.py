"""What a cluster needs and Ray is not asked for: its absence, who serves, the board, the figures that are shown."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from repository import ROOT
from typer.testing import CliRunner

from m2n2_backend.cli import app
from m2n2_backend.errors import ClusterUnavailable, SettingsError
from m2n2_backend.prompts import Click, Prompts
from m2n2_backend.server.metrics import Metrics
from m2n2_backend.server.status_page import RecentRequests, StatusPage
from m2n2_backend.settings import load_settings
from m2n2_backend.worker.cluster.board import FORGOTTEN_SECONDS, LONGEST_CLAIM_SECONDS, STALE_SECONDS, Board, Report
from m2n2_backend.worker.cluster.claims import BoardClaims
from m2n2_backend.worker.cluster.connection import connect, own_address
from m2n2_backend.worker.cluster.deployment import Deployed, Size, application_name, serving
from m2n2_backend.worker.cluster.pool import cause_of, loading_of
from m2n2_backend.worker.figures import Figures, Tier, WorkerStats
from m2n2_backend.worker.interface import Status
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.quarantine import DEATHS, REFUSED_SECONDS

ONE = Prompts((Click(1, 3),))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_SERVE_LOG_TO_STDERR", "0")


@pytest.mark.usefixtures("no_ray")
def test_a_missing_ray_is_an_error_that_names_the_extra() -> None:
    with pytest.raises(SettingsError, match=r'pip install ".\[cluster\]"'):
        connect(None)


def test_a_machines_own_address_is_the_one_on_the_way_to_the_head() -> None:
    assert own_address("127.0.0.1:6379") == "127.0.0.1"


@pytest.mark.parametrize("address", ["head", "head:port", "nosuchhost.invalid:6379"])
def test_an_address_that_is_none_is_named_with_its_setting(address: str) -> None:
    with pytest.raises(ClusterUnavailable, match=f"M2N2_RAY_ADDRESS={address}"):
        own_address(address)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    "command", [["cluster", "up"], ["cluster", "status"], ["cluster", "down"], ["serve", "--cluster"]]
)
def test_each_command_says_so_and_ends_with_1(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command])
    assert result.exit_code == 1
    assert ".[cluster]" in result.output


def generation(name: str, at: float, state: str, running: int) -> Deployed:
    return Deployed(name, state, "", at, {"RUNNING": running} if running else {"STARTING": 2})


def test_the_old_generation_serves_until_the_new_one_is_ready() -> None:
    old = generation("old", 1.0, "RUNNING", 2)
    assert serving([generation("new", 2.0, "DEPLOYING", 1), old], "old") == old
    new = generation("new", 2.0, "RUNNING", 2)
    assert serving([new, old], "old") == new


def test_a_generation_whose_number_of_replicas_changes_goes_on_serving() -> None:
    changing = generation("own", 2.0, "DEPLOYING", 1)
    assert serving([changing], "own") == changing


def test_a_generation_that_failed_leaves_the_old_one_serving() -> None:
    old = generation("old", 1.0, "RUNNING", 2)
    assert serving([generation("new", 2.0, "DEPLOY_FAILED", 0), old], "old") == old


def test_nobody_serves_where_no_replica_runs() -> None:
    assert serving([generation("new", 2.0, "DEPLOYING", 0)], None) is None


def test_what_changes_masks_is_a_generation_of_its_own_and_what_does_not_is_none(tmp_path: Path) -> None:
    one = load_settings(backbone="vit", model="some/vit", cache_dir=tmp_path)
    changes = {
        "backbone": "dinov2",
        "model": "other/vit",
        "layers": (5,),
        "grid": 56,
        "device": "cpu",
        "working_size": 512,
        "despeckle": 0.0,
        "least_cells": 1.0,
        "refine": False,
    }
    names = {application_name(one.model_copy(update={name: value})) for name, value in changes.items()}
    assert len(names | {application_name(one)}) == len(changes) + 1
    alike = {"queue": 3, "store": "s3://elsewhere", "cache_dir": tmp_path / "other", "disk_cache": 0, "threads": 2}
    assert application_name(one) == application_name(one.model_copy(update=alike))


def test_the_cause_of_a_failed_generation_is_the_models_own_sentence() -> None:
    message = (
        "deploying failed\nTraceback\n  File x\nm2n2_backend.errors.BackboneUnavailable: no weights: fetch them\n"
    )
    assert cause_of(Deployed("new", "DEPLOY_FAILED", message, 0.0, {})) == "no weights: fetch them"
    assert cause_of(Deployed("new", "RUNNING", message, 0.0, {})) == ""


def test_replicas_that_load_are_told_with_their_number_and_time() -> None:
    assert loading_of(generation("new", 100.0, "DEPLOYING", 0), 135.0) == "2 replicas, loading for 35 s"
    assert loading_of(None, 135.0) == ""


def report(name: str, waiting: int = 0) -> Report:
    return Report("app", name, f"actor {name}", "192.0.2.7", 1, "color-1", "color", "cpu", Figures(waiting=waiting))


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def board(now: list[float]) -> Board:
    return Board(lambda: now[0])


def test_the_board_has_the_latest_report_of_each_replica_and_its_age(board: Board, now: list[float]) -> None:
    board.put(report("a", 1))
    now[0] = 2.0
    board.put(report("b"))
    board.put(report("a", 5))
    now[0] = 3.0
    assert board.read() == [(report("a", 5), 1.0), (report("b"), 1.0)]


def test_the_board_forgets_replicas_that_are_silent_for_long_and_those_that_leave(
    board: Board, now: list[float]
) -> None:
    board.put(report("a"))
    board.put(report("b"))
    board.remove("actor b")
    assert [each.replica for each, _ in board.read()] == ["a"]
    now[0] = FORGOTTEN_SECONDS + 1
    assert board.read() == []


def test_of_many_that_claim_an_image_one_gets_it_until_it_lets_go(board: Board) -> None:
    assert [board.take("k", f"actor {name}") for name in "aabc"] == [True, True, False, False]
    board.release("k", "actor b")
    assert not board.take("k", "actor b"), "who does not hold a claim cannot end it"
    board.release("k", "actor a")
    assert board.take("k", "actor b")


def test_a_claim_lasts_while_its_holder_reports_and_ends_soon_after_it_falls_silent(
    board: Board, now: list[float]
) -> None:
    board.take("k", "actor a")
    for _ in range(10):
        now[0] += 0.9 * STALE_SECONDS
        assert not board.take("k", "actor b")
        board.put(report("a"))
    now[0] += STALE_SECONDS
    assert board.take("k", "actor b")
    assert not board.take("k", "actor a")
    now[0] += STALE_SECONDS
    board.read()
    assert not board._claims, "nobody asks for some images again"


def test_a_claim_of_a_replica_that_hangs_ends_although_it_reports(board: Board, now: list[float]) -> None:
    board.take("k", "actor a")
    now[0] = LONGEST_CLAIM_SECONDS - 1
    board.put(report("a"))
    assert not board.take("k", "actor b")
    now[0] += 1
    assert board.take("k", "actor b")


def test_claims_of_a_replica_that_died_or_left_end_at_once(board: Board) -> None:
    board.put(report("a"))
    board.take("k", "actor a")
    board.take("l", "actor a")
    board.died("k", "actor a", None)
    assert board.take("l", "actor b")
    board.remove("actor b")
    assert board.take("l", "actor c")


@pytest.mark.parametrize("prompts", [None, ONE])
def test_what_brings_replicas_down_is_refused_whichever_web_process_asks(
    board: Board, now: list[float], prompts: Prompts | None
) -> None:
    assert board.suspects() == set()
    for death in range(1, DEATHS):
        assert board.died("k", f"actor {death}", prompts) is None
        assert board.died("k", f"actor {death}", prompts) is None, "two web processes waited for one replica"
    assert board.suspects() == {"k"}
    refusal = board.died("k", "actor z", prompts)
    assert f"down {DEATHS} times" in str(refusal)
    assert str(board.refusal("k", prompts)) == str(pickle.loads(pickle.dumps(refusal)))
    other = board.refusal("k", Prompts((Click(40, 40),)))
    assert (other is None) == (prompts is not None), "other prompts on an image may still be tried"
    assert board.refusal("another", prompts) is None
    now[0] = REFUSED_SECONDS + 1
    assert board.refusal("k", prompts) is None
    assert board.suspects() == set()


def test_an_image_that_is_answered_is_not_a_suspect_any_more(board: Board) -> None:
    board.died("k", "actor a", ONE)
    board.survived("k", ONE)
    assert board.suspects() == set()
    assert board.died("k", "actor b", ONE) is None


def test_without_a_board_every_image_may_be_encoded() -> None:
    claims = BoardClaims("actor a")
    assert claims.take("k")
    claims.release("k")
    claims.close()


class Slow:
    """A board that gets what it is asked, and never answers; Ray as far as it is needed to ask."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda key, actor: self.asked.append(f"{name} {key}"))

    def get(self, answer: object, timeout: float) -> None:
        raise TimeoutError


def test_a_board_that_does_not_answer_is_asked_once_and_keeps_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, board = BoardClaims("actor a"), Slow()
    monkeypatch.setattr("m2n2_backend.worker.cluster.claims.import_ray", lambda: board)
    claims.board = board
    assert claims.take("k")
    assert claims.take("l")
    claims.release("k")
    assert board.asked == ["take k", "release k"]


def test_what_a_replica_is_started_with_holds_no_secret() -> None:
    settings = load_settings(label_studio_api_key="token-1234", basic_auth_user="me", basic_auth_password="pass-1234")
    sent = pickle.dumps(WorkerOptions.of(settings, "cpu"))
    assert b"token-1234" not in sent
    assert b"pass-1234" not in sent


class OneReplica:
    """A pool of one replica elsewhere."""

    def stats(self) -> list[WorkerStats]:
        tiers = {"memory": Tier(3, 9, 1, 0, 0, 0)}
        figures = Figures(waiting=2, encoded=7, encode_seconds=0.2, rss=5, tiers=tiers)
        return [WorkerStats("H200", True, figures, name="abcd1234", node="192.0.2.7", silence=1.5)]

    def status(self) -> Status:
        return Status("ready", "v", "b", "d")


def test_metrics_and_status_page_show_each_replica_by_name_with_node_and_age() -> None:
    pool = OneReplica()
    metrics = Metrics(pool).render().decode()  # type: ignore[arg-type]
    assert 'm2n2_worker_encoded_total{worker="abcd1234"} 7.0' in metrics
    assert 'm2n2_worker_silence{worker="abcd1234"} 1.5' in metrics
    assert 'm2n2_cache_bytes{tier="memory",worker="abcd1234"} 3.0' in metrics
    page = StatusPage().render(pool.status(), pool.stats(), RecentRequests())
    assert "H200 abcd1234 on 192.0.2.7, 2 s ago" in page


DOCKER = ROOT / "docker"


def ray_services() -> dict[str, dict[str, Any]]:
    services = yaml.safe_load((DOCKER / "compose.cluster.yaml").read_text())["services"]
    return {name: service for name, service in services.items() if "RAY_AUTH_MODE" in service.get("environment", {})}


def test_every_process_of_ray_in_compose_asks_for_the_token_and_publishes_no_port() -> None:
    services = ray_services()
    assert set(services) == {"ray-head", "ray-worker", "deploy", "web"}
    for service in services.values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert "ports" not in service
        assert service["read_only"] is True
    assert "--include-dashboard=false" in services["ray-head"]["command"]


def test_every_variable_of_the_clusters_compose_files_stands_in_an_example() -> None:
    used = set().union(*(set(re.findall(r"\$\{(\w+)", path.read_text())) for path in DOCKER.glob("compose.cluster*")))
    examples = "".join((DOCKER / name).read_text() for name in (".env.example", "cluster.env.example"))
    named = set(re.findall(r"^(\w+)=", examples, re.MULTILINE))
    # The image sets it, as for compose.yaml; the model's device follows from the file.
    assert used - named <= {"M2N2_DEVICE"}


def test_only_web_processes_are_given_label_studios_token() -> None:
    having = {name for name, service in ray_services().items() if "LABEL_STUDIO_API_KEY" in service["environment"]}
    assert having == {"web"}


def test_kuberays_service_asks_for_the_token_and_names_an_application_there_is() -> None:
    service, web, _ = yaml.safe_load_all((DOCKER / "rayservice.yaml").read_text())
    assert service["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token", "secretName": "m2n2-ray"}
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    [application] = serve["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert set(application["args"]) <= {field.name for field in fields(Size)}
    assert application["name"].startswith(application_name(load_settings())[:5]), "or web processes pass it over"
    [container] = web["spec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
