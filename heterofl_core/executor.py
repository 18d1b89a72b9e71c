"""Executing independent jobs side by side, with the same result for any number of workers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import joblib
import torch

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, so that sums are taken in one order whatever the machine, and leaves its
    global generator as it was.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def on_one_thread(function: Callable[[Job], Answer], job: Job) -> Answer:
    """`function(job)` with the same result in this process and in a worker."""
    with one_thread():
        return function(job)


def side_by_side(function: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> list[Answer]:
    """The answers to all jobs, in their order.

    A small model keeps one core busy at best, so several processes of one thread each are faster than one
    process of several threads; and the result does not depend on their number.
    """
    calls = (joblib.delayed(on_one_thread)(function, job) for job in jobs)
    return list(joblib.Parallel(n_jobs=max(1, min(workers, len(jobs))), max_nbytes=None)(calls))
