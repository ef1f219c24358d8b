"""Deploy replicas to a Ray cluster, look at them, and take them down."""

from __future__ import annotations

import time
from types import ModuleType

from rich.console import Console
from rich.table import Table

from m2n2_backend.errors import ClusterUnavailable
from m2n2_backend.settings import Settings
from m2n2_backend.worker.cluster.board import STALE_SECONDS, board
from m2n2_backend.worker.cluster.connection import connect, start_cluster
from m2n2_backend.worker.cluster.deployment import Size, application_name, deployed, remove
from m2n2_backend.worker.cluster.pool import cause_of
from m2n2_backend.worker.cluster.replica import deploy

HAND_OVER_SECONDS = 10.0
"""Time for which a new generation serves before the old one goes. Web processes look every second which serves."""

_LOOK_SECONDS = 1.0


def up(settings: Settings, size: Size, *, patience: float, replace: bool, console: Console) -> None:
    """Deploy the settings' model and wait until it serves; what served before is taken down afterwards.

    Args:
        settings: Settings of the replicas, and the cluster's address; without an address, a cluster of this machine
            is started where none runs.
        size: Number of replicas and what each gets.
        patience: Seconds after which this gives up waiting for the model; what served before goes on serving.
        replace: Whether what served before is taken down first, because there is no room for both.
        console: Shows progress.

    Raises:
        SettingsError: Ray is not installed.
        ClusterUnavailable: The cluster cannot be reached, the model cannot be loaded there, or it takes too long.
    """
    ray = _connect_or_start(settings, size, console)
    name = application_name(settings)
    older = [each.name for each in deployed(ray) if each.name != name]
    if replace:
        _remove(ray, older, console)
    deploy(settings, size)
    console.print(f"{name}: deployed, waiting for its replicas")
    _await_running(ray, name, time.monotonic() + patience)
    console.print(f"[green]{name} serves[/]")
    if older and not replace:
        time.sleep(HAND_OVER_SECONDS)
        _remove(ray, older, console)


def status(settings: Settings, console: Console) -> None:
    """Print all generations and their replicas.

    Raises:
        SettingsError: Ray is not installed.
        ClusterUnavailable: The cluster cannot be reached.
    """
    ray = connect(settings.ray_address)
    generations = deployed(ray)
    for each in generations:
        counts = ", ".join(f"{number} {state.lower()}" for state, number in each.replicas.items())
        console.print(
            f"[bold]{each.name}[/] {each.state.lower()}: {counts or 'no replicas'} {cause_of(each)}".strip()
        )
    if not generations:
        console.print("nothing is deployed: m2n2-backend cluster up")
        return
    columns = ("replica", "node", "device", "waiting", "encoded", "images in memory", "resident MB", "figures of")
    table, troubles = Table(*columns), set[str]()
    for report, age in sorted(ray.get(board().read.remote()), key=lambda each: each[0].replica):
        figures = report.figures
        memory = figures.tiers["memory"].entries if "memory" in figures.tiers else 0
        troubles |= {f"{report.node}: {tier.trouble}" for tier in figures.tiers.values() if tier.trouble}
        counted = (figures.waiting, figures.encoded, memory, figures.rss // 2**20)
        reported = f"{age:.0f} s ago" + (" (silent)" if age > STALE_SECONDS else "")
        table.add_row(report.replica, report.node, report.device, *map(str, counted), reported)
    console.print(table)
    for sentence in sorted(troubles):
        console.print(sentence, soft_wrap=True, markup=False)


def down(settings: Settings, console: Console) -> None:
    """Take down all our generations, and the board; Ray itself goes on.

    Raises:
        SettingsError: Ray is not installed.
        ClusterUnavailable: The cluster cannot be reached.
    """
    ray = connect(settings.ray_address)
    names = [each.name for each in deployed(ray)]
    _remove(ray, names, console)
    ray.kill(board())
    console.print("Ray itself goes on; `ray stop` ends it on a machine" if names else "nothing was deployed")


def _connect_or_start(settings: Settings, size: Size, console: Console) -> ModuleType:
    try:
        return connect(settings.ray_address)
    except ClusterUnavailable:
        if settings.ray_address is not None:
            raise
    console.print("no cluster here: starting one of this machine alone")
    start_cluster(cpus=max(1, round((size.most or size.replicas) * size.cpus)))
    return connect(None)


def _await_running(ray: ModuleType, name: str, until: float) -> None:
    while time.monotonic() < until:
        found = next((each for each in deployed(ray) if each.name == name), None)
        if found is not None and found.state == "RUNNING":
            return
        if found is not None and found.state == "DEPLOY_FAILED":
            raise ClusterUnavailable(f"{name} cannot be deployed: {cause_of(found)}")
        time.sleep(_LOOK_SECONDS)
    states = dict(found.replicas) if found is not None else {}
    raise ClusterUnavailable(
        f"{name} is not ready: {states}; what served before goes on. Replicas may wait for CPUs or GPUs that the old "
        "ones hold: --replace takes those down first"
    )


def _remove(ray: ModuleType, names: list[str], console: Console) -> None:
    for name in names:
        remove(ray, name)
        console.print(f"{name}: taken down")
