"""Settings as people give them: in YAML, in a notebook, on the command line."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from heterofl_core.errors import InputError
from heterofl_core.params import Execution, RunParams, run_params, sentence, without_none
from heterofl_core.processor import lacks_instructions, processor
from heterofl_core.strict_yaml import parse_yaml


def split_settings(values: Mapping[str, Any]) -> tuple[RunParams, Execution]:
    """Validates settings of a run, and of its execution, that were given under one roof.

    Raises:
        InputError: see `run_params`.
    """
    given, execution = split_changes(values)
    return run_params(**given), execution


def split_changes(values: Mapping[str, Any]) -> tuple[dict[str, Any], Execution]:
    """Tells settings of its execution, validated, from those of a run, which may be incomplete.

    Raises:
        InputError: see `run_params`.
    """
    given = without_none(values)
    about_execution = {name: value for name, value in given.items() if name in Execution.model_fields}
    try:
        execution = Execution(**about_execution)
    except ValidationError as failure:
        raise InputError(sentence(failure)) from failure
    return {name: value for name, value in given.items() if name not in about_execution}, execution


def from_namespace(namespace: Mapping[str, Any]) -> tuple[RunParams, Execution]:
    """Validates the settings that stand as plain variables in a notebook's first cells.

    Every variable there that has the name of a setting, or holds a number, a text, a truth value, a list
    or None, counts as a setting, so that a misspelt one that papermill injected is found, and one of a
    wrong type. Names with a leading underscore, and IPython's `In` and `Out`, are the notebook's own.

    Raises:
        InputError: see `run_params`.
    """
    literal = (int, float, str, bool, list, tuple, type(None))
    known = RunParams.model_fields.keys() | Execution.model_fields.keys()
    settings = split_settings(
        {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_") and name not in ("In", "Out")
            if name in known or isinstance(value, literal)
        }
    )
    warn_if_slow(*settings)
    return settings


def warn_if_slow(params: RunParams, execution: Execution) -> None:
    """Says so, to whoever waits for the run, if the processor has no instructions for its precision."""
    if lacks_instructions(params.precision, execution.device):
        print(
            f"precision {params.precision!r} is slow here: {processor()} has no instructions for it; "
            "fp32 takes less than a tenth of the time",
            file=sys.stderr,
        )


def from_texts(texts: Sequence[str]) -> dict[str, Any]:
    """Reads settings of the form NAME=VALUE, whose values are YAML.

    Raises:
        InputError: one is not of that form.
    """
    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"-p {text!r} is not of the form NAME=VALUE")
        try:
            values[name] = parse_yaml(value)
        except InputError as error:
            raise InputError(f"-p {text!r} has a value that is not YAML: {error}") from error
    return values


def to_texts(values: Mapping[str, Any]) -> list[str]:
    """Settings in the form NAME=VALUE, as `from_texts` reads them; what JSON lacks, a date, is text."""
    return [f"{name}={json.dumps(value, default=str)}" for name, value in values.items()]


def telling(params: RunParams) -> dict[str, Any]:
    """The few settings that a run can be had from: `run_params(**telling(params)) == params`."""
    given: dict[str, Any] = {"dataset": params.dataset, "levels": params.levels}
    names = sorted(RunParams.model_fields, key="trace".__eq__)  # a trace has a level for each client
    for name in names:
        value = getattr(params, name)
        # These follow from the schedule and from the trace.
        follows = (name, value) in (("protocol", "custom"), ("assignment", "trace"))
        if value != getattr(run_params(**given), name) and not follows:
            given[name] = list(value) if isinstance(value, tuple) else value
    if params.protocol != run_params(**given).protocol:  # a schedule like the paper's, but called custom
        given["protocol"] = params.protocol
    return given


def command(params: RunParams) -> str:
    """The shell command that does a run through papermill."""
    texts = (
        f"{name}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for name, value in telling(params).items()
    )
    return f'make run P="{" ".join(f"-p {text}" for text in texts)}"'


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads names and values, such as the parameters of a run or a study, from a YAML file.

    Raises:
        InputError: the file cannot be read, or is no mapping of names to values.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"file {path} cannot be read: {error.strerror}") from error
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"file {path} is not YAML: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"file {path} must hold lines of the form 'name: value'")
    return values
