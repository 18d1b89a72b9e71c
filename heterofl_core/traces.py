"""A trace: a table that gives each client its level, such as capabilities that were measured."""

import pandas as pd

from heterofl_core.errors import InputError
from heterofl_core.levels import LEVELS


def read_trace(path: str) -> str:
    """The levels of a trace as one text with a letter for each client.

    Args:
        path: of a CSV file with the columns client and level.

    Raises:
        InputError: the file cannot be read, or does not give each client from 0 on exactly one level.
    """
    try:
        table = pd.read_csv(path, dtype=str)
        levels = dict(zip(table["client"], table["level"], strict=True))
    except OSError as error:
        raise InputError(f"trace {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError) as error:
        raise InputError(
            f"trace {path} is not a table with the columns client and level ({error})"
        ) from error
    clients = [str(client) for client in range(len(table))]
    unknown = [client for client in table["client"] if client not in clients]
    if unknown:
        raise InputError(
            f"trace {path} names the unknown client {unknown[0]!r}; its {len(table)} lines must be about the "
            f"clients 0 to {len(table) - 1}"
        )
    twice = table["client"][table["client"].duplicated()].tolist()
    if twice:
        raise InputError(f"trace {path} names client {twice[0]} twice; each needs one line")
    wrong = [level for level in levels.values() if level not in list(LEVELS)]
    if wrong:
        raise InputError(f"trace {path} has the level {wrong[0]!r}, which is none of a to e")
    return "".join(levels[client] for client in clients)
