"""What choosing a round by its result adds to the result. Nothing here needs torch."""

import pandas as pd

from heterofl_core.records import read_rounds
from heterofl_core.report.run_tables import each_run
from heterofl_core.report.titles import title_of

SPACINGS = (1, 5, 10, 50)  # rounds from one evaluation to the next
LONG = 100  # rounds of a run whose curve tells what looking more often brings


def two_bests(runs: pd.DataFrame) -> pd.DataFrame:
    """For each run on label-skewed data: its best Local accuracy, and Local accuracy where Global was best.

    Args:
        runs: rows of `run_tables.results`.

    Returns:
        Columns `run`, `best Local`, `Local where Global is best`, in percent.
    """
    columns = ["run", "best Local", "Local where Global is best"]
    rows = []
    for run in each_run(runs):
        if run["partition"] != "iid":
            curve = read_rounds(run["run_id"])
            local, chosen = curve["local_accuracy"], int(curve["global_accuracy"].to_numpy().argmax())
            rows.append((title_of(run), local.max(), local[chosen]))
    return pd.DataFrame(rows, columns=columns)


def fewer_looks(runs: pd.DataFrame) -> pd.DataFrame:
    """What the best Global accuracy of a run would be, had one looked more rarely; in percent.

    Args:
        runs: rows of `run_tables.results`; those count that were evaluated after each of `LONG` or
            more rounds.

    Returns:
        Columns `run`, one for each of `SPACINGS`, and `last`. Looking each kth round, one sees k, 2k, ...
    """
    titles = ["each round", *(f"each {spacing}th" for spacing in SPACINGS[1:])]
    rows = []
    for run in each_run(runs):
        curve = read_rounds(run["run_id"])
        if "global_accuracy" in curve and len(curve) == run["rounds"] >= LONG:
            found = curve["global_accuracy"].to_numpy()
            seen = [found[spacing - 1 :: spacing].max() for spacing in SPACINGS]
            rows.append((title_of(run), *seen, found[-1]))
    return pd.DataFrame(rows, columns=["run", *titles, "last"])
