"""The experiment notebooks: how they are stored, and that papermill runs them."""

import ast
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from heterofl_core import notebooks
from heterofl_core.data import Images
from heterofl_core.decoded import CODE, write_cache
from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.notebooks import (
    NOTEBOOKS,
    beside_defaults,
    defaults_of,
    notebook_of,
    papermill_command,
    read_notebook,
    run_notebook,
    source_of,
)
from heterofl_core.params import Execution, RunParams, run_params
from heterofl_core.records import executed_path, failed_path, read_record, record_path, runs_folder
from heterofl_core.results import read_plan
from heterofl_core.schedules import SCHEDULES
from heterofl_core.settings import from_namespace, split_settings, telling

EXPERIMENTS = Path(__file__).resolve().parents[1] / "book" / "experiments"
SMOKE: dict[str, Any] = {
    "dataset": "digits",
    "levels": "c-e",
    "protocol": "smoke",
    "num_clients": 20,
    "workers": 1,
}


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


@pytest.fixture(params=sorted(EXPERIMENTS.glob("*.ipynb")), ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """Each notebook as it is stored."""
    return nbformat.read(request.param, as_version=4)


def test_every_data_set_has_its_notebook() -> None:
    assert set(NOTEBOOKS) == set(SCHEDULES["datasets"])
    assert {f"{name}.ipynb" for name in NOTEBOOKS.values()} <= {path.name for path in EXPERIMENTS.iterdir()}


def test_a_notebook_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert "papermill" not in notebook.metadata


def test_a_notebook_defines_nothing_and_has_no_loop(notebook: nbformat.NotebookNode) -> None:
    source = "\n".join(cell.source for cell in code_cells(notebook))
    kinds = {type(node) for node in ast.walk(ast.parse(source))}
    assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.For, ast.While}


def test_the_first_code_cell_has_every_parameter_once_with_a_comment(
    notebook: nbformat.NotebookNode,
) -> None:
    cell = parameters_cell(notebook)
    assert cell is code_cells(notebook)[0]
    settings = [line for line in cell.source.splitlines() if not line.startswith("#")]
    names = [line.split(" = ")[0] for line in settings]
    assert sorted(names) == sorted([*RunParams.model_fields, *Execution.model_fields])
    assert all("  # " in line for line in settings)


def test_the_first_code_cell_as_it_stands_is_a_run_of_this_notebook() -> None:
    for path in EXPERIMENTS.glob("*.ipynb"):
        namespace: dict[str, object] = {}
        exec(parameters_cell(nbformat.read(path, as_version=4)).source, namespace)
        params, execution = from_namespace(namespace)
        assert notebook_of(params) == path.stem
        assert execution == Execution()


def test_notebooks_share_everything_that_is_not_narrative() -> None:
    """Beside their text and the defaults of their parameters, all notebooks are the same."""
    shared = {
        tuple(cell.source for cell in code_cells(nbformat.read(path, as_version=4))[1:])
        for path in EXPERIMENTS.glob("*.ipynb")
    }
    assert len(shared) == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "mnist"),
        ({"partition": "non-iid-2"}, "mnist"),
        ({"dataset": "cifar10", "selection": "rolling"}, "cifar10"),
        ({"dataset": "wikitext2"}, "wikitext2"),
        ({"dataset": "wikitext2", "assignment": "fix"}, "interpolation"),
        ({"assignment": "fix"}, "interpolation"),
        ({"levels": "e", "assignment": "fix"}, "mnist"),
        ({"norm": "gn"}, "ablation"),
        ({"dataset": "cifar10", "masked_loss": "none"}, "ablation"),
        ({"dataset": "cifar10", "augmented": False}, "ablation"),
        ({"arch": "preresnet18"}, "mnist"),
        ({"dataset": "cifar10", "levels": "a", "method": "standalone", "arch": "mlp"}, "baselines"),
    ],
)
def test_each_run_has_the_notebook_that_tells_its_story(changes: dict[str, str], name: str) -> None:
    assert notebook_of(run_params(**{"dataset": "mnist", "levels": "a-e", **changes})) == name


STORIES = [
    pytest.param({}, id="mnist"),
    pytest.param({"partition": "non-iid-2", "norm": "none", "scaler": False}, id="ablation"),
    pytest.param({"assignment": "fix"}, id="interpolation"),
    pytest.param({"levels": "a", "method": "lg-fedavg", "arch": "mlp"}, id="baselines"),
]


@pytest.mark.parametrize("changes", STORIES)
def test_papermill_runs_a_notebook_to_its_record(outputs: Path, changes: dict[str, Any]) -> None:
    smoke = SMOKE | changes
    path = run_notebook(smoke)
    assert path is not None
    record = json.loads(record_path(path.stem).read_text())
    assert record["rounds_done"] == 2
    assert record["params"]["levels"] == smoke["levels"]
    executed = nbformat.read(path, as_version=4)
    assert all(cell.execution_count for cell in code_cells(executed) if cell.source)
    images = [
        output
        for cell in code_cells(executed)
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]
    assert len(images) == 2  # the partition and the curve
    last = code_cells(executed)[-1].outputs[0]["text"]
    assert record["run_id"] in last
    assert record["device"] in last
    assert run_notebook(smoke) is None  # a finished run is not done again
    path.unlink()  # as if the process had died between its record and its notebook
    assert run_notebook(smoke) == path
    assert read_record(record_path(path.stem)) == record


def test_papermill_runs_the_notebook_of_wikitext2(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a text of our own: a mirror with the same layout."""
    folder = tmp_path / "mirror" / "wikitext2"
    folder.mkdir(parents=True)
    lines = [f"{word} came before {word} again" for word in ("one", "two", "three") for _ in range(500)]
    for half, part in (("train", lines), ("test", lines[:300])):
        pd.DataFrame({"text": part}).to_parquet(folder / f"{half}-00000-of-00001.parquet")
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "mirror"))
    path = run_notebook({"dataset": "wikitext2", "levels": "e", "protocol": "smoke", "workers": 1})
    assert path is not None
    metrics = json.loads(record_path(path.stem).read_text())["metrics"]
    for kind in ("perplexity", "masked_perplexity", "visible_perplexity"):
        assert 1 < metrics[f"best_{kind}"] < 13  # guessing among 12 tokens gives 12


def test_papermill_runs_the_notebook_of_cifar10(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few coloured squares, as if they had been decoded before."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    labels = np.arange(400) % 10
    squares = (25 * labels[:, None, None, None] + np.zeros((1, 3, 32, 32))).astype(np.uint8)
    few = Images(squares, labels, squares[:200], labels[:200])
    write_cache(tmp_path / "cache" / f"cifar10_{CODE}", asdict(few))
    path = run_notebook(
        {
            "dataset": "cifar10",
            "levels": "e",
            "protocol": "smoke",
            "participation": 0.02,
            "rounds": 1,
            "workers": 1,
        }
    )
    assert path is not None
    assert json.loads(record_path(path.stem).read_text())["rounds_done"] == 1


def test_whoever_waited_for_a_redo_does_not_redo_it_again(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_path(split_settings(SMOKE)[0].run_id)
    executed: list[int] = []

    def write_record(second: int) -> None:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()
        os.utime(record, (second, second))
        write_text(executed_path(record.parent.name), "{}")

    @contextmanager
    def locked_after_another(name: str) -> Iterator[bool]:
        write_record(2)
        yield True

    monkeypatch.setattr(notebooks, "execute_notebook", lambda *_: executed.append(1))
    write_record(1)
    with monkeypatch.context() as patch:
        patch.setattr(notebooks, "locked", locked_after_another)
        assert run_notebook({**SMOKE, "force": True}) is None
    assert executed == []
    assert run_notebook({**SMOKE, "force": True}) is not None
    assert executed == [1]


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n", "{}"])
def test_what_is_no_notebook_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "merged.ipynb"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^notebook {path} is damaged \(Notebook .*\); restore or delete"):
        read_notebook(path)


def test_a_failed_notebook_is_kept_with_its_traceback_and_leaves_no_run(outputs: Path) -> None:
    too_many = {**SMOKE, "num_clients": 100_000}
    with pytest.raises(
        InputError, match=r"^num_clients 100000 is more than the 1437 training examples.* \(cell \d+\); the"
    ) as error:
        run_notebook(too_many)
    (kept,) = failed_path("any").parent.glob("*.ipynb")
    assert str(kept) in str(error.value)
    assert "Traceback" in kept.read_text()
    assert not executed_path(kept.stem).exists()
    assert not list(runs_folder().rglob("*"))


def test_a_kernel_that_does_not_start_is_one_sentence(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it lost a race for its ports; a queue of runs must outlive that."""

    def dies(source: Path, target: Path, **_: Any) -> None:
        shutil.copy(source, target)  # papermill writes it before anything runs
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr("papermill.execute_notebook", dies)
    with pytest.raises(
        InputError, match=r"^Kernel died before replying to kernel_info; the same command goes"
    ):
        run_notebook(SMOKE)
    assert len(list(failed_path("any").parent.glob("*.ipynb"))) == 1
    assert not list(executed_path("any").parent.glob("*.ipynb"))


def test_a_misspelt_parameter_is_found_before_a_kernel_starts(outputs: Path) -> None:
    with pytest.raises(InputError, match=r"'roudns' .* did you mean 'rounds'"):
        run_notebook({**SMOKE, "roudns": 3})
    assert not list(outputs.rglob("*"))


def test_a_notebook_does_the_run_that_it_was_asked_for() -> None:
    """Its own defaults, such as the ablation's `norm = "none"`, give way to what the run has."""
    planned = {params.run_id: params for plan in ("cpu", "gpu") for params in read_plan(plan).runs}
    for params in planned.values():
        told = beside_defaults(params) | telling(params)
        assert from_namespace(defaults_of(source_of(params)) | told)[0] == params


def test_the_ablations_notebook_is_told_of_a_norm_that_a_run_leaves_to_the_paper() -> None:
    params = run_params(dataset="mnist", levels="e", masked_loss="none")
    assert beside_defaults(params) == {"levels": "e", "dataset": "mnist", "partition": "iid", "norm": "sbn"}
    assert "-p norm sbn" in papermill_command(params)
