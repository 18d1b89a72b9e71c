"""The server: reads the roster, waits for the clients, runs Algorithm 1, writes the global parameters."""

import json
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from heterofl_core.errors import InputError
from heterofl_core.federation import Federation, Weights
from heterofl_core.files import atomic
from heterofl_core.params import RunParams
from heterofl_flower.roster import Roster
from heterofl_flower.settings import deadline_of, params_for, result_of
from heterofl_flower.strategy import HeteroFL, as_record

POLL_SECONDS = 0.5
LINE = 500  # characters

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A whole run.

    Raises:
        InputError: the roster or a setting cannot be used, or no update was accepted in any round.
    """
    config = context.run_config
    roster = Roster.read(Path(str(config["roster"])))
    params = params_for(config, roster)
    deadline_seconds, result = deadline_of(config), result_of(config)  # before any training
    strategy = HeteroFL(Federation(params), roster, deadline_seconds, say)
    wait_for_clients(grid, roster, deadline_seconds)
    strategy.start(grid, as_record(strategy.weights), num_rounds=params.rounds, timeout=deadline_seconds)
    if not any(strategy.participants):  # nothing was learned: untrained parameters are no result
        raise InputError(
            "no client's update was accepted in any round; what the server says of each round tells why"
        )
    save_result(result, strategy.weights, params, strategy.participants)


def say(sentence: str) -> None:
    """Prints at once what happens, so that it stands in the log when it happens: in one line of limited
    length, since a client may have written part of it.
    """
    line = "".join(sign for sign in " ".join(sentence.split()) if sign.isprintable())
    print(f"server: {line[:LINE]}", flush=True)


def wait_for_clients(grid: Grid, roster: Roster, seconds: float) -> None:
    """Until all on the roster are connected; after so many seconds, the run begins without the others."""
    end = time.monotonic() + seconds
    while len(roster.recognise(grid.get_nodes())[0]) < len(roster.members) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def save_result(path: Path, weights: Weights, params: RunParams, participants: list[list[int]]) -> None:
    """Writes the global parameters, and in the file's header how they came about."""
    header = {"params": params.model_dump_json(), "participants": json.dumps(participants)}
    with atomic(path) as temporary:
        save_file(weights.shared, temporary, metadata=header)
    say(f"the global parameters are in {path.name}")
