"""What Snakemake is told: which runs are open, and how each is started."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from heterofl_core import pipeline
from heterofl_core.errors import InputError
from heterofl_core.folders import BOOK, PARAMS, ROOT
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.pipeline import Workload, book_sources, fetch, newest_record, snakemake_command, workload
from heterofl_core.provenance import code_hash
from heterofl_core.records import record_path, write_run
from heterofl_core.report import counts
from heterofl_core.settings import from_texts, split_settings
from heterofl_core.studies import all_runs, read_study

STUDY = """
title: Three small runs
exhibits: []
runs:
  - {dataset: digits, levels: [e, d-e, c-e], protocol: smoke}
"""


@pytest.fixture
def study(tmp_path: Path, outputs: Path) -> str:
    """A study of three runs, none of them done."""
    path = tmp_path / "three.yaml"
    path.write_text(STUDY)
    return str(path)


def runs_of(study: str) -> list[RunParams]:
    return list(read_study(study).runs)


def write_record(params: RunParams, hash: str = "") -> None:
    record = {"run_id": params.run_id, "code_hash": hash or code_hash()}
    write_run(record, pd.DataFrame({"round": [2]}))


def test_a_plan_has_the_runs_without_a_record(study: str) -> None:
    first, *rest = runs_of(study)
    assert workload([study], [], redo_stale=False).open == tuple(params.run_id for params in (first, *rest))
    write_record(first)
    found = workload([study], [], redo_stale=False)
    assert found.open == tuple(params.run_id for params in rest)
    assert not found.force
    assert found.arguments(first.run_id)  # a job that starts late may find its run done by another


def test_studies_that_share_runs_do_them_once(study: str) -> None:
    assert len(workload([study, study], [], redo_stale=False).open) == 3


def test_settings_win_over_the_study_and_make_other_runs(study: str) -> None:
    write_record(runs_of(study)[0])
    found = workload([study], ["seed=5", "workers=2"], redo_stale=False)
    assert [params.seed for params in found.runs.values()] == [5, 5, 5]
    assert found.workers == 2


def test_stale_runs_are_done_again_only_when_asked_for_and_then_by_force(study: str) -> None:
    first, second, third = runs_of(study)
    write_record(first, hash="0123456789abcdef")
    write_record(second)
    assert workload([study], [], redo_stale=False).open == (third.run_id,)
    found = workload([study], [], redo_stale=True)
    assert found.open == (first.run_id, third.run_id)
    assert found.force == {first.run_id}
    assert found.arguments(first.run_id).endswith(" --force")
    assert "--force" not in found.arguments(third.run_id)


def test_nothing_is_planned_over_a_damaged_record(study: str) -> None:
    first = runs_of(study)[0]
    write_record(first)
    record_path(first.run_id).write_text("{}")
    with pytest.raises(InputError, match=rf"record .*{first.run_id}.* is damaged"):
        workload([study], [], redo_stale=True)
    assert record_path(first.run_id).read_text() == "{}"


def test_a_marker_counts_nothing_without_a_record(study: str) -> None:
    found = workload([study], [], redo_stale=False)
    marker = found.markers()[0]
    marker.parent.mkdir(parents=True)
    marker.touch()
    found.remove_old_markers()
    assert not marker.exists()


@pytest.mark.parametrize(
    ("studies", "settings", "sentence"),
    [
        ([], [], "no study is named; there are ablation, "),
        (["table55"], [], "study 'table55' is unknown; allowed are ablation, "),
        (["table5"], ["level=e"], "parameter 'level' \\(value 'e'\\) is unknown"),
        (["table5"], ["workers=0"], "parameter 'workers' has the value 0"),
        (["table5"], ["seed"], "-p 'seed' is not of the form NAME=VALUE"),
        (["table5"], ["force=true"], "force True is not for pipeline; allowed is --redo-stale, or study"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(
    outputs: Path, studies: list[str], settings: list[str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        workload(studies, settings, redo_stale=False)


def variants() -> list[RunParams]:
    """Every run of every study, and of some with other schedules."""
    small: dict[str, Any] = {"dataset": "digits", "num_clients": 20, "protocol": "smoke"}
    return [
        *all_runs().values(),
        *read_study("table5", protocol="short").runs,
        *read_study("table6", protocol="short", schedule_factor=1.0).runs,
        *read_study("ablation", **small).runs,
    ]


def test_the_arguments_of_each_run_lead_back_to_it() -> None:
    runs = {params.run_id: params for params in variants()}
    given = Execution(workers=3, backend="dask", checkpoint_every=1)
    found = Workload(runs, open=(), force=frozenset(), execution=given)
    for run_id, params in runs.items():
        words = shlex.split(found.arguments(run_id))
        assert set(words[::2]) == {"-p"}
        back, execution = split_settings(from_texts(words[1::2]))
        assert back == params
        assert back.run_id == run_id
        assert execution == given


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_on_a_gpu_asks_a_cluster_for_one(study: str, device: str) -> None:
    asked = {"cpu": {}, "cuda": {"gpu": 1, "gpu_manufacturer": "nvidia"}}
    assert workload([study], [f"device={device}"], redo_stale=False).gpu == asked[device]


def test_the_book_is_made_of_its_text_the_parameters_and_what_was_measured(outputs: Path) -> None:
    measured = [outputs / name for name in ("bench/rounds.csv", "course/01.ipynb", "equivalent/a/b.json")]
    for path in (*measured, outputs / "course" / ".01.ipynb.writing", outputs / "runs" / "a" / "record.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = book_sources()
    assert [path for path in found if outputs in path.parents] == measured
    named = ("claims.yaml", "schedules.yaml", "paper/table4.csv", "studies/table5.yaml")
    assert {PARAMS / name for name in named} <= set(found)
    assert {BOOK / "chapters" / "01-fedavg.md", BOOK / "experiments" / "mnist.ipynb"} <= set(found)
    assert ROOT / "outputs" / "course" / "01-fedavg.ipynb" in found  # shown where these outputs have none
    assert {ROOT / "heterofl_core" / name for name in ("figures.py", "report/claims.py")} <= set(found)
    assert all(path.is_file() for path in found)


def test_results_are_made_anew_after_the_record_that_was_written_last(study: str) -> None:
    assert newest_record() == []
    for params, written in zip(runs_of(study), (30, 50, 40), strict=True):
        write_record(params)
        os.utime(record_path(params.run_id), (written, written))
    assert newest_record() == [record_path(runs_of(study)[1].run_id)]


@pytest.mark.parametrize(("dataset", "fetched"), [("mnist", ["mnist"]), ("digits", [])])
def test_mnist_is_there_before_runs_start_at_once(
    dataset: str, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("heterofl_core.data.load_images", loaded.append)
    fetch([run_params(dataset=dataset, levels=levels) for levels in ("d", "e")])
    assert loaded == fetched


def test_snakemake_is_given_the_studies_the_settings_and_a_profile_of_ours(tmp_path: Path) -> None:
    command = snakemake_command(["table5"], ['levels="e"'], redo_stale=False, profile="slurm")
    config = dict(text.split("=", 1) for text in command[command.index("--config") + 1 :])
    assert {name: json.loads(value) for name, value in config.items()} == {
        "studies": ["table5"],
        "settings": ['levels="e"'],
        "redo_stale": False,
    }
    assert command[command.index("--profile") + 1].endswith("workflow/profiles/slurm")
    here = snakemake_command(["my.yaml"], ["trace=my.csv"], redo_stale=False, profile=None)
    assert "--profile" not in here
    assert here[here.index("--cores") + 1] == "all"
    assert re.fullmatch(r"mem_mb=\d{3,}", here[here.index("--resources") + 1])  # at least 100 MB
    assert "--resources" not in command  # a cluster knows its own
    assert f'studies=["{Path.cwd()}/my.yaml"]' in here
    assert "settings=" + json.dumps([f'trace="{Path.cwd()}/my.csv"']) in here
    own = snakemake_command(["table5"], [], redo_stale=False, profile=str(tmp_path))
    assert own[own.index("--profile") + 1] == str(tmp_path)


@pytest.mark.parametrize(("limit", "memory"), [("104857600\n", "100"), ("max\n", None), (None, None)])
def test_a_container_has_the_memory_that_it_may_use(
    limit: str | None, memory: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(pipeline, "CONTAINERS_LIMIT", file)
    everything = str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20)
    assert pipeline.on_this_machine()[-1] == f"mem_mb={memory or everything}"


def test_an_unknown_profile_is_named_with_those_that_exist() -> None:
    with pytest.raises(InputError, match="profile 'slrum' is unknown; allowed are kubernetes, slurm, or a "):
        snakemake_command(["table5"], [], redo_stale=False, profile="slrum")


@pytest.mark.parametrize(
    ("dataset", "arch", "layers"),
    [
        ("mnist", "mlp", counts.mlp(28 * 28)),
        ("mnist", "cnn", counts.cnn(1.0)),
        ("cifar10", "preresnet18", counts.preresnet(1.0)),
    ],
    ids=["mlp", "cnn", "preresnet18"],
)
def test_clients_with_models_of_their_own_ask_for_the_memory_of_all_of_them(
    dataset: str, arch: str, layers: list[counts.Layer]
) -> None:
    """Twice, since they are sent to the workers; a federation with one model asks for none of it."""
    asked = {}
    for method in ("standalone", "lg-fedavg", "fedavg"):
        params = run_params(dataset=dataset, levels="a", method=method, arch=arch)
        one = Workload({params.run_id: params}, (params.run_id,), frozenset(), Execution(workers=1))
        asked[method] = one.memory_mb(params.run_id)
    assert asked["standalone"] == asked["lg-fedavg"]
    assert asked["standalone"] - asked["fedavg"] >= 2 * 100 * counts.space_mb(layers)


def test_models_of_somebodys_own_count_as_the_largest_that_are_known() -> None:
    params = run_params(dataset="mnist", levels="a", method="standalone", arch="mixer:Mixer", norm="ln")
    largest = run_params(dataset="mnist", levels="a", method="standalone", arch="preresnet18")
    asked = {
        one.run_id: Workload({one.run_id: one}, (one.run_id,), frozenset(), Execution()).memory_mb(one.run_id)
        for one in (params, largest)
    }
    assert len(asked) == 2
    assert len(set(asked.values())) == 1
