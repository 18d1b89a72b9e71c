"""What the pages of "Reading the paper closely" compare and draw; nothing here needs torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.params import RunParams, run_params
from heterofl_core.partition import Partition, make_partition
from heterofl_core.randomness import generator
from heterofl_core.records import all_records, confusions_path, ensembles_path, read_rounds
from heterofl_core.report.evidence import Answer
from heterofl_core.report.exhibits import all_evidence, not_run
from heterofl_core.report.paper import paper_value
from heterofl_core.report.run_tables import each_run
from heterofl_core.report.tables import aligned
from heterofl_core.report.titles import title_of
from heterofl_core.selection import Axis, static_index
from heterofl_core.studies import combinations, values_of

EPSILON = 1e-5  # of a norm, as in PyTorch
NOTHING = dict.fromkeys(("Rounds", "Seeds", "Best", "Final"), "–")
MASKS = ("none", "detach", "zero", "neg_inf")
COMMON = ("nobody", "one client", "two", "three or more")  # hold two labels both
SPACINGS = (1, 5, 10, 50)  # rounds from one evaluation to the next
WORD_FREQUENCIES = 911.7
"""The perplexity of WikiText2's test text for who knows each word's share of the training text; counted by a
test.
"""
HOLDERS_FREQUENCIES = 2867.6
"""The same for who knows each word's share of its holders' texts only: the logarithms' mean over the clients
that hold the word, as rows of the output layer are averaged. Counted for the paper's partition with seed 0.
"""
LONG = 100  # rounds of a run whose curve tells what looking more often brings


def by_level(columns: Mapping[str, "Callable[[float], float] | pd.Series[Any]"], decimals: int = 2) -> Styler:
    """A row for each of the levels a to e.

    Args:
        columns: by title, a function of the width rate, or values by level, such as a paper's column.
        decimals: of numbers that are not counts.
    """
    values = {
        title: list(column[list(LEVELS)]) if isinstance(column, pd.Series) else of_levels(column)
        for title, column in columns.items()
    }
    return shown(pd.DataFrame({"level": list(LEVELS), **values}), decimals=decimals)


def of_levels(count: Callable[[float], float]) -> list[float]:
    """A function of the width rate at the levels a to e."""
    return [count(width_rate(level)) for level in LEVELS]


def shown(values: pd.DataFrame | Sequence[Sequence[Any]], *titles: str, decimals: int = 2) -> Styler:
    """A table of these pages: counts with commas, other numbers with so many decimals, words at the left.

    Args:
        values: a table, or its rows.
        titles: of the columns, if these are rows.
    """
    found = values if isinstance(values, pd.DataFrame) else pd.DataFrame(values, columns=list(titles))
    if found.empty:
        return aligned(pd.DataFrame({"missing": ["no such run yet"]}), text=["missing"])

    def text(value: Any) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else f"{value:,.{decimals}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    words = [str(name) for name in found if not pd.api.types.is_numeric_dtype(found[name])]
    return aligned(found.astype(object).map(text).rename(columns=str), text=words)


def heads(level: str = "c") -> Figure:
    """Which of the 256 features of queries, keys and values a level holds, and what a prefix would be."""
    rows = {"a prefix": Axis("width", 256), "each head": Axis("width", 256, groups=8)}
    held = np.zeros((len(rows), 256))
    for row, axis in zip(held, rows.values(), strict=True):
        row[static_index({"weight": (axis,)}, width_rate(level))["width"]] = 1
    figure = Figure(figsize=(7.6, 1.5))
    plot = figure.subplots()
    plot.imshow(held, aspect="auto", cmap=ListedColormap(["#eeeeee", LEVEL_COLOURS[level]]))
    plot.vlines(np.arange(32, 256, 32) - 0.5, -0.5, 1.5, color="black", linewidth=0.8)
    plot.set(xlabel="feature of the queries (black: between heads)", yticks=[0, 1], yticklabels=list(rows))
    return figure


def dealt(kind: str) -> Partition:
    """Images of ten labels, as many as MNIST has, dealt to 100 clients by seed 0.

    Args:
        kind: see `make_partition`.
    """
    train, test = (np.repeat(range(10), images) for images in (6000, 1000))  # of each label
    return make_partition(kind, train, test, 100, generator(0, "partition"))


def masked_softmax(logits: np.ndarray, held: np.ndarray, masked_loss: str) -> np.ndarray:
    """The probabilities from which a client's loss is taken.

    Args:
        logits: shape (labels,).
        held: shape (labels,), true for labels in the client's data.
        masked_loss: see `RunParams`.
    """
    absent = {"zero": 0.0, "neg_inf": -np.inf}
    masked = np.where(held, logits, absent.get(masked_loss, logits))
    weights = np.exp(masked)
    return weights / weights.sum()


def masks(logits: np.ndarray, held: np.ndarray, label: int) -> pd.DataFrame:
    """One example's loss in nats, and the gradient of each logit, for each kind of mask.

    Args:
        logits, held: see `masked_softmax`.
        label: of the example.
    """
    rows = []
    for name in MASKS:
        probabilities = masked_softmax(logits, held, name)
        gradient = probabilities - (np.arange(len(logits)) == label)
        gradient = gradient if name == "none" else np.where(held, gradient, 0)
        by_logit = {f"gradient {number}": value for number, value in enumerate(gradient)}
        rows.append({"masked_loss": name, "loss": np.log(1 / probabilities[label]), **by_logit})
    return pd.DataFrame(rows)


def batch_norm(x: np.ndarray) -> np.ndarray:
    """What sBN does in training, before its weight and bias; `x` of shape (batch, channels)."""
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + EPSILON)


def recorded(metric: str, **settings: Any) -> Styler:
    """What this study's records say of some settings, a row for each schedule that was run.

    Args:
        metric: in the names of `records.METRICS`.
        settings: in the names of `RunParams`; a list stands for each of its values, as in a study.
    """
    evidence = all_evidence()
    varied = [name for name, value in settings.items() if len(values_of(name, value)) > 1]
    rows = []
    for setting in combinations(settings):
        described = {"Setting": ", ".join(f"{name} {setting[name]}" for name in varied)} if varied else {}
        asked = run_params(**setting)
        answers = evidence.answers_to(asked)
        found = [summary(answer, metric) for answer in sorted(answers, key=lambda answer: answer.rounds)]
        rows += [described | one for one in found or [NOTHING | {"Code": not_run(asked)}]]
    return aligned(pd.DataFrame(rows), text=["Setting", "Code"])


def summary(answer: Answer, metric: str) -> dict[str, str]:
    """The mean over the seeds of one schedule: of the best evaluated round, and of the last one."""
    return {
        "Rounds": f"{answer.rounds}",
        "Seeds": f"{len(answer.records)}",
        "Best": f"{np.mean(answer.values(metric)):.2f}",
        "Final": f"{np.mean(answer.values(metric, 'final')):.2f}",
        "Code": answer.state,
    }


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
                    "run": title_of(record["params"]),
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
            rows.append({"run": title_of(record["params"]), "printed": printed, **found.to_dict()})
    return pd.DataFrame(rows)


def looks(runs: pd.DataFrame) -> pd.DataFrame:
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
