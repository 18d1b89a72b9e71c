"""Jobs side by side: the same answers, in order, and nothing else changed."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from heterofl_core import executor
from heterofl_core.errors import InputError
from heterofl_core.executor import on_one_thread, side_by_side


def answer(job: int) -> tuple[int, int, list[float]]:
    """The process, its number of threads, and what follows from the job alone."""
    torch.manual_seed(job)
    return os.getpid(), torch.get_num_threads(), torch.randn(3).cumsum(0).tolist()


def refuse(job: int) -> int:
    torch.manual_seed(0)
    raise ValueError(f"job {job} cannot be done")


def test_answers_come_in_the_order_of_the_jobs_whatever_the_number_of_workers() -> None:
    jobs = [5, 3, 8, 1, 1, 9]
    here, elsewhere = side_by_side(answer, jobs, workers=1), side_by_side(answer, jobs, workers=2)
    torch.manual_seed(5)
    assert here[0][2] == torch.randn(3).cumsum(0).tolist()
    assert [values for _, _, values in here] == [values for _, _, values in elsewhere]
    assert here[3] == here[4]
    assert len({tuple(values) for _, _, values in here}) == 5


def test_one_worker_is_this_process_and_two_are_others() -> None:
    jobs = list(range(6))
    assert {process for process, _, _ in side_by_side(answer, jobs, workers=1)} == {os.getpid()}
    assert os.getpid() not in {process for process, _, _ in side_by_side(answer, jobs, workers=2)}


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Torch works on three threads, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_runs_on_one_thread(workers: int) -> None:
    assert {threads for _, threads, _ in side_by_side(answer, [0, 1, 2], workers)} == {1}


def test_there_may_be_fewer_jobs_than_workers() -> None:
    assert len(side_by_side(answer, [4], workers=2)) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_no_jobs_have_no_answers(workers: int) -> None:
    assert side_by_side(answer, [], workers) == []


Seen = tuple[int, bool, str | None, float]


def look(job: np.ndarray) -> Seen:
    """The process, whether it can write to the job's array, the file it is mapped from, and what follows."""
    file = str(job.filename) if isinstance(job, np.memmap) else None
    return os.getpid(), job.flags.writeable, file, float(job.sum())


MEGABYTE = 2**20


def test_arrays_in_memory_arrive_as_a_workers_own() -> None:
    jobs = [np.ones(size, dtype=np.uint8) for size in (1, 2 * MEGABYTE)]
    for (process, writeable, file, total), job in zip(side_by_side(look, jobs, workers=2), jobs, strict=True):
        assert process != os.getpid()
        assert (writeable, file, total) == (True, None, job.size)


def test_one_worker_has_the_arrays_themselves() -> None:
    jobs = [np.ones(2 * MEGABYTE, dtype=np.uint8), np.ones(1, dtype=np.uint8)]
    assert [seen[1:] for seen in side_by_side(look, jobs, workers=1)] == [
        (True, None, 2.0 * MEGABYTE),
        (True, None, 1.0),
    ]


def test_an_array_that_is_mapped_already_is_mapped_from_its_own_file(tmp_path: Path) -> None:
    """So the cache of a data set is copied nowhere."""
    np.save(tmp_path / "images.npy", np.ones(2 * MEGABYTE, dtype=np.uint8))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    seen = side_by_side(look, [images, images[MEGABYTE:]], workers=2)
    assert [one[1:] for one in seen] == [
        (False, str(tmp_path / "images.npy"), 2.0 * MEGABYTE),
        (False, str(tmp_path / "images.npy"), 1.0 * MEGABYTE),
    ]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_torchs_threads_and_its_global_generator_stay_as_they_were(workers: int) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    side_by_side(answer, [0, 1], workers)
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("three_threads")
def test_they_stay_so_when_a_job_fails() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="job 3 cannot be done"):
        on_one_thread(refuse, 3)
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_read_other_code_than_the_run_does_nothing(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train with what was edited meanwhile, and the record would name what was there before."""
    monkeypatch.setattr(executor, "code_hash", lambda: "that of the run")
    with pytest.raises(InputError, match=r"^the code was changed while the run went on, which must be"):
        side_by_side(answer, [0, 1], workers)


def test_a_failure_in_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="job 1 cannot be done"):
        side_by_side(refuse, [1, 1], workers=2)


KEPT: list[bytearray] = []


def keep(megabytes: int) -> int:
    """Keeps so much memory, and takes as long as joblib waits before it looks at it."""
    KEPT.append(bytearray(megabytes * 2**20))
    time.sleep(1.1)
    return os.getpid()


def test_a_worker_that_keeps_memory_stays() -> None:
    rounds = [set(side_by_side(keep, [megabytes, megabytes], workers=2)) for megabytes in (1, 400, 1)]
    assert len(rounds[0]) == 2
    assert rounds[0] == rounds[1] == rounds[2]
