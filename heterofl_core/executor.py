"""Executing independent jobs side by side, with the same result for any number of workers, anywhere."""

import ctypes
import functools
import math
import os
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import joblib
import torch
from joblib.externals.loky import process_executor

from heterofl_core.errors import InputError
from heterofl_core.params import Execution
from heterofl_core.provenance import check_code, code_hash

MALLOC = {-1: 2**31 - 1, -2: 2**24, -4: 0}
"""For glibc's mallopt: M_TRIM_THRESHOLD (bytes), M_TOP_PAD (bytes), M_MMAP_MAX (mappings)."""

POOL: ContextVar[joblib.Parallel | None] = ContextVar("POOL", default=None)
"""Processes that stay, inside a block that has them."""

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


@functools.cache
def keep_freed_memory() -> None:
    """Makes this process keep the memory that it frees, where the C library is glibc.

    Each step frees its activations and asks for the next ones. Given back to the system each time, they come
    back page by page, filled with zeros, and two processes that do so halve each other's speed. Joblib would
    take a worker that keeps 300 MB for one that leaks, and start another, which imports torch anew.
    """
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf
    if platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC.items():
            ctypes.CDLL("libc.so.6").mallopt(option, value)


def on_one_thread(function: Callable[[Job], Answer], job: Job) -> Answer:
    """`function(job)` with the same result in this process and in a worker."""
    keep_freed_memory()
    with one_thread():
        return function(job)


def in_worker(function: Callable[[Job], Answer], job: Job, code: str) -> Answer:
    """`on_one_thread(function, job)` for a run.

    Args:
        code: the hash of the code that the run read.

    Raises:
        InputError: this process, which may have started later, read other code.
    """
    check_code(code)
    return on_one_thread(function, job)


def side_by_side(function: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> list[Answer]:
    """The answers to all jobs, in their order; see `as_they_come`."""
    return list(as_they_come(function, jobs, workers))


def as_they_come(function: Callable[[Job], Answer], jobs: Sequence[Job], workers: int) -> Iterator[Answer]:
    """The answers to all jobs, in their order, each as soon as it and those before it are there, so that
    whoever adds them up need not hold them all. Inside a block of `backend` they are computed there.

    A small model keeps one core busy at best, so several processes of one thread each are faster than one
    process of several threads; and the result does not depend on their number. An array that is mapped from a
    file, as data sets are, is mapped there, too, and not copied. All others are: through a file of their own,
    as joblib would do for large ones, a round of large models takes a third longer.
    """
    calls = (joblib.delayed(in_worker)(function, job, code_hash()) for job in jobs)
    processes = max(1, min(workers, len(jobs)))
    parallel = POOL.get() or joblib.Parallel(processes, max_nbytes=None, return_as="generator")
    yield from parallel(calls)


@contextmanager
def backend(execution: Execution) -> Iterator[int]:
    """Gets the processes that `side_by_side` uses inside the block.

    Yields:
        How many there are.

    Raises:
        InputError: the backend's package is missing, its cluster cannot be reached, or does not keep to one
            thread a worker.
    """
    match execution.backend:
        case "dask":
            with dask_cluster(execution.workers) as workers, joblib.parallel_config("dask"):
                yield workers
        case "ray":
            with (
                ray_cluster(execution.workers) as workers,
                joblib.parallel_config("ray"),
                pool_of(1 if execution.device == "cuda" else workers),  # this process has the GPU
            ):
                yield workers
        case _:
            yield execution.workers or joblib.cpu_count()


@contextmanager
def dask_cluster(workers: int | None) -> Iterator[int]:
    """The Dask cluster at `DASK_SCHEDULER_ADDRESS`, or one on this machine."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise missing_package("dask", error) from error
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    with ExitStack() as stack:
        here = {"n_workers": workers or joblib.cpu_count(), "threads_per_worker": 1}
        cluster = address or stack.enter_context(LocalCluster(**here, dashboard_address=None))
        try:
            client = stack.enter_context(Client(cluster, timeout="10s"))
        except (OSError, ValueError) as error:
            raise unreachable("dask", str(address), error) from error
        threads = client.nthreads()
        if not threads or set(threads.values()) != {1}:
            raise InputError(
                f"backend 'dask' has workers of {sorted(set(threads.values()))} threads; start at least one, "
                "and each with --nthreads 1, since threads would share torch's generator"
            )
        yield len(threads)


@contextmanager
def ray_cluster(workers: int | None) -> Iterator[int]:
    """The Ray cluster at `RAY_ADDRESS`, or one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise missing_package("ray", error) from error
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    here: dict[str, Any] = {} if address else {"num_cpus": workers or joblib.cpu_count()}
    try:
        if address and ":" in address:  # Ray itself would try for many minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **quiet, **here)
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable("ray", str(address), error) from error
    register_ray()
    try:
        yield int(ray.cluster_resources()["CPU"])
    finally:
        ray.shutdown()


@contextmanager
def pool_of(workers: int) -> Iterator[None]:
    """Keeps Ray's workers, each of which imports torch, from one call to the next; others stay anyway."""
    with joblib.Parallel(workers, max_nbytes=None) as parallel:
        token = POOL.set(parallel)
        try:
            yield
        finally:
            POOL.reset(token)


def missing_package(name: str, error: ImportError) -> InputError:
    """One sentence about a backend that is not installed."""
    return InputError(f"backend {name!r} needs a package that is not there ({error}); install '.[cluster]'")


def unreachable(name: str, address: str, error: Exception) -> InputError:
    """One sentence about a cluster that does not answer."""
    return InputError(f"backend {name!r} cannot reach its cluster at {address}: {error}")
