"""The studies stand for the runs of the paper's tables and figures, each once."""

import re
from pathlib import Path

import joblib
import pandas as pd
import pytest

from heterofl_core.__main__ import main
from heterofl_core.errors import InputError
from heterofl_core.estimate import Timing, keep_timings, timing_name, work_of
from heterofl_core.folders import PARAMS, ROOT
from heterofl_core.levels import Mix
from heterofl_core.params import run_params
from heterofl_core.studies import all_runs, interpolations, read_study, study_names
from heterofl_core.timings import macs_of

TABLES = ("table5", "table6", "table7")
INTERPOLATIONS = ("figure2", "figure3", "figure4", "figures5and7", "figures6and8")


def ids(*names: str) -> list[str]:
    return [params.run_id for name in names for params in read_study(name).runs]


def test_tables_and_interpolations_are_605_runs() -> None:
    assert len(ids(*TABLES)) == len(set(ids(*TABLES))) == 155
    assert len(ids(*INTERPOLATIONS)) == len(set(ids(*INTERPOLATIONS))) == 450
    assert len(set(ids(*TABLES, *INTERPOLATIONS))) == 605


@pytest.mark.parametrize(
    ("name", "number"), [("table5", 62), ("table6", 62), ("table7", 31), ("ablation", 50), ("baselines", 24)]
)
def test_a_study_has_as_many_runs_as_its_exhibit(name: str, number: int) -> None:
    assert len(ids(name)) == len(set(ids(name))) == number


def test_every_run_of_tables_and_interpolations_has_the_papers_schedule() -> None:
    assert {params.protocol for name in (*TABLES, *INTERPOLATIONS) for params in read_study(name).runs} == {
        "paper"
    }


def test_an_interpolation_goes_from_10_to_90_percent_of_the_larger_level() -> None:
    mixes = [Mix.parse(text) for text in interpolations()]
    assert len(set(mixes)) == 90
    assert {mix.levels for mix in mixes} == {
        (large, small) for large in "abcde" for small in "abcde" if large < small
    }
    shares = sorted(round(float(mix.shares[0]), 1) for mix in mixes if mix.levels == ("a", "e"))
    assert shares == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_the_learning_curves_reuse_runs_of_tables_and_interpolations() -> None:
    curves = set(ids("figure9", "figure10", "figure11"))
    assert len(curves) == 100
    assert curves <= set(ids(*TABLES, *INTERPOLATIONS))


def test_the_ablation_has_the_25_rows_of_the_slides_on_both_data_sets() -> None:
    printed = pd.read_csv(PARAMS / "paper" / "ablation_noniid.csv")
    rows = {
        (row["model"], row["norm"], row["scaler"] != "no", row["masked_ce"] == "yes")
        for row in printed.to_dict("records")
    }
    assert len(rows) == 25
    for dataset in ("mnist", "cifar10"):
        runs = [params for params in read_study("ablation").runs if params.dataset == dataset]
        assert {(p.levels, p.norm, p.scaler, p.masked_loss == "zero") for p in runs} == rows
        assert {p.partition for p in runs} == {"non-iid-2"}


def test_list_all_ids_names_every_run_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--all", "--ids"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(set(printed)) == len(all_runs())
    assert set(printed) == set(ids(*study_names()))


def test_list_prints_work_and_time_of_each_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "data"))  # where timings are kept
    study = tmp_path / "small.yaml"
    study.write_text(
        "title: t\nexhibits: [x]\nruns:\n  - {dataset: digits, levels: [d, e], protocol: smoke}\n"
    )
    runs = {level: run_params(dataset="digits", levels=level, protocol="smoke") for level in "de"}
    timings = {timing_name(params, level): Timing(3600.0, 0.0) for level, params in runs.items()}
    keep_timings(timings)
    assert main(["list", str(study)]) == 0
    header, larger, smaller, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "10^12", "MACs", "hours", "here"]
    assert larger.startswith("digits_iid_d_fix_smoke")
    assert smaller.startswith("digits_iid_e_fix_smoke")
    for params, line in zip(runs.values(), (larger, smaller), strict=True):
        _, work, hours, *_ = line.split()
        assert float(work) == pytest.approx(macs_of(params) / 1e12, abs=0.01)
        steps = work_of(params).steps / min(joblib.cpu_count(), params.num_active)
        assert float(hours) == pytest.approx(steps, abs=0.01)
    assert total.startswith("2 runs, ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\nruns: []\n", "must have title, exhibits and runs, and nothing else"),
        (
            "title: t\nexhibits: []\nruns: []\nseeds: 3\n",
            "must have title, exhibits and runs, and nothing else",
        ),
        ("title: t\nexhibits: []\nruns: [{dataset: mnist, levels: [e, q]}]\n", "levels 'q' is not a mix"),
        ("title: 5\nexhibits: []\nruns: [{}]\n", "has the title 5; it must be a text"),
        ("title: t\nexhibits: null\nruns: [{}]\n", "has the exhibits None; give a list such as"),
        ("title: t\nexhibits: Table 5\nruns: [{}]\n", "has the exhibits 'Table 5'; give a list such as"),
        ("title: t\nexhibits: [5]\nruns: [{}]\n", r"has the exhibits \[5\]; give a list such as"),
        ("title: t\nexhibits: []\nruns: 3\n", "has the runs 3; give a list such as"),
        ("title: t\nexhibits: []\nruns: []\n", r"has the runs \[\]; give a list such as"),
        ("title: t\nexhibits: []\nruns: [foo]\n", "has the runs 'foo'; give a list such as"),
        ("title: t\nexhibits: []\nruns: [{1: mnist}]\n", "has the runs {1: 'mnist'}; give a list such as"),
        (
            "title: t\nexhibits: []\nruns: [{dataset: mnist, levels: []}]\n",
            "levels has no value in a study; give one at least, or leave it out",
        ),
    ],
)
def test_a_wrong_study_is_refused_with_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_study(str(path))


def written(folder: Path, grid: str) -> Path:
    """A study with one grid."""
    path = folder / "study.yaml"
    path.write_text(f"title: t\nexhibits: []\nruns: [{grid}]\n")
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[]", [()]),
        ("[3]", [(3,)]),
        ("[[3], [1, 2], []]", [(3,), (1, 2), ()]),
    ],
)
def test_a_list_of_rounds_is_one_value_of_milestones_and_may_be_empty(
    tmp_path: Path, given: str, expected: list[tuple[int, ...]]
) -> None:
    path = written(tmp_path, f"{{dataset: digits, levels: e, milestones: {given}}}")
    assert [params.milestones for params in read_study(str(path)).runs] == expected


def test_the_file_of_a_trace_lies_beside_the_studys(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("client,level\n0,a\n1,e\n2,e\n")
    path = written(tmp_path, "{dataset: digits, levels: a-e, num_clients: 3, trace: [fleet.csv, aae]}")
    assert [params.trace for params in read_study(str(path)).runs] == ["aee", "aae"]


def test_list_takes_settings_that_win_over_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "{dataset: digits, levels: e}")
    assert main(["list", str(path), "--ids", "-p", "seed=3"]) == 0
    assert capsys.readouterr().out == f"{read_study(str(path), seed=3).runs[0].run_id}\n"
    assert "_s3_" in read_study(str(path), seed=3).runs[0].run_id


def test_an_unknown_study_is_refused_with_the_names_of_those_that_exist() -> None:
    with pytest.raises(InputError, match="study 'table4' is unknown; allowed are ablation, baselines, "):
        read_study("table4")


def test_the_projects_for_students_are_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their settings stand in a table of the page for instructors, to be copied."""
    monkeypatch.chdir(tmp_path)
    for name in ("random-0.csv", "tied-0.csv"):
        pd.DataFrame({"client": range(20), "level": ["c", "e"] * 10}).to_csv(name, index=False)
    page = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
    settings = re.findall(r"`(\{dataset: .*?\})`", page)
    assert len(settings) >= 5
    for number, setting in enumerate(settings):
        study = tmp_path / f"{number}.yaml"
        study.write_text(f"title: A project\nexhibits: []\nruns:\n  - {setting}\n", encoding="utf-8")
        runs = read_study(str(study)).runs
        assert {run.seed for run in runs} == ({0} if "trace" in setting else {0, 1, 2})
