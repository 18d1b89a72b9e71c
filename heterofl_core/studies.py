"""Studies: YAML files in `params/studies/` that stand for the runs of one table or figure.

A study has a `title`, the `exhibits` of the paper that its runs fill, and `runs`: a list of grids. A grid
gives each parameter one value or a list of them, and stands for every combination. Two words stand for a list
of levels: `all mixes` (the 31 of Tables 5 to 7), `all interpolations` (each pair of levels at 10 to 90 %).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.folders import PARAMS
from heterofl_core.levels import LEVELS, all_mixes
from heterofl_core.params import RunParams, run_params
from heterofl_core.settings import read_yaml

STUDIES = PARAMS / "studies"
TABLES = ("table5", "table6", "table7")
"""The studies of the paper's result tables: 155 runs."""
INTERPOLATIONS = ("figure2", "figure3", "figure4", "figures5and7", "figures6and8")
"""The studies of the paper's interpolation figures: 450 runs."""


@dataclass(frozen=True)
class Study:
    """The runs of one table or figure.

    Attributes:
        name: of the file.
        title: for people.
        exhibits: the tables and figures of the paper that the runs fill.
        runs: in the order of the file, each once.
    """

    name: str
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


def read_study(name: str, **changes: Any) -> Study:
    """Reads a study and expands it to its runs.

    Args:
        name: of a file in `params/studies/`, or the path of a YAML file.
        changes: parameters that win over the study's in every run, such as `protocol="smoke"`.

    Raises:
        InputError: there is no such study, or one of its runs is not valid.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.exists():
        raise InputError(f"study {name!r} is unknown; allowed are {', '.join(study_names())}, or a YAML file")
    content = read_yaml(path)
    missing = {"title", "exhibits", "runs"} - content.keys()
    if missing or content.keys() - {"title", "exhibits", "runs"}:
        raise InputError(f"study {path} must have title, exhibits and runs, and nothing else")
    runs = {
        params.run_id: params
        for grid in content["runs"]
        for params in (run_params(**values | changes) for values in combinations(grid))
    }
    return Study(path.stem, content["title"], tuple(content["exhibits"]), tuple(runs.values()))


def combinations(grid: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values; a list of numbers for `milestones` or `blocks` is one value."""
    choices = [values_of(name, value) for name, value in grid.items()]
    for combination in itertools.product(*choices):
        yield dict(zip(grid, combination, strict=True))


def values_of(name: str, value: Any) -> list[Any]:
    """The values that a grid gives one parameter."""
    if name == "levels" and value == "all mixes":
        return [str(mix) for mix in all_mixes()]
    if name == "levels" and value == "all interpolations":
        return interpolations()
    if isinstance(value, list) and not (name in ("milestones", "blocks") and isinstance(value[0], int)):
        return value
    return [value]


def all_runs() -> dict[str, RunParams]:
    """Every run of every study, each once, by its id."""
    return {params.run_id: params for name in study_names() for params in read_study(name).runs}
