"""The command line: what a run prints, and that wrong input costs one sentence and leaves nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core.__main__ import main
from heterofl_core.levels import all_mixes
from heterofl_core.params import Execution, run_params
from heterofl_core.pipeline import snakemake_command
from heterofl_core.records import checkpoint_path, failed_path, read_record
from heterofl_core.studies import read_study, study_names

DIGITS = ("-p", "dataset=digits", "-p", "levels=e")
TINY = (*DIGITS, "-p", "protocol=smoke", "-p", "num_clients=20", "-p", "workers=1")


def files(outputs: Path) -> dict[Path, bytes]:
    """All files, by path, but the empty ones by which processes tell who is at work."""
    return {
        path: path.read_bytes()
        for path in outputs.rglob("*")
        if path.is_file() and not (path.parent.name == "locks" and path.stat().st_size == 0)
    }


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], outputs: Path) -> Callable[..., str]:
    """A function that runs a command, which must fail and change nothing; gives its sentence."""

    def run(*arguments: str) -> str:
        before = files(outputs)
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert printed.err.startswith("heterofl_core: ")
        assert files(outputs) == before
        assert before or not outputs.exists()
        return printed.err.removeprefix("heterofl_core: ").rstrip("\n")

    return run


# What goes well


def test_a_run_prints_its_name_metrics_and_record_and_is_collected(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    run_id = run_params(dataset="digits", levels="e", protocol="smoke", num_clients=20).run_id
    path = outputs / "runs" / run_id / "record.json"
    metrics = read_record(path)["metrics"]
    assert lines[0].startswith(f"{run_id}: ")
    assert lines[1:-1] == [
        f"  {name}: {value}" if name.endswith("_round") else f"  {name}: {value:.2f}"
        for name, value in metrics.items()
    ]
    assert lines[-1] == str(path)

    assert main(["collect"]) == 0
    assert capsys.readouterr().out == f"{outputs / 'results.csv'}\n"
    table = pd.read_csv(outputs / "results.csv")
    assert table["run_id"].tolist() == [run_id]
    assert table["best_global_accuracy"].tolist() == [metrics["best_global_accuracy"]]

    assert main(["run", *TINY]) == 0
    assert "is done already" in capsys.readouterr().out
    finished = path.stat().st_mtime_ns
    assert main(["run", *TINY, "--force"]) == 0
    assert "is done already" not in capsys.readouterr().out
    assert path.stat().st_mtime_ns > finished


@pytest.mark.parametrize(("flags", "solutions"), [([], True), (["--without-solutions"], False)])
def test_a_book_has_solutions_unless_told_otherwise(
    flags: list[str], solutions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bool] = []
    monkeypatch.setattr("heterofl_core.pages.build_book", built.append)
    assert main(["book", *flags]) == 0
    assert built == [solutions]


def test_the_command_line_wins_over_the_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("dataset: digits\nlevels: z\n")
    assert refused("run", "-f", str(path)).startswith("levels 'z'")
    assert refused("run", "-f", str(path), "-p", "levels=y").startswith("levels 'y'")


@pytest.fixture
def small_study(tmp_path: Path) -> Path:
    """A study of two smoke runs on digits."""
    path = tmp_path / "small.yaml"
    path.write_text(
        "title: t\nexhibits: [x]\nruns:\n"
        "  - {dataset: digits, levels: [d, e], protocol: smoke, num_clients: 10}\n"
    )
    return path


def test_a_study_does_all_its_runs_and_a_second_call_trains_nothing(
    outputs: Path, small_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["study", str(small_study), "-p", "workers=1", "-p", "batch_size=20"]
    runs = [
        run_params(dataset="digits", levels=levels, protocol="smoke", num_clients=10, batch_size=20)
        for levels in "de"
    ]
    ids = [params.run_id for params in runs]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [f"{small_study}: 2 runs, 0 of them done", *ids]
    for params in runs:
        record = read_record(outputs / "runs" / params.run_id / "record.json")
        assert record["params"] == params.model_dump(mode="json")
        assert (record["status"], record["workers"]) == ("done", 1)
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    assert len(files(outputs)) == 4  # a record and a curve each
    assert sorted(path.name for path in (outputs / "locks").iterdir()) == sorted(ids)

    monkeypatch.setattr("heterofl_core.runs.advance", lambda *_: pytest.fail("trained again"))
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{small_study}: 2 runs, 2 of them done\n"
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*")} == before


def test_a_study_does_only_the_runs_that_are_left_unless_forced(
    small_study: Path, outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[tuple[str, bool]] = []
    first, second = (
        run_params(dataset="digits", levels=levels, protocol="smoke", num_clients=10).run_id
        for levels in "de"
    )
    monkeypatch.setattr(
        "heterofl_core.runs.execute",
        lambda federation, execution: executed.append((federation.params.run_id, execution.force)),
    )
    record = outputs / "runs" / first / "record.json"
    record.parent.mkdir(parents=True)
    record.touch()
    assert main(["study", str(small_study)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{small_study}: 2 runs, 1 of them done", second]
    assert executed == [(second, False)]
    assert main(["study", str(small_study), "--force"]) == 0
    assert executed[1:] == [(first, True), (second, True)]


@pytest.fixture
def untimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nothing is known."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "data"))


@pytest.mark.usefixtures("untimed")
def test_status_has_a_line_for_each_study_and_one_for_each_run_to_look_at(
    outputs: Path, small_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = run_params(dataset="digits", levels="e", protocol="smoke", num_clients=10, seed=3).run_id
    failed_path(run_id).parent.mkdir(parents=True)
    failed_path(run_id).write_text('{"cells": []}')
    assert main(["status", str(small_study), str(small_study), "-p", "seed=3"]) == 0
    unknown = "time left unknown (`python -m heterofl_core list STUDY` times this machine)"
    lines = [
        f"{small_study} (t): 2 runs: 1 failed, 1 missing; {unknown}",
        f"  failed {run_id}: the kernel was killed ({failed_path(run_id)})",
    ]
    assert capsys.readouterr().out.splitlines() == [*lines, *lines]
    assert list(outputs.rglob("*.*")) == [failed_path(run_id)]


@pytest.mark.usefixtures("untimed", "outputs")
def test_status_alone_is_that_of_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [f"{name} ({read_study(name).title}): " for name in study_names()]
    assert all(line.startswith(start) for line, start in zip(lines, named, strict=True))


@pytest.mark.usefixtures("untimed", "outputs")
def test_the_pipeline_times_what_is_open_tells_the_status_and_becomes_snakemake(
    small_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []
    started: list[list[str]] = []
    monkeypatch.setattr(
        "heterofl_core.timings.timings_for", lambda runs: timed.extend(params.levels for params in runs)
    )
    monkeypatch.setattr("os.execv", lambda program, words: started.append([program, *words]))
    arguments = ["pipeline", str(small_study), "-p", "seed=3", "--redo-stale"]
    assert main([*arguments, "--snakemake=--until 'the results'"]) == 0
    assert timed == ["d", "e"]
    assert capsys.readouterr().out.startswith(f"{small_study} (t): 2 runs: 2 missing; ")
    ((program, *words),) = started
    assert program == words[0] == sys.executable
    assert words[:-2] == snakemake_command([str(small_study)], ["seed=3"], redo_stale=True, profile=None)
    assert words[-2:] == ["--until", "the results"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--snakemake='--until"], '--snakemake "\'--until" cannot be split into options: No closing'),
        (["-p", "trace=2024-01-01"], "trace has the level '-', which levels 'd' does not have"),
    ],
)
def test_a_wrong_option_of_the_pipeline_is_refused_before_anything_is_done(
    refused: Callable[..., str], small_study: Path, options: list[str], sentence: str
) -> None:
    assert refused("pipeline", str(small_study), *options).startswith(sentence)


@pytest.mark.usefixtures("untimed", "outputs")
def test_a_dry_run_times_nothing_and_keeps_old_markers(
    small_study: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("heterofl_core.timings.timings_for", lambda _: pytest.fail("timed"))
    monkeypatch.setattr("os.execv", lambda _, words: started.append(words))
    (params, _) = read_study(str(small_study)).runs
    marker = outputs / "pipeline" / params.run_id
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert main(["pipeline", str(small_study), "--dry-run"]) == 0
    assert marker.exists()
    assert started[0][-2:] == ["--dry-run", "--forcerun=run"]  # although there is a marker


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no study is named; there are ablation, "),
        (["table8"], "study 'table8' is unknown; allowed are "),
        (["table5", "-p", "lvels=a"], "parameter 'lvels' (value 'a') is unknown; did you mean 'levels'?"),
        (["table5", "-f", "nowhere.yaml"], "file nowhere.yaml cannot be read: No such file "),
        (["table5", "-p", "force=true"], "force True is not for pipeline; allowed is --redo-stale, "),
        (["table7", "--profile", "slrum"], "profile 'slrum' is unknown; allowed are kubernetes, slurm, or "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_pipeline_that_cannot_be_is_refused_before_anything_is_timed(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.setattr("heterofl_core.timings.timings_for", lambda _: pytest.fail("timed"))
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("started"))
    assert refused("pipeline", *arguments).startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "lvels=a"], "parameter 'lvels' (value 'a') is unknown; did you mean 'levels'?"),
        (["-p", "levels=q"], "levels 'q' is not a mix of levels a to e from large to small, "),
        (["-p", "name=small"], "parameter 'name' (value 'small') is unknown"),
        (["-p", "workers=0"], "parameter 'workers' has the value 0, which is not allowed: "),
        (["-f", "nowhere.yaml"], "file nowhere.yaml cannot be read: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_setting_ends_a_study_before_it_starts(
    refused: Callable[..., str], small_study: Path, arguments: list[str], sentence: str
) -> None:
    assert refused("study", str(small_study), *arguments).startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "arch", "first", "last"),
    [
        (
            [],
            "cnn",
            "a 1.00 1.6 M 80.5 M 5.94 1556874 80504320 39974912 0 5.939 5.939",
            "e 1.00 6.6 K 400.5 K 0.03 6594 400480 182912 0 0.025 0.025",
        ),
        (
            ["preresnet18"],
            "preresnet18",
            "a 1.00 9.6 M 330.2 M 36.71 9622090 330246144 328930304 0 36.705 36.705",
            "e 1.00 38.4 K 1.5 M 0.15 38350 1471104 1388864 0 0.146 0.146",
        ),
        (
            ["transformer"],
            "transformer",
            # 4 · 2 · 64 · 64 · 256 products of attention; a word has 2 · 256 + 1 parameters
            "a 1.00 19.3 M 1.4 B 73.49 19263999 1367965696 683655168 8388608 73.486 15.717",
            "e 1.00 1.1 M 69.3 M 4.23 1108479 69277696 34618368 524288 4.229 0.512",
        ),
    ],
    ids=["by default", "preresnet18", "transformer"],
)
def test_cost_prints_the_31_mixes(
    capsys: pytest.CaptureFixture[str], arguments: list[str], arch: str, first: str, last: str
) -> None:
    assert main(["cost", *arguments]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["Model", "Ratio", "Parameters"]
    assert [row.split()[0] for row in rows] == list(map(str, all_mixes()))
    assert " ".join(rows[0].split()) == first
    assert " ".join(rows[-1].split()) == last


# What is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*DIGITS, "-p", "lvels=a"], "parameter 'lvels' (value 'a') is unknown; did you mean 'levels'?"),
        (["-p", "dataset=digits"], "parameter 'levels' is missing; it must be given"),
        ([*DIGITS, "-p", "levels=f"], "levels 'f' is not a mix of levels a to e from large to small, "),
        ([*DIGITS, "-p", "levels=a3-e6"], "levels 'a3-e6' adds up to 9; "),
        (
            [*DIGITS, "-p", "num_clients=1000"],
            "num_clients 1000 is more than the 360 test examples; allowed are 1 to 360",
        ),
        (
            [*DIGITS, "-p", "num_clients=1438"],
            "num_clients 1438 is more than the 1437 training examples; allowed are 1 to 1437",
        ),
        (
            [*DIGITS, "-p", "partition=non-iid-2", "-p", "num_clients=3"],
            "partition non-iid-2 cannot deal 10 labels evenly to num_clients 3; ",
        ),
        (
            [*DIGITS, "-p", "participation=0"],
            "parameter 'participation' has the value 0, which is ",
        ),
        ([*DIGITS, "-p", "participation=1.5"], "parameter 'participation' has the value 1.5, which is not "),
        ([*DIGITS, "-p", "rounds=few"], "parameter 'rounds' has the value 'few', which is not allowed: "),
        ([*DIGITS, "-p", "lr=.nan"], "parameter 'lr' has the value nan, which is not allowed: "),
        ([*DIGITS, "-p", "workers=0"], "parameter 'workers' has the value 0, which is not allowed: "),
        ([*DIGITS, "-p", "protocol=paper"], "protocol 'paper' does not exist for dataset 'digits', "),
        ([*DIGITS, "-p", "rounds"], "-p 'rounds' is not of the form NAME=VALUE"),
        ([*DIGITS, "-p", "rounds=["], "-p 'rounds=[' has a value that is not YAML: "),
        ([*DIGITS, "-p", "rounds=0x_"], "-p 'rounds=0x_' has a value that is not YAML: "),
        (
            [*DIGITS, "-p", "trace=2024-13-01"],
            "-p 'trace=2024-13-01' has a value that is not YAML: month",
        ),
        ([*DIGITS, "-p", "trace=nowhere.csv"], "trace nowhere.csv cannot be read: No such file or directory"),
        ([*DIGITS, "-p", "arch=transformer"], "arch 'transformer' is not for dataset 'digits'; allowed "),
        (
            [*DIGITS, "-p", "method=fedavg", "-p", "levels=a-e"],
            "levels 'a-e' is a mix, but method fedavg allows one level only",
        ),
        (["-f", "nowhere.yaml"], "file nowhere.yaml cannot be read: No such file or directory"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_a_wrong_setting_ends_a_run_before_it_starts(
    refused: Callable[..., str], arguments: list[str], sentence: str
) -> None:
    assert refused("run", *arguments).startswith(sentence)


@pytest.mark.parametrize("command", ["list", "study", "status"])
def test_an_unknown_study_is_refused(refused: Callable[..., str], command: str) -> None:
    assert refused(command, "table8").startswith("study 'table8' is unknown; allowed are ")


def test_a_notebook_is_refused_in_the_same_way(refused: Callable[..., str]) -> None:
    assert refused("notebook", *DIGITS, "-p", "levels=a3-e6").startswith("levels 'a3-e6' adds up to 9; ")


def test_a_damaged_data_file_ends_a_run_before_it_starts(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data" / "mnist" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 and then nothing")
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "data"))
    sentence = refused("run", "-p", "dataset=mnist", "-p", "levels=e")
    assert sentence.startswith(f"data file {path} is damaged (")
    assert list((tmp_path / "data").iterdir()) == [path.parent]


def test_a_missing_text_ends_a_run_before_it_starts(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    sentence = refused("run", "-p", "dataset=wikitext2", "-p", "levels=e")
    path = tmp_path / "wikitext2" / "train-00000-of-00001.parquet"
    assert sentence.startswith(f"data file {path} is missing; put WikiText2's ")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_ends_a_run_before_it_starts(refused: Callable[..., str], outputs: Path) -> None:
    path = checkpoint_path(run_params(dataset="digits", levels="e").run_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"these are no tensors")
    assert refused("run", *DIGITS).startswith(f"checkpoint {path} is damaged (")


@pytest.mark.parametrize("command", [["run", *TINY], ["notebook", *TINY], ["collect"]], ids=lambda it: it[0])
def test_outputs_that_cannot_be_written_end_a_command_before_it_starts(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    in_the_way = tmp_path / "a file"
    in_the_way.touch()
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(in_the_way / "outputs"))
    assert refused(*command).startswith(f"cannot write {in_the_way / 'outputs'}/")
    assert list(tmp_path.iterdir()) == [in_the_way]


def test_a_damaged_record_ends_collect(refused: Callable[..., str], outputs: Path) -> None:
    path = outputs / "runs" / "one" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert refused("collect").startswith(f"record {path} is damaged (")


@pytest.mark.parametrize("arguments", [[], ["train"], ["run", "--levels", "e"], ["cost", "mlp"]])
def test_a_command_that_does_not_exist_is_told_how_to_call(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m heterofl_core")


def test_a_plan_that_does_not_exist_is_refused_with_those_that_do(refused: Callable[..., str]) -> None:
    sentence = refused("results", "--plan", "missing.yaml")
    assert sentence == "plan 'missing.yaml' is unknown; allowed are cpu, gpu, or a YAML file"


def test_settings_reach_the_runs_of_a_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def work_off(*how: Any, **changes: Any) -> tuple[list[str], list[str]]:
        asked.append((*how, changes))
        return ["one", "another"], []

    monkeypatch.setattr("heterofl_core.results.work_off", work_off)
    assert main(["results", "--plan", "gpu", "-p", "device=cuda", "-p", "seed=1"]) == 0
    assert main(["results", "--hours", "2.5"]) == 0
    assert asked == [("gpu", 1.0, Execution(device="cuda"), {"seed": 1}), ("cpu", 2.5, Execution(), {})]
    assert capsys.readouterr().out == "2 runs done\n" * 2


def test_a_queue_with_failed_runs_has_not_ended_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("heterofl_core.results.work_off", lambda *how: (["one"], ["second", "third"]))
    assert main(["results"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "1 runs done\n"
    assert printed.err == "heterofl_core: 2 runs failed, the first of them second; above stands why\n"


@pytest.mark.parametrize("command", ["confusions", "ensembles"])
def test_what_is_counted_of_a_finished_run_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        f"heterofl_core.{command}.write_{command}",
        lambda run_id, execution: f"{run_id} by {execution.engine}",
    )
    assert main([command, "some_run"]) == 0
    assert capsys.readouterr().out == "some_run by auto\n"


@pytest.mark.parametrize(("flags", "asked"), [([], (False, False)), (["--again", "--mnist"], (True, True))])
def test_a_course_is_executed_as_far_as_it_is_asked_for(
    flags: list[str], asked: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[bool, bool]] = []
    monkeypatch.setattr("heterofl_core.course.bring_up_to_date", lambda *how: given.append(how))
    assert main(["course", *flags]) == 0
    assert given == [asked]


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("heterofl_core.records.collect", stop)
    assert main(["collect"]) == 130
    assert capsys.readouterr().err == "heterofl_core: stopped; the same command goes on\n"


@pytest.mark.parametrize("name", ["hours", "plan", "execution", "name"])
def test_a_setting_that_a_command_has_as_an_option_is_no_parameter_of_a_run(
    refused: Callable[..., str], small_study: Path, name: str
) -> None:
    sentence = f"parameter '{name}' (value 2) is unknown; "
    assert refused("results", "--plan", str(small_study), "-p", f"{name}=2").startswith(sentence)


def test_the_pipeline_without_snakemake_names_its_extra_before_anything_is_timed(
    refused: Callable[..., str], small_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heterofl_core.__main__.find_spec", lambda _: None)
    monkeypatch.setattr("heterofl_core.timings.timings_for", lambda _: pytest.fail("timed"))
    assert refused("pipeline", str(small_study)) == "snakemake is not installed; install '.[pipeline]'"


def test_an_extra_that_is_not_installed_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, extra in (("papermill.inspection", "book"), ("torch", "train")):
        monkeypatch.setattr("heterofl_core.records.collect", lambda name=package: missing(name))
        assert refused("collect") == f"{package.partition('.')[0]} is not installed; install '.[{extra}]'"


def missing(package: str) -> None:
    raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def test_what_no_extra_brings_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofl_core.records.collect", lambda: missing("heterofl_core.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main(["collect"])


def test_folders_that_the_environment_names_are_the_same_for_processes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HETEROFL_OUTPUTS", "outputs/mine")
    monkeypatch.setenv("HETEROFL_DATA", "")
    assert main(["collect"]) == 0
    assert os.environ["HETEROFL_OUTPUTS"] == str(tmp_path / "outputs" / "mine")
    assert os.environ["HETEROFL_DATA"] == ""


# As a program


def test_the_program_ends_with_status_2_and_one_line(outputs: Path) -> None:
    program = [sys.executable, "-m", "heterofl_core", "run", *DIGITS, "-p", "participation=1.5"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("heterofl_core: parameter 'participation' has the value 1.5, ")
    assert done.stderr.count("\n") == 1
    assert not outputs.exists()


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_may_leave_early(buffered: bool) -> None:
    """Such as `head`; what is printed is noticed at once, or when the command ends."""
    gone, write = os.pipe()
    os.close(gone)
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    program = [sys.executable, "-m", "heterofl_core", "list", "table7", "--ids"]
    done = subprocess.run(
        program, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
