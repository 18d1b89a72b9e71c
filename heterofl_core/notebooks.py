"""Running an experiment's notebook through papermill, so that a run leaves a readable page behind."""

import ast
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.files import atomic, sweep
from heterofl_core.folders import BOOK, ROOT
from heterofl_core.locks import locked
from heterofl_core.params import RunParams, run_params
from heterofl_core.records import executed_path, failed_path, record_path
from heterofl_core.settings import split_settings, telling

NOTEBOOKS = {"digits": "mnist", "mnist": "mnist", "cifar10": "cifar10", "wikitext2": "wikitext2"}
"""For each data set the notebook in `book/experiments/` of the paper's own setting. Somebody's own
images have MNIST's."""


def notebook_of(params: RunParams) -> str:
    """The notebook in `book/experiments/` that tells the story of a run."""
    usual = run_params(dataset=params.dataset, levels=params.levels, partition=params.partition)
    switches = (
        *("norm", "scaler", "masked_loss", "label_restricted", "augmented_statistics", "blocks"),
        *("predicted", "mask_trained"),
    )
    if params.method != "heterofl":
        return "baselines"
    if any(getattr(params, name) != getattr(usual, name) for name in switches):
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
    lines = [f"papermill book/experiments/{notebook_of(params)}.ipynb run.ipynb -p force True"]
    for name, value in (beside_defaults(params) | telling(params)).items():
        if isinstance(value, list):  # papermill's -p takes no lists
            lines.append(f"    -y '{{{name}: {value}}}'")
        else:
            lines.append(f"    -p {name} {value}")
    return " \\\n".join(lines)


def run_notebook(values: Mapping[str, Any]) -> Path | None:
    """Executes the notebook of one run.

    papermill writes to a temporary file; the executed notebook appears only when the run is done. If another
    process executes the same notebook, this one waits for it.

    Args:
        values: parameters of the run and settings of its execution, as given.

    Returns:
        The executed notebook, or None if the run was done before.

    Raises:
        InputError: the settings are wrong, or the notebook failed; the message says where it lies.
    """
    params, execution = split_settings(values)
    path = executed_path(params.run_id)
    with locked(path.name):
        if record_path(params.run_id).exists() and not execution.force:
            print(f"{params.run_id} is done already; --force redoes it")
            return None
        sweep(path)
        execute_notebook(params, values)
        failed_path(params.run_id).unlink(missing_ok=True)
    return path


def execute_notebook(params: RunParams, values: Mapping[str, Any]) -> None:
    """Has papermill execute a notebook, which it keeps among the failed ones if it fails.

    Raises:
        InputError: it failed; the message says where it lies.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    trace = {"trace": params.trace} if params.trace else {}  # the kernel might not find a table's path
    with atomic(executed_path(params.run_id)) as temporary:
        try:
            papermill.execute_notebook(
                source_of(params),
                temporary,
                parameters={**beside_defaults(params), **values, **trace},
                cwd=ROOT,
                kernel_name="python3",
                progress_bar=False,  # the run's own bar says more
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
            )
        except (
            PapermillExecutionError,
            RuntimeError,
        ) as error:  # RuntimeError: its kernel died, or never lived
            kept = failed_path(params.run_id)
            with atomic(kept) as copy:
                copy.write_bytes(temporary.read_bytes())
            reason = getattr(error, "evalue", f"{error}; the same command goes on from where it stopped")
            raise InputError(f"{reason} (the notebook as far as it came: {kept})") from error
