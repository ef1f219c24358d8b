"""The cores a container gives, by the files its kernel shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from m2n2_backend.backbones.device.cores import usable_cores


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 cores, of which the scheduler allows 12."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cores(folder: Path, own: str = "0::/\n") -> int:
    (folder / "own").write_text(own)
    return usable_cores(folder / "cgroup", folder / "own")


def test_without_a_quota_the_schedulers_affinity_holds(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "max 100000\n")

    assert cores(tmp_path) == 12
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 12


def test_a_containers_quota_holds_rounded_up(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "250000 100000\n")

    assert cores(tmp_path) == 3


def test_the_least_quota_of_all_groups_above_holds(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/team/cpu.max", "200000 100000\n")
    write(tmp_path / "cgroup/team/service/cpu.max", "max 100000\n")

    assert cores(tmp_path, "0::/team/service\n") == 2


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "cgroup/cpu/cpu.cfs_period_us", "100000\n")

    assert cores(tmp_path, "4:cpu,cpuacct:/\n") == 1
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert cores(tmp_path, "4:cpu,cpuacct:/\n") == 12


def test_where_the_system_has_no_affinity_all_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")

    assert cores(tmp_path) == 16
