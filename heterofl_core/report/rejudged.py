"""What runs have shown that were executed once more and judged in another way. Nothing here needs torch."""

import math

import pandas as pd

from heterofl_core.params import RunParams
from heterofl_core.records import Record, all_records, confusions_path, ensembles_path
from heterofl_core.report.evidence import MARKS, state
from heterofl_core.report.paper import paper_value
from heterofl_core.report.titles import title_of

COMMON = ("nobody", "one client", "two", "three or more")  # hold two labels both


def confused_pairs() -> pd.DataFrame:
    """For runs whose confusions were counted (`confusions.py`): of the images of a label, the share that is
    taken for a certain other one, in percent, by how many clients hold both labels.

    Returns:
        A row for each run, with its final Global accuracy, the column `pairs of nobody` (of labels that no
        client holds together), and one for each of `COMMON`, the mean over such pairs.
    """
    rows = []
    for record in all_records():
        if (path := confusions_path(record["run_id"])).exists():
            pairs = pd.read_csv(path)
            of_label = pairs.groupby("label")["images"].transform("sum")
            others = pairs.assign(share=100 * pairs["images"] / of_label).query("label != taken_for")
            common = others["clients"].clip(upper=len(COMMON) - 1)
            shares = others.groupby(common)["share"].mean()
            rows.append(
                {
                    "run": marked_title(record),
                    "Global": record["metrics"]["final_global_accuracy"],
                    "pairs of nobody": int((others["clients"] == 0).sum() // 2),
                    **{title: shares.get(number, math.nan) for number, title in enumerate(COMMON)},
                }
            )
    return pd.DataFrame(rows)


def ensembles() -> pd.DataFrame:
    """Global accuracy of clients that have models of their own, in percent, as it was printed and in each of
    some ways (`ensembles.py`): a row for each run of which the ways were compared.
    """
    rows = []
    for record in all_records():
        if (path := ensembles_path(record["run_id"])).exists():
            params = RunParams.model_validate(record["params"])
            found = pd.read_csv(path).set_index("way")["accuracy"]
            printed = paper_value(params, "global_accuracy")
            printed = math.nan if printed is None else printed
            rows.append({"run": marked_title(record), "printed": printed, **found.to_dict()})
    return pd.DataFrame(rows)


def marked_title(record: Record) -> str:
    """A run's title, and a mark where other code than today's has made it."""
    return title_of(record["params"]) + MARKS[state(record)]
