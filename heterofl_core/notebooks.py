"""Running an experiment's notebook through papermill, so that a run leaves a readable page behind."""

import ast
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, sweep, written_at
from heterofl_core.folders import BOOK, ROOT
from heterofl_core.locks import locked
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import executed_path, failed_path, record_path
from heterofl_core.report.titles import SWITCHES
from heterofl_core.settings import split_settings, telling

NOTEBOOKS = {"digits": "mnist", "mnist": "mnist", "cifar10": "cifar10", "wikitext2": "wikitext2"}
"""For each data set the notebook in `book/experiments/` of the paper's own setting. Somebody's own
images have MNIST's."""
ABLATED = set(SWITCHES) - {"method", "arch", "shared_layers", "selection"}
"""The switches of the ablation; baselines have a notebook of theirs, other networks and sub-models none."""


def notebook_of(params: RunParams) -> str:
    """The notebook in `book/experiments/` that tells the story of a run."""
    usual = run_params(dataset=params.dataset, levels=params.levels, partition=params.partition)
    if params.method != "heterofl":
        return "baselines"
    if any(getattr(params, name) != getattr(usual, name) for name in ABLATED):
        return "ablation"
    if params.assignment == "fix" and usual.assignment == "dynamic":
        return "interpolation"
    return NOTEBOOKS.get(params.dataset, NOTEBOOKS["mnist"])


def source_of(params: RunParams) -> Path:
    """The file of the notebook that tells the story of a run."""
    return BOOK / "experiments" / f"{notebook_of(params)}.ipynb"


@functools.cache
def defaults_of(source: Path) -> dict[str, Any]:
    """What a notebook sets unless papermill is told otherwise."""
    import papermill

    found = papermill.inspect_notebook(source)
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def beside_defaults(params: RunParams) -> dict[str, Any]:
    """The settings of a run that its notebook would set to something else than the run has.

    A notebook leaves most settings to what the paper does, as a run does; but the ablation's begins without
    a norm, for one, and with skewed labels.
    """
    defaults = defaults_of(source_of(params))
    return {
        name: getattr(params, name)
        for name in RunParams.model_fields
        if defaults[name] not in (None, getattr(params, name))
    }


def papermill_command(params: RunParams) -> str:
    """The shell command that has papermill execute the notebook of a run, anew even if it is recorded."""
    lines = [f".venv/bin/papermill book/experiments/{notebook_of(params)}.ipynb run.ipynb -p force True"]
    for name, value in (beside_defaults(params) | telling(params)).items():
        if isinstance(value, list):  # papermill's -p takes no lists
            lines.append(f"    -y '{{{name}: {value}}}'")
        else:
            lines.append(f"    -p {name} {value}")
    return " \\\n".join(lines)


def run_notebook(values: Mapping[str, Any]) -> Path | None:
    """Executes the notebook of one run.

    papermill writes to a temporary file; the executed notebook appears only when the run is done. If another
    process executes the same notebook, this one waits for it, and takes its record.

    Args:
        values: parameters of the run and settings of its execution, as given.

    Returns:
        The executed notebook, or None if the run was done before, or meanwhile. That of a run which was
        done without Jupyter, or whose process died between the record and the notebook, shows the record.

    Raises:
        InputError: the settings are wrong, or the notebook failed; the message says where it lies.
    """
    params, execution = split_settings(values)
    path, record = executed_path(params.run_id), record_path(params.run_id)
    before = written_at(record)
    with locked(path.name):
        redo = execution.force and written_at(record) == before
        if record.exists() and path.exists() and not redo:
            print(f"{params.run_id} is done already{'' if execution.force else '; --force redoes it'}")
            return None
        sweep(path)
        execute_notebook(params, values)
        failed_path(params.run_id).unlink(missing_ok=True)
    return path


class KernelError(InputError):
    """A notebook's kernel died, or never lived; no cell is to blame."""


def execute_notebook(params: RunParams, values: Mapping[str, Any]) -> None:
    """Has papermill execute a run's notebook, which is kept among the failed ones if it fails.

    Raises:
        InputError: it failed; the message says where it lies.
    """
    trace = {"trace": params.trace} if params.trace else {}  # the kernel might not find a table's path
    with atomic(executed_path(params.run_id)) as temporary:
        try:
            settings = {**beside_defaults(params), **values, **trace}
            through_papermill(source_of(params), temporary, settings, stdout_file=sys.stdout)
        except InputError as error:
            kept = failed_path(params.run_id)
            with atomic(kept) as copy:
                copy.write_bytes(temporary.read_bytes())
            died = isinstance(error, KernelError)
            goes_on = "; the same command goes on from where it stopped" if died else ""
            raise InputError(f"{error}{goes_on}; the notebook as far as it came: {kept}") from error


def through_papermill(
    source: Path, target: Path, settings: Mapping[str, Any], **options: Any
) -> NotebookNode:
    """A notebook as papermill executed it, in the checkout's folder.

    Args:
        source, target: the notebook, and the file that is overwritten with what came of it.
        settings: in place of those in its cell tagged `parameters`.
        options: of `papermill.execute_notebook`.

    Raises:
        InputError: a cell failed.
        KernelError: the kernel died, or never lived.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    try:
        return papermill.execute_notebook(
            source,
            target,
            parameters=settings,
            cwd=ROOT,
            kernel_name="python3",
            progress_bar=False,  # a run's own bar says more
            stderr_file=sys.stderr,
            **options,
        )
    except PapermillExecutionError as error:
        raise InputError(f"{error.evalue} (cell {error.cell_index})") from error
    except RuntimeError as error:
        raise KernelError(str(error)) from error


def read_notebook(path: Path) -> NotebookNode:
    """A notebook as it is stored.

    Raises:
        InputError: it is none, as after a merge that left both sides in it.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.ValidationError) as error:
        raise InputError(f"notebook {path} is damaged ({error}); restore or delete it") from error
