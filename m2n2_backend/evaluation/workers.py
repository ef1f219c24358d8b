"""Evaluation of photographs, in this process or in several."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import cv2
import numba
import torch

from m2n2_backend.backbones.device.cores import usable_cores
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.evaluation.data.datasets import Sample
from m2n2_backend.evaluation.fingerprint import Identity, identity
from m2n2_backend.evaluation.journal import FinishedSample
from m2n2_backend.evaluation.methods import InteractiveMethod, MethodChoice, SegmenterMethod, start_method
from m2n2_backend.evaluation.protocol import ProtocolName
from m2n2_backend.evaluation.sample import evaluate_sample
from m2n2_backend.m2n2.paper.attention import Backbone

T = TypeVar("T")

Group = tuple[Sample, ...]
"""All samples of one photograph, which is encoded once for all of them."""


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Make the figures independent of ``jobs`` and of the number of cores.

    PyTorch promises equal sums only for equal numbers of threads, and twenty clicks amplify a difference in the last
    digit: a threshold flips, and the next click falls elsewhere. The compiled kernels work row by row, so threads do
    not change their results.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def group_by_photograph(samples: Sequence[Sample]) -> list[Group]:
    """Group neighbors in the list that share their photograph."""
    return [tuple(group) for _, group in itertools.groupby(samples, key=lambda sample: sample.photograph)]


def evaluate_group(method: InteractiveMethod, group: Group, protocol: ProtocolName = "ritm") -> list[FinishedSample]:
    """Encode one photograph and evaluate its objects.

    Raises:
        DatasetError: A file cannot be read, or a mask and the photograph differ in size.
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
        entries.append(FinishedSample(sample.name, run.ious, *times, session.grid, session.ipf_residual))
        encode_seconds = None
    return entries


@dataclass(frozen=True)
class Assignment:
    """What each process needs beside its photographs; it is pickled once for each process.

    Attributes:
        choice: The method that is evaluated.
        load_backbone: Called once in each process, so it has to be picklable; None for a classic.
        protocol: Decides where the simulated user clicks.
        expected: Identity of the first process. The figures of a process that differs would be those of something
            else.
        threads: Number of cores that the compiled kernels of one process share.
    """

    choice: MethodChoice
    load_backbone: Callable[[], Backbone] | None
    protocol: ProtocolName
    expected: Identity
    threads: int = 1

    @cached_property
    def method(self) -> InteractiveMethod:
        """The method with a backbone of this process' own."""
        method = start_method(self.choice, self.load_backbone)
        found = identity(method.segmenter.backbone if isinstance(method, SegmenterMethod) else None)
        if found != self.expected:
            raise SettingsError(
                f"a process runs {found}, the first one {self.expected}: leave code and weights alone"
            )
        return method


def evaluate_in_processes(
    groups: Sequence[Group], assignment: Assignment, jobs: int
) -> Generator[list[FinishedSample], None, None]:
    """Evaluate in at most ``jobs`` fresh processes, each with its own backbone and its share of the cores.

    The processes are spawned, because a fork would copy the threads' locks of PyTorch and numba, and CUDA refuses it.
    They end with this generator and with this process, however it ends.

    Yields:
        The samples of one photograph, in the order in which they are finished.

    Raises:
        M2N2Error: A process raised it, or a process died.
    """
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs, len(groups))
    assignment = replace(assignment, threads=max(1, usable_cores() // jobs))
    listener, lifeline = context.Pipe(duplex=False)
    with lifeline, listener, ProcessPoolExecutor(jobs, context, _prepare_process, (assignment, listener)) as pool:
        try:
            for finished in as_completed([pool.submit(_evaluate_here, group) for group in groups]):
                yield finished.result()
        except BrokenProcessPool as error:
            raise M2N2Error(
                "an evaluation process died, perhaps for lack of memory; run again with fewer --jobs to continue"
            ) from error
        except BaseException:
            # The pool waits for the photographs in work; its processes end at once when this pipe is closed.
            lifeline.close()
            raise


def in_fresh_process(task: Callable[..., T], *given: object) -> T:
    """Call a function in a process of its own, so that its peak of memory is that of the task alone.

    Function, arguments and result have to be picklable. The process ends with this one, however that ends.

    Raises:
        M2N2Error: The function raised it, or the process died.
    """
    context = multiprocessing.get_context("spawn")
    listener, lifeline = context.Pipe(duplex=False)
    with lifeline, listener, ProcessPoolExecutor(1, context, _tie, (listener,)) as pool:
        try:
            return pool.submit(task, *given).result()
        except BrokenProcessPool as error:
            raise M2N2Error("its process died, perhaps for lack of memory") from error
        except BaseException:
            lifeline.close()
            raise


def peak_memory() -> dict[str, int | None]:
    """The most bytes that were in use so far, by the largest process of the run and on the GPU.

    Returns:
        ``process``: resident bytes of this process or of one that it started and that has ended; ``gpu``: bytes of
        tensors on the CUDA device, None without one.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    try:
        # ru_maxrss of a spawned process begins with the memory of the one that started it.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        own = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"process": max(own, largest), "gpu": gpu}


_of_this_process: list[Assignment] = []
"""The assignment of a process of the pool, where its tasks find it; empty in all other processes."""


def _prepare_process(assignment: Assignment, listener: Connection) -> None:
    """First step of every process of the pool."""
    _tie(listener)
    torch.set_num_threads(1)
    numba.set_num_threads(min(assignment.threads, numba.config.NUMBA_NUM_THREADS))
    cv2.setNumThreads(assignment.threads)
    _of_this_process.append(assignment)


def _tie(listener: Connection) -> None:
    """Let this process end with the one that started it, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the first process ends the others
    threading.Thread(target=_end_with_the_first_process, args=(listener,), daemon=True).start()


def _end_with_the_first_process(listener: Connection) -> None:
    """Nothing is ever sent: reading returns when the other end is closed, which a killed process does too."""
    with suppress(EOFError, OSError):
        listener.recv()
    os._exit(1)


def _evaluate_here(group: Group) -> list[FinishedSample]:
    assignment = _of_this_process[0]
    return evaluate_group(assignment.method, group, assignment.protocol)
