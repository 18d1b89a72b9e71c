"""Full disks, read-only folders, cut files, two at once: each is named, and nothing good is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd
import pytest

from heterofl_core.checkpoints import load_checkpoint
from heterofl_core.errors import InputError
from heterofl_core.federation import Federation
from heterofl_core.files import write_text
from heterofl_core.locks import locked
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.records import (
    MEASURED,
    checkpoint_path,
    collect,
    read_record,
    record_path,
    rounds_path,
)
from heterofl_core.runs import execute
from heterofl_core.status import status_of

SETTINGS = {
    "dataset": "digits",
    "levels": "d-e",
    "num_clients": 20,
    "rounds": 3,
    "milestones": [2],
    "local_epochs": 1,
}
PARAMS: RunParams = run_params(**SETTINGS)
RUN, ALONE = PARAMS.run_id, Execution(workers=1)
CORE = [sys.executable, "-m", "heterofl_core"]
WORDS = [word for name, value in SETTINGS.items() for word in ("-p", f"{name}={value}")]
"""The settings on a command line."""


def train() -> dict[str, Any]:
    """The record of the run, executed in this process."""
    return execute(Federation(PARAMS), ALONE)


def curve(run_id: str = RUN) -> str:
    """The run's `rounds.csv`, times aside."""
    table = pd.read_csv(rounds_path(run_id), dtype=str)
    return table.drop(columns=[name for name in MEASURED if name in table]).to_csv()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The curve of a run to which nothing happened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFL_OUTPUTS", str(tmp_path_factory.mktemp("undisturbed")))
        train()
        return curve()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An outputs folder that is a disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fills what is left of the disk, and returns the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


def temporary_files(folder: Path) -> list[Path]:
    """What a writer left behind."""
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.fixture
def before_round(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """A function that has something happen just before a round."""

    def arrange(number: int, disaster: Callable[[], object]) -> None:
        original = Federation.run_round

        def run_round(self: Federation, weights: Any, round: int, *how: Any) -> Any:
            if round == number:
                disaster()
            return original(self, weights, round, *how)

        monkeypatch.setattr(Federation, "run_round", run_round)

    return arrange


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_when_there_is_room(
    disk: Path, undisturbed: str, before_round: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before_round(3, lambda: fill(disk))
    with pytest.raises(InputError, match=rf"cannot write {checkpoint_path(RUN)}: .*No space left on device"):
        train()
    assert load_checkpoint(checkpoint_path(RUN)).round == 2
    assert not record_path(RUN).exists()
    assert not temporary_files(disk)
    (disk / "filler").unlink()
    monkeypatch.undo()
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(disk))
    train()
    assert curve() == undisturbed


def test_a_full_disk_leaves_what_stood_there(disk: Path) -> None:
    path = disk / "file.txt"
    write_text(path, "good")
    fill(disk)
    with pytest.raises(InputError, match=rf"cannot write {path}: No space left on device"):
        write_text(path, "x" * 100_000)
    assert path.read_text() == "good"
    assert not temporary_files(disk)


def test_a_read_only_disk_leaves_what_stood_there(disk: Path) -> None:
    path = disk / "file.txt"
    write_text(path, "good")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for other in (path, disk / "folder" / "file.txt"):
        with pytest.raises(InputError, match=f"^cannot write {other}: Read-only file system$"):
            write_text(other, "new")
    assert path.read_text() == "good"
    assert list(disk.iterdir()) == [path]


def test_a_full_disk_ends_a_notebook_with_one_sentence(disk: Path) -> None:
    fill(disk)
    done = subprocess.run([*CORE, "notebook", *WORDS], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert not temporary_files(disk)


def test_a_read_only_folder_is_named_before_any_training(
    disk: Path, before_round: Callable[..., None]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before_round(1, lambda: pytest.fail("it trained"))
    with pytest.raises(InputError, match=f"cannot write {disk}.*Read-only file system"):
        train()


def test_a_truncated_checkpoint_is_named_and_left(outputs: Path, before_round: Callable[..., None]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    before_round(3, stop)
    with pytest.raises(KeyboardInterrupt):
        train()
    path = checkpoint_path(RUN)
    path.write_bytes(path.read_bytes()[:-100])
    cut = path.read_bytes()
    with pytest.raises(
        InputError, match=rf"checkpoint {path} is damaged .*; delete it to start the run anew"
    ):
        train()
    assert path.read_bytes() == cut


def test_nothing_is_built_from_a_record_that_was_edited_and_what_was_built_stays(outputs: Path) -> None:
    train()
    results = collect()
    built = results.read_text()
    text = record_path(RUN).read_text()
    edited = text.replace('"seed": 0', '"seed": 7')
    assert edited != text
    record_path(RUN).write_text(edited)
    with pytest.raises(InputError, match=rf"record {record_path(RUN)} .* was changed after the run; restore"):
        collect()
    with pytest.raises(InputError, match="was changed after the run"):
        train()  # neither believed nor overwritten
    assert results.read_text() == built
    assert record_path(RUN).read_text() == edited


def test_a_curve_that_was_edited_spoils_its_record(outputs: Path) -> None:
    train()
    lines = rounds_path(RUN).read_text().splitlines(keepends=True)
    rounds_path(RUN).write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"or its rounds\.csv was changed after the run"):
        read_record(record_path(RUN))


@pytest.mark.usefixtures("outputs")
def test_the_record_is_the_last_file_that_a_run_puts_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        names.append(target.name)
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    train()
    assert names == ["checkpoint.safetensors"] * 4 + ["rounds.csv", "record.json"]


@pytest.mark.usefixtures("outputs")
@pytest.mark.parametrize(
    ("step", "when"),
    [(1, "before"), (2, "before"), (4, "before"), (5, "before"), (6, "before"), (6, "after")],
)
def test_a_run_that_ends_between_any_two_files_is_finished_by_the_same_command(
    undisturbed: str, monkeypatch: pytest.MonkeyPatch, step: int, when: str
) -> None:
    original, steps = Path.replace, iter(range(1, 100))

    def replace(self: Path, target: Path) -> Path:
        reached = next(steps) == step
        if reached and when == "before":
            raise KeyboardInterrupt
        found = original(self, target)
        if reached:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert record_path(RUN).exists() == ((step, when) == (6, "after"))
    train()
    assert curve() == undisturbed
    read_record(record_path(RUN))
    assert sorted(path.name for path in record_path(RUN).parent.iterdir()) == ["record.json", "rounds.csv"]


def start(*words: str) -> subprocess.Popen[str]:
    """A command of the core that goes on beside this process; what it prints comes line by line."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*CORE, *words], env=os.environ | {"PYTHONUNBUFFERED": "1"}, **pipes)


def test_a_run_that_is_killed_goes_on_from_its_checkpoint(outputs: Path, tmp_path: Path) -> None:
    """By SIGKILL, of which the process hears nothing; of many rounds, so that it is still at work."""
    params = run_params(**SETTINGS | {"rounds": 20, "eval_every": 10})
    words = ["-p", "rounds=20", "-p", "eval_every=10", "-p", "workers=1", "-p", "checkpoint_every=1"]
    process = start("run", *WORDS, *words)
    while process.poll() is None and rounds_on_disk(params) < 1:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= rounds_on_disk(params) < params.rounds
    curves = []
    for folder in (outputs, tmp_path / "undisturbed"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HETEROFL_OUTPUTS", str(folder))
            execute(Federation(params), ALONE)
            curves.append(curve(params.run_id))
    assert curves[0] == curves[1]


def rounds_on_disk(params: RunParams) -> int:
    """How far a run is; -1 before it has begun."""
    path = checkpoint_path(params.run_id)
    return load_checkpoint(path).round if path.exists() else -1


def test_two_that_execute_one_run_at_once_train_it_once(outputs: Path, undisturbed: str) -> None:
    processes = [start("run", *WORDS, "-p", "workers=1") for _ in range(2)]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("is done already" in text for text in printed) == 1
    assert curve() == undisturbed
    read_record(record_path(RUN))
    assert sorted(path.name for path in record_path(RUN).parent.iterdir()) == ["record.json", "rounds.csv"]


def test_two_that_do_one_study_at_once_do_each_run_once(outputs: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "title: Two runs\nexhibits: []\n"
        "runs:\n  - {dataset: digits, levels: e, protocol: smoke, num_clients: 20, seed: [0, 1]}\n"
    )
    with ExitStack() as held:  # until both are there
        for seed in range(2):
            params = run_params(dataset="digits", levels="e", protocol="smoke", num_clients=20, seed=seed)
            held.enter_context(locked(params.run_id))
        processes = [start("study", str(study), "-p", "workers=1") for _ in range(2)]
        pipes = [cast("IO[str]", process.stdout) for process in processes]
        assert [pipe.readline() for pipe in pipes] == [f"{study}: 2 runs, 0 of them done\n"] * 2
    printed = [pipe.read() for pipe in pipes]
    assert [process.wait() for process in processes] == [0, 0], printed
    text = "".join(printed)
    begun = sum(line.startswith("digits_") and " " not in line for line in text.splitlines())
    records = [read_record(path) for path in outputs.glob("runs/*/record.json")]
    assert {record["params"]["seed"] for record in records} == {0, 1}
    assert begun - text.count("is done already") == len(records) == 2


def test_a_redo_that_ends_between_its_curve_and_its_record_is_finished_by_the_same_command(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    train()
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "record.json":
            raise KeyboardInterrupt
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            execute(Federation(PARAMS), Execution(workers=1, force=True))
    assert status_of(PARAMS).state == "stopped"
    train()
    read_record(record_path(RUN))
    assert curve() == undisturbed
