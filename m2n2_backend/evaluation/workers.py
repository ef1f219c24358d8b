"""Photographs → finished samples, in this process or in several."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import cv2
import numba
import torch

from m2n2_backend.backbones.device.cores import usable_cores
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.evaluation.data.datasets import Sample
from m2n2_backend.evaluation.fingerprint import Identity, identity
from m2n2_backend.evaluation.journal import Entry
from m2n2_backend.evaluation.methods import InteractiveMethod, MethodChoice, SegmenterMethod, start_method
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.evaluation.sample import evaluate_sample
from m2n2_backend.m2n2.paper.attention import Backbone

Group = tuple[Sample, ...]
"""All samples of one photograph, which is encoded once for them."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Figures that depend neither on ``jobs`` nor on the machine's cores.

    PyTorch promises equal sums only for equal numbers of threads, and twenty clicks amplify a last digit: a threshold
    flips, and the next click falls elsewhere. The compiled kernels work row by row, where threads change nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def group_by_photograph(samples: Sequence[Sample]) -> list[Group]:
    """Neighbors in the list that share their photograph."""
    return [tuple(group) for _, group in itertools.groupby(samples, key=lambda sample: sample.image)]


def evaluate_group(method: InteractiveMethod, group: Group, protocol: ProtocolName = "ritm") -> list[Entry]:
    """Encode one photograph and evaluate its objects.

    Raises:
        DatasetError: A file cannot be read, or mask and photograph differ in size.
    """
    rgb = group[0].rgb()
    labels = [sample.label(rgb.shape[:2]) for sample in group]
    began = time.perf_counter()
    session = method.start(rgb)
    encode_seconds: float | None = time.perf_counter() - began
    entries = []
    for sample, label in zip(group, labels, strict=True):
        run = evaluate_sample(session, label, protocol=protocol)
        times = encode_seconds, sum(run.seconds), len(run.seconds)
        entries.append(Entry(sample.name, run.ious, *times, session.grid, session.ipf_residual))
        encode_seconds = None
    return entries


def evaluate_in_processes(
    groups: Sequence[Group],
    choice: MethodChoice,
    load_backbone: Callable[[], Backbone] | None,
    jobs: int,
    *,
    protocol: ProtocolName,
    expected: Identity,
) -> Iterator[list[Entry]]:
    """Evaluate in fresh processes, each with its own backbone and its share of the cores.

    Args:
        groups: Handed out one by one.
        choice: Hyperparameters of every process.
        load_backbone: Called in each process; has to be picklable.
        jobs: Processes.
        protocol: Of the clicks.
        expected: What every process has to be like, or its figures would be those of something else.

    Yields:
        The samples of one photograph, in the order in which they are finished.

    Raises:
        M2N2Error: What a worker raised, or a worker died.
    """
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs, len(groups))
    threads = max(1, usable_cores() // jobs)
    waiting = iter(groups)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(
                target=_serve, args=(theirs, choice, load_backbone, threads, protocol, expected), daemon=True
            )
            process.start()
            theirs.close()
            workers[ours] = process
            ours.send(next(waiting))
        while workers:
            for ready in wait(list(workers)):
                assert isinstance(ready, Connection)
                yield _receive(ready)
                following = next(waiting, None)
                ready.send(following)
                if following is None:
                    workers.pop(ready).join()
    finally:
        for process in workers.values():
            process.terminate()


def _receive(connection: Connection) -> list[Entry]:
    try:
        answer = connection.recv()
    except EOFError:
        raise M2N2Error(
            "an evaluation process died, perhaps for lack of memory; run again with fewer --jobs to continue"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return list(answer)


def _serve(
    connection: Connection,
    choice: MethodChoice,
    load_backbone: Callable[[], Backbone] | None,
    threads: int,
    protocol: ProtocolName,
    expected: Identity,
) -> None:
    """Body of a worker process: photographs in, finished samples out, until None or the other side is gone."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    cv2.setNumThreads(threads)
    try:
        with one_torch_thread():
            method = start_method(choice, load_backbone)
            found = identity(method.segmenter.backbone if isinstance(method, SegmenterMethod) else None)
            if found != expected:
                raise SettingsError(f"a process runs {found}, the first one {expected}: leave code and weights alone")
            while (group := connection.recv()) is not None:
                connection.send(evaluate_group(method, group, protocol))
    except EOFError:
        pass
    except Exception as error:
        connection.send(error)
