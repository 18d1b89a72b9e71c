"""Studies: YAML files in `params/studies/` that stand for the runs of one table or figure.

A study has a `title`, the `exhibits` of the paper that its runs fill, and `runs`: a list of grids. A grid
gives each parameter one value or a list of them, and stands for every combination. Two words stand for a list
of levels: `all mixes` (the 31 of Tables 5 to 7), `all interpolations` (each pair of levels at 10 to 90 %).
The file of a `trace` is looked for beside the study's.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.folders import PARAMS
from heterofl_core.levels import LEVELS, all_mixes
from heterofl_core.params import RunParams, run_params
from heterofl_core.settings import read_yaml

STUDIES = PARAMS / "studies"


@dataclass(frozen=True)
class Study:
    """The runs of one table or figure.

    Attributes:
        title: for people.
        exhibits: the tables and figures of the paper that the runs fill.
        runs: in the order of the file, each once.
    """

    title: str
    exhibits: tuple[str, ...]
    runs: tuple[RunParams, ...]


def interpolations() -> list[str]:
    """Each of the ten pairs of levels, the larger one at 10 to 90 % of the clients: 90 mixes."""
    return [
        f"{large}{tenths}-{small}{10 - tenths}"
        for large, small in itertools.combinations(LEVELS, 2)
        for tenths in range(1, 10)
    ]


def study_names() -> list[str]:
    """All studies, by name."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_study(name: str, /, **changes: Any) -> Study:
    """Reads a study and expands it to its runs.

    Args:
        name: of a file in `params/studies/`, or the path of a YAML file.
        changes: parameters that win over the study's in every run, such as `protocol="smoke"`.

    Raises:
        InputError: there is no such study, it is not of the form above, or one of its runs is not valid.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.exists():
        raise InputError(f"study {name!r} is unknown; allowed are {', '.join(study_names())}, or a YAML file")
    content = read_yaml(path)
    check(path, content)
    runs = {
        params.run_id: params
        for grid in content["runs"]
        for values in combinations(grid)
        for params in [run_params(**trace_beside(path, values) | changes)]
    }
    return Study(content["title"], tuple(content["exhibits"]), tuple(runs.values()))


def check(path: Path, content: Mapping[str, Any]) -> None:
    """Raises an `InputError` unless a study's file has the form that this module describes."""
    if content.keys() != {"title", "exhibits", "runs"}:
        raise InputError(f"study {path} must have title, exhibits and runs, and nothing else")
    title, exhibits, runs = content["title"], content["exhibits"], content["runs"]
    if not isinstance(title, str):
        raise InputError(f"study {path} has the title {title!r}; it must be a text")
    if not isinstance(exhibits, list) or not all(isinstance(name, str) for name in exhibits):
        raise InputError(f"study {path} has the exhibits {exhibits!r}; give a list such as [Table 5]")
    wrong = [grid for grid in runs if not is_grid(grid)] if runs and isinstance(runs, list) else [runs]
    if wrong:
        raise InputError(
            f"study {path} has the runs {wrong[0]!r}; give a list such as [{{dataset: mnist, levels: e}}]"
        )


def is_grid(grid: object) -> bool:
    """Whether it has values by the names of parameters."""
    return isinstance(grid, dict) and all(isinstance(name, str) for name in grid)


def trace_beside(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values, with a trace's file looked for beside the study's: processes may stand in any folder."""
    trace = str(values.get("trace"))
    return values | {"trace": str(path.parent / trace)} if trace.endswith(".csv") else values


def combinations(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values; a list of numbers for `milestones` or `blocks` is one value."""
    choices = [values_of(name, value) for name, value in grid.items()]
    for combination in itertools.product(*choices):
        yield dict(zip(grid, combination, strict=True))


def values_of(name: str, value: Any) -> list[Any]:
    """The values that a grid gives one parameter.

    Raises:
        InputError: it gives none.
    """
    if name == "levels" and value == "all mixes":
        return [str(mix) for mix in all_mixes()]
    if name == "levels" and value == "all interpolations":
        return interpolations()
    if not isinstance(value, list) or is_one_value(name, value):
        return [value]
    if not value:
        raise InputError(f"{name} has no value in a study; give one at least, or leave it out")
    return value


def is_one_value(name: str, value: list[Any]) -> bool:
    """Whether a list is one value of a parameter: without a number, milestones are none."""
    return name in ("milestones", "blocks") and all(isinstance(part, int) for part in value)


def all_runs(**changes: Any) -> dict[str, RunParams]:
    """Every run of every study, each once, by its id; for `changes` see `read_study`."""
    return {params.run_id: params for name in study_names() for params in read_study(name, **changes).runs}
