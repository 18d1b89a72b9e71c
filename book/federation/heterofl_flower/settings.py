"""The parameters of a run: from Flower's run configuration, the levels from the roster."""

from collections.abc import Mapping
from typing import Any

from heterofl_core.classification import Classification
from heterofl_core.errors import InputError
from heterofl_core.levels import LEVELS
from heterofl_core.params import RunParams, run_params
from heterofl_core.tasks import ClientShare
from heterofl_flower.roster import Roster

OF_THE_FEDERATION = ("roster", "result", "deadline_seconds")
"""The settings of `[tool.flwr.app.config]` that are not parameters of a run."""


def params_for(config: Mapping[str, Any], roster: Roster) -> RunParams:
    """The parameters of a run in which everybody on the roster takes part in each round.

    Raises:
        InputError: a parameter is not allowed, or the data set is not one of images.
    """
    settings = {name: value for name, value in config.items() if name not in OF_THE_FEDERATION}
    params = run_params(
        **settings,
        levels=roster.levels,
        num_clients=len(roster.members),
        participation=1.0,
        **({"trace": roster.trace} if len(roster.levels) > 1 else {}),
    )
    if params.dataset == "wikitext2":
        raise InputError("dataset 'wikitext2' is not for this federation, which learns from images")
    return params


def own_share(config: Mapping[str, Any], client: int, num_clients: int) -> ClientShare:
    """What a client has of the data.

    In this demonstration, every machine has the same data set, and a client takes its part of it, so that a
    simulation can have the same. A real client would read its own files here.
    """
    settings = {name: value for name, value in config.items() if name not in OF_THE_FEDERATION}
    params = run_params(
        **settings, levels=LEVELS[-1], num_clients=num_clients
    )  # shares do not depend on levels
    return Classification(params).share(client)
