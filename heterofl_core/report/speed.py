"""What the benchmark has measured (`make bench`), as tables for the book; nothing here needs torch.

outputs/bench/rounds.csv     the reference and our ways: training, evaluation and whole rounds
outputs/bench/ways.csv       other ways to execute the steps of small models
outputs/bench/roofline.csv   each step's floor on that machine
outputs/bench/vocabularies.csv   what a client of WikiText2 receives, with all words and with its own
outputs/bench/machine.json   the machine, versions and commit of each
"""

import functools
import json
from collections.abc import Callable
from typing import Any, ParamSpec

import pandas as pd
from pandas.io.formats.style import Styler

from heterofl_core.folders import PARAMS, bench_folder
from heterofl_core.provenance import code_hash
from heterofl_core.report.tables import printed
from heterofl_core.strict_yaml import parse_yaml

Arguments = ParamSpec("Arguments")

REFERENCE = "reference"
MISSING = pd.DataFrame({"missing": ["`make bench` has not measured this here"]})


def measured(name: str) -> pd.DataFrame:
    """A table of the benchmark.

    Raises:
        FileNotFoundError: it has not been measured.
    """
    return pd.read_csv(bench_folder() / f"{name}.csv")


def or_missing(table: Callable[Arguments, Styler]) -> Callable[Arguments, Styler]:
    """The same table, or one that says so if it has not been measured."""

    @functools.wraps(table)
    def shown(*arguments: Arguments.args, **named: Arguments.kwargs) -> Styler:
        try:
            return table(*arguments, **named)
        except FileNotFoundError:
            return printed(MISSING)

    return shown


@or_missing
def rounds(dataset: str) -> Styler:
    """Seconds of the reference and of our ways, and how many times as fast ours are, by mix and phase."""
    table = measured("rounds")
    table = table.query("dataset == @dataset")
    texts = table["seconds"].map("{:.3g} s".format)
    ours = table["execution"] != REFERENCE
    texts[ours] += table.loc[ours, "ratio"].map(" (×{:.1f})".format)
    wide = table.assign(text=texts).pivot_table("text", ["levels", "phase"], "execution", "first")
    order = table[["levels", "phase"]].drop_duplicates()
    wide = wide.loc[list(order.itertuples(index=False, name=None)), table["execution"].unique()]
    return printed(wide.reset_index().rename_axis(columns=None)).format(na_rep="–")


@or_missing
def targets() -> Styler:
    """The targets of `params/speed.yaml`, and the ratio that the fastest of our ways reached."""
    table = measured("rounds")
    rows = []
    for target in parse_yaml((PARAMS / "speed.yaml").read_text(encoding="utf-8")):
        case = table[(table["dataset"] == target["dataset"]) & (table["levels"] == target["levels"])]
        ours = case[case["execution"].str.endswith(target["precision"])]
        for phase in ("round", "training"):
            if phase in target:
                ratio = ours.loc[ours["phase"] == phase, "ratio"].max()  # NaN where it was not measured
                rows.append(
                    {
                        **{name: target[name] for name in ("dataset", "levels", "precision")},
                        "phase": phase,
                        "target": target[phase],
                        "measured": ratio,
                        "reached": "–" if pd.isna(ratio) else "yes" if ratio >= target[phase] else "no",
                    }
                )
    return printed(pd.DataFrame(rows)).format("×{:.2f}", subset=["target", "measured"], na_rep="–")


@or_missing
def vocabularies() -> Styler:
    """What a client of WikiText2 receives in a round, with all words and with its own."""
    return printed(measured("vocabularies")).format(precision=1)


@or_missing
def ways() -> Styler:
    """Milliseconds of one core for a step of one client, each way beside the others."""
    table = measured("ways")
    table["model"] = table["arch"] + ", level " + table["level"]
    wide = table.pivot_table("core_ms", "way", "model")
    wide = wide.loc[table["way"].unique(), table["model"].unique()]
    return printed(wide.reset_index().rename_axis(columns=None)).format(precision=2)


@or_missing
def roofline(execution: str) -> Styler:
    """What a step must do at least, its floor, and the share of it that was reached."""
    table = measured("roofline")
    table = table.query("execution == @execution")
    columns = {
        "arch": "model",
        "level": "level",
        "mflop": "MFLOP",
        "moved_mb": "MB moved",
        "home": "held in",
        "compute_ms": "arithmetic (ms)",
        "memory_ms": "bandwidth (ms)",
        "measured_ms": "measured (ms)",
    }
    shown = table[list(columns)].rename(columns=columns)
    shown["of the floor (%)"] = 100 * table["fraction"]
    return printed(shown).format("{:.3g}".format, subset=list(shown.select_dtypes("number")))


@or_missing
def peaks() -> Styler:
    """The peaks of the machine, of one process and of as many as it has cores."""
    columns: dict[str, Any] = {}
    for one in where_and_when("roofline")["peaks"]:
        unit = {f"{name} (GFLOP/s)": value for name, value in one["gflops"].items()}
        unit |= {f"copies in {name} (GB/s)": value for name, value in one["gbytes"].items()}
        columns[f"{one['processes']} process{'es' if one['processes'] > 1 else ''}"] = unit
    return printed(pd.DataFrame(columns).reset_index(names="peak of")).format(precision=0)


def where_and_when(part: str) -> dict[str, Any]:
    """Where and when a part of the benchmark was measured.

    Raises:
        FileNotFoundError: it was not.
    """
    known: dict[str, dict[str, Any]] = json.loads(
        (bench_folder() / "machine.json").read_text(encoding="utf-8")
    )
    if part not in known:
        raise FileNotFoundError(f"machine.json says nothing of {part}")
    return known[part]


def measured_on(part: str) -> str:
    """The same as a sentence."""
    try:
        found = where_and_when(part)
    except FileNotFoundError:
        return "Not measured here yet."
    stale = "" if found["code_hash"] == code_hash() else "; the code has changed since"
    return (
        f"Measured on {found['device']} with torch {found['versions']['torch']}, "
        f"{found['date'][:10]}, commit {str(found['git_commit'])[:12]}"
        f"{' with uncommitted changes' if found['git_dirty'] else ''}{stale}."
    )
