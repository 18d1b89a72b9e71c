"""One run on other backends: two workers, a Dask cluster, Ray; its curve is the same to the last digit."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import runs
from heterofl_core.errors import InputError
from heterofl_core.executor import backend, side_by_side
from heterofl_core.federation import Federation
from heterofl_core.params import Execution, run_params
from heterofl_core.records import MEASURED, read_record, record_path, rounds_path
from heterofl_core.runs import execute

PARAMS = run_params(
    dataset="digits",
    levels="c-d-e",
    partition="non-iid-2",
    num_clients=20,
    rounds=2,
    milestones=[1],
    eval_every=2,
)


HERE: dict[str, Any] = {"processes": False, "protocol": "tcp", "dashboard_address": None}
"""For a Dask cluster of which only the threads are counted: in this process."""


def curve(execution: Execution) -> str:
    """What the run writes to `rounds.csv`, times aside."""
    execute(Federation(PARAMS), execution)
    text = pd.read_csv(rounds_path(PARAMS.run_id), dtype=str)
    return text.drop(columns=[name for name in MEASURED if name in text]).to_csv()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The curve of one worker: this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFL_OUTPUTS", str(tmp_path_factory.mktemp("alone")))
        return curve(Execution(workers=1))


# Ray gives its own processes 30 seconds to start, which is fixed in its code; a busy machine may need more.
WHEN_RAY_IS_LATE = {"reruns": 3, "only_rerun": ["current node timed out during startup"]}


@pytest.mark.flaky(**WHEN_RAY_IS_LATE)
@pytest.mark.parametrize("name", ["loky", "dask", "ray"])
def test_two_workers_anywhere_give_what_one_gives(
    outputs: Path, expected: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"dask": "distributed"}.get(name, name if name != "loky" else "joblib"))
    execution = Execution.model_validate({"backend": name, "workers": 2})
    places: set[str] = set()

    @contextmanager
    def asked_where(execution: Execution) -> Iterator[int]:
        with backend(execution) as workers:
            yield workers
            places.update(side_by_side(where(name), range(4), workers))

    monkeypatch.setattr(runs, "backend", asked_where)
    assert curve(execution) == expected
    assert places <= {name}
    assert places
    record = read_record(record_path(PARAMS.run_id))
    assert (record["backend"], record["workers"], record["threads_per_worker"]) == (name, 2, 1)


def where(name: str) -> Callable[[int], str]:
    """A job that says whose worker executes it, as that library itself tells; a worker need not know this
    file.
    """

    def of_dask(number: int) -> str:
        from distributed import get_worker

        return "dask" if get_worker().address else ""

    def of_ray(number: int) -> str:
        import ray

        return "ray" if ray.get_runtime_context().get_worker_id() else ""

    def of_loky(number: int) -> str:
        from multiprocessing import current_process

        return "loky" if current_process().name.startswith("LokyProcess") else ""

    return {"dask": of_dask, "ray": of_ray, "loky": of_loky}[name]


def processes(workers: int) -> set[str]:
    """The numbers of those that executed some jobs."""
    return set(side_by_side(os.path.realpath, ["/proc/self"] * 4, workers))


@pytest.mark.flaky(**WHEN_RAY_IS_LATE)
def test_rays_workers_stay_from_one_call_to_the_next_and_a_gpu_is_this_processs() -> None:
    pytest.importorskip("ray")
    here = f"/proc/{os.getpid()}"
    with backend(Execution(backend="ray", workers=2)) as workers:
        seen = processes(workers) | processes(workers) | processes(workers)
    assert here not in seen
    assert len(seen) <= 2  # three calls would have three new ones at least
    with backend(Execution(backend="ray", workers=2, device="cuda")) as workers:
        assert processes(1) == {here}


def test_dask_workers_of_two_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would share torch's generator, and the result would depend on chance."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **HERE) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with (
            pytest.raises(InputError, match=r"workers of \[2\] threads; .* --nthreads 1"),
            backend(Execution(backend="dask")),
        ):
            pass


def test_a_dask_cluster_that_runs_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **HERE) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with backend(Execution(backend="dask", workers=7)) as workers:
            assert workers == 1  # those that the cluster has


@pytest.mark.parametrize(
    ("name", "package", "variable", "address"),
    [
        ("dask", "distributed", "DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1"),
        ("ray", "ray", "RAY_ADDRESS", "127.0.0.1:1"),
        ("ray", "ray", "RAY_ADDRESS", "ray://127.0.0.1:1"),
    ],
)
def test_an_address_where_no_cluster_is_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, variable: str, address: str
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv(variable, address)
    sentence = f"backend '{name}' cannot reach its cluster at {address}: "
    execution = Execution.model_validate({"backend": name})
    with pytest.raises(InputError, match=sentence), backend(execution):
        pass


def test_a_backend_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InputError, match=r"backend 'dask' needs a package .*\[cluster\]"),
        backend(Execution(backend="dask")),
    ):
        pass
