"""The parameters of a run: from Flower's run configuration, the levels from the roster."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heterofl_core.classification import Classification
from heterofl_core.errors import InputError
from heterofl_core.files import temporary_beside
from heterofl_core.levels import LEVELS
from heterofl_core.params import RunParams, run_params
from heterofl_core.tasks import ClientShare
from heterofl_flower.roster import Roster

OF_THE_FEDERATION = ("roster", "result", "deadline_seconds")
"""The settings of `[tool.flwr.app.config]` that are not parameters of a run."""


def of_a_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are parameters of a run."""
    return {name: value for name, value in config.items() if name not in OF_THE_FEDERATION}


def params_for(config: Mapping[str, Any], roster: Roster) -> RunParams:
    """The parameters of a run in which everybody on the roster takes part in each round.

    Raises:
        InputError: a parameter is not allowed, or the data set is not one of images.
    """
    params = run_params(
        **of_a_run(config),
        levels=roster.levels,
        num_clients=len(roster.members),
        participation=1.0,
        **({"trace": roster.trace} if len(roster.levels) > 1 else {}),
    )
    if params.dataset == "wikitext2":
        raise InputError("dataset 'wikitext2' is not for this federation, which learns from images")
    return params


def deadline_of(config: Mapping[str, Any]) -> float:
    """The seconds after which a round does without the clients that have not answered.

    Raises:
        InputError: they are no positive number.
    """
    given = config["deadline_seconds"]
    try:
        seconds = float(str(given))
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"deadline_seconds {given!r} is not allowed; it must be a number above 0")
    return seconds


def result_of(config: Mapping[str, Any]) -> Path:
    """The file for the global parameters, in a folder that is made if there is none.

    Raises:
        InputError: no file is named, or there cannot be one.
    """
    given = str(config["result"])
    path = Path(given)
    if not given or path.is_dir():
        raise InputError(
            f"result {given!r} is not allowed; give the name of a file for the global parameters"
        )
    try:
        temporary_beside(path).unlink()
    except InputError as error:
        raise InputError(f"result {given!r} is not allowed; {error}") from error
    return path


def own_share(config: Mapping[str, Any], client: int, num_clients: int) -> ClientShare:
    """What a client has of the data.

    In this demonstration, every machine has the same data set, and a client takes its part of it, so that a
    simulation can have the same. A real client would read its own files here.
    """
    any_level = LEVELS[-1]  # shares do not depend on levels
    params = run_params(**of_a_run(config), levels=any_level, num_clients=num_clients)
    return Classification(params).share(client)
