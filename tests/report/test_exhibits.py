"""Tables of the book: the paper's cells beside ours, and what was not run."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.display import HTML
from pandas.io.formats.style import Styler
from scipy.stats import ttest_rel
from test_evidence import a_record

from heterofl_core.params import run_params
from heterofl_core.records import record_path, write_run
from heterofl_core.report import exhibits, series
from heterofl_core.report.evidence import Evidence
from heterofl_core.report.noise import PairNoise

Write = Callable[[dict[str, Any]], None]


@pytest.fixture
def recorded(outputs: Path) -> Iterator[Write]:
    """Writes records to an outputs folder of the test's own."""

    def write(record: dict[str, Any]) -> None:
        columns = {
            "round": [1, 2],
            "lr": [0.1, 0.1],
            "train_loss": [2.0, 1.0],
            "global_accuracy": [50.0, 99.0],
        }
        write_run(record, pd.DataFrame(columns))
        exhibits.all_evidence.cache_clear()

    exhibits.all_evidence.cache_clear()
    yield write
    exhibits.all_evidence.cache_clear()


def data(styler: Styler | HTML) -> pd.DataFrame:
    """The texts of a table."""
    table: pd.DataFrame = vars(styler)["data"]
    return table


def row(styler: Styler, model: str) -> dict[str, str]:
    table = data(styler)
    return {str(name): text for name, text in table[table["Model"] == model].iloc[0].items()}


def test_a_cell_that_was_not_run_says_so_and_how_to_run_it(recorded: Write) -> None:
    cell = row(exhibits.results("mnist", "non-iid-2", "local_accuracy"), "a-e")
    assert cell["Paper"] == "99.89"
    command = "make run P=&quot;-p dataset=mnist -p levels=a-e -p partition=non-iid-2&quot;"
    assert cell["Ours"] == f"<details><summary>not run</summary><code>{command}</code></details>"
    assert [cell[name] for name in ("±", "Seeds", "Difference", "Schedule")] == ["", "", "", ""]


def test_what_is_defined_otherwise_has_no_difference(recorded: Write) -> None:
    """Standalone's Global accuracy; its Local one is the same."""
    settings: dict[str, Any] = {
        "levels": "a",
        "method": "standalone",
        "arch": "mlp",
        "partition": "non-iid-2",
    }
    record = a_record(30.0, **settings)
    record["metrics"] |= {"best_local_accuracy": 98.0, "final_local_accuracy": 98.0}
    recorded(record)
    shown = {
        metric: data(exhibits.results("mnist", "non-iid-2", metric)).set_index("Model").loc["Standalone"]
        for metric in ("global_accuracy", "local_accuracy")
    }
    assert {metric: row["Difference"] for metric, row in shown.items()} == {
        "global_accuracy": "",
        "local_accuracy": "−0.72",
    }


def test_a_cell_has_mean_interval_seeds_difference_and_schedule_and_leads_to_its_run(recorded: Write) -> None:
    records = [a_record(best, seed=seed) for seed, best in enumerate((99.0, 99.2, 99.4))]
    for record in records:
        recorded(record)
    cell = row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")
    assert cell == {
        "Model": "a-e",
        "Ratio": "0.50",
        "Parameters": "781.7 K",
        "FLOPs": "40.5 M",
        "Space (MB)": "2.98",
        "Paper": "99.46",
        "Ours": f'<a href="../runs/{records[0]["run_id"]}.html">99.20</a>',
        "±": "0.50",  # 4.303 · 0.2 / √3
        "Seeds": "3",
        "Difference": "−0.26",
        "Final": "98.20",
        "Schedule": "paper",
    }


def test_what_is_compared_has_the_length_that_most_were_run_for(recorded: Write) -> None:
    """The ablation's e with sBN was run for longer, too; its Table 5 shows that, and no row is lost."""
    skewed: dict[str, Any] = {"partition": "non-iid-2", "levels": "e"}
    ran: list[tuple[float, dict[str, Any]]] = [
        (92.0, {}),
        (79.0, {"protocol": "short"}),
        (78.0, {"protocol": "short", "norm": "gn"}),
        (77.0, {"protocol": "short", "norm": "ln"}),
        (75.0, {"norm": "none"}),
    ]
    for best, settings in ran:
        recorded(a_record(best, **skewed, **settings))
    table = data(exhibits.ablations("mnist", "global_accuracy"))
    ours = table[table["Ours"].str.contains("href") & (table["Masked loss"] == "on")].set_index("Norm")
    values = ours["Ours"].str.replace("<.*?>", "", regex=True).to_dict()
    assert values == {"none": "75.00", "gn": "78.00", "ln": "77.00", "sbn": "79.00"}
    assert ours.index[ours["Schedule"] == "paper"].tolist() == ["none"]
    assert ">92.00<" in row(exhibits.results("mnist", "non-iid-2", "global_accuracy"), "e")["Ours"]


def test_the_three_ways_to_draw_sub_models_have_equally_many_rounds(recorded: Write) -> None:
    ran: list[tuple[float, dict[str, Any]]] = [
        (99.0, {}),
        (98.0, {"protocol": "short"}),
        (97.0, {"protocol": "short", "selection": "random"}),
    ]
    for best, settings in ran:
        recorded(a_record(best, levels="d-e", **settings))
    table = data(exhibits.selections("mnist", "iid", "global_accuracy"))
    ours = table[table["Ours"].str.contains("href")]
    assert ours["Sub-models"].tolist() == ["static", "random"]
    assert set(ours["Schedule"]) == {"short, 20 rounds"}


def test_baselines_stand_beside_heterofl_with_one_network_and_with_theirs(recorded: Write) -> None:
    recorded(a_record(99.0, levels="a", protocol="short"))
    recorded(a_record(97.0, levels="a", protocol="short", method="fedavg", arch="cnn"))
    recorded(a_record(95.0, levels="a", protocol="short", method="fedavg", arch="mlp"))
    recorded(a_record(98.0, levels="a", method="fedavg", arch="mlp"))  # longer than the others
    table = data(exhibits.networks("mnist", "iid", "global_accuracy"))
    rows = table[["Method", "Network", "Levels"]].agg(" ".join, axis=1).tolist()
    assert rows[:4] == ["HeteroFL CNN a", "HeteroFL CNN a-e", "HeteroFL CNN e", "Standalone CNN a"]
    assert rows[6:] == ["Standalone perceptron a", "FedAvg perceptron a", "LG-FedAvg perceptron a"]
    ours = table[table["Ours"].str.contains("href")]["Ours"].str.replace("<.*?>", "", regex=True)
    assert ours.to_dict() == {0: "99.00", 4: "97.00", 7: "95.00"}
    assert table.loc[[4, 7], "Paper"].tolist() == ["–", "97.93"]  # the paper's FedAvg is a perceptron


def test_the_schedule_stands_behind_ours_where_a_narrow_window_shows_it(recorded: Write) -> None:
    columns = list(data(exhibits.results("mnist", "iid", "global_accuracy")))
    assert columns[:5] == ["Model", "Ratio", "Parameters", "FLOPs", "Space (MB)"]
    assert columns[5:] == list(exhibits.COLUMNS)
    assert columns.index("Schedule") == columns.index("Ours") + 1


def test_one_seed_has_no_interval_and_a_shorter_schedule_is_told(recorded: Write) -> None:
    recorded(a_record(98.0, protocol="short"))
    cell = row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")
    assert (cell["±"], cell["Seeds"], cell["Schedule"]) == ("", "1", "short, 20 rounds")
    assert (cell["Paper"], cell["Difference"]) == ("99.46", "")


@pytest.mark.parametrize(("kind", "mark"), [("stale", "‡"), ("dirty", "†")])
def test_code_that_changed_or_was_not_committed_is_marked(recorded: Write, kind: str, mark: str) -> None:
    recorded(a_record(98.0, **{kind: True}))
    assert f"98.00{mark}</a>" in row(exhibits.results("mnist", "iid", "global_accuracy"), "a-e")["Ours"]


def test_with_a_record_removed_its_cell_alone_turns_to_not_run(recorded: Write) -> None:
    kept, gone = a_record(levels="e"), a_record()
    for record in (kept, gone):
        recorded(record)
    before = data(exhibits.results("mnist", "iid", "global_accuracy")).set_index("Model")["Ours"]
    record_path(gone["run_id"]).unlink()
    exhibits.all_evidence.cache_clear()
    after = data(exhibits.results("mnist", "iid", "global_accuracy")).set_index("Model")["Ours"]
    assert list(before.index[before != after]) == ["a-e"]
    assert "not run" in after["a-e"]


def test_the_excerpts_have_the_rows_of_tables_1_to_3(recorded: Write) -> None:
    mixes = ["a", "a-e", "a-b-c-d-e", "b", "b-e", "b-c-d-e", "c", "c-e", "c-d-e", "d", "d-e", "e"]
    baselines = ["Standalone", "FedAvg", "LG-FedAvg"]
    table = data(exhibits.results("cifar10", "iid", "global_accuracy", excerpt=True))
    assert sorted(table["Model"]) == sorted(mixes + baselines)
    table = data(exhibits.results("wikitext2", "iid", "perplexity", excerpt=True))
    assert sorted(table["Model"]) == sorted(mixes)


def test_the_ablation_has_its_25_rows_in_the_papers_order(recorded: Write) -> None:
    table = data(exhibits.ablations("cifar10", "local_accuracy"))
    assert len(table) == 25
    columns = ["Model", "Norm", "Scaler", "Masked loss", "Paper"]
    assert table[columns].iloc[0].tolist() == ["a", "none", "–", "off", "42.60"]
    assert table[columns].iloc[-1].tolist() == [
        "a-e",
        "sbn",
        "on",
        "on",
        "92.80",
    ]  # of the slides, not of Table 6


def test_numbers_stand_below_each_other_and_can_be_searched(recorded: Write) -> None:
    html = exhibits.results("mnist", "iid", "global_accuracy").to_html()
    assert 'class="dataframe searchable"' in html
    assert "text-align: right" in html


# What figures show


def test_an_interpolation_has_the_papers_ends_and_our_points_of_one_schedule() -> None:
    records = [
        a_record(90.0, levels="a3-e7", assignment="fix", protocol="short"),
        a_record(95.0, levels="a-e", assignment="fix", protocol="short"),
        a_record(97.0, levels="a", protocol="short"),
        a_record(99.0, levels="a"),
    ]
    points = series.interpolation(Evidence(records), "mnist", "iid", "global_accuracy")
    pair = points[(points["large"] == "a") & (points["small"] == "e")]
    ours, paper = (
        pair[pair["whose"] == whose].set_index("share")["value"].to_dict() for whose in ("ours", "paper")
    )
    assert ours == {30: 90.0, 50: 95.0, 100: 97.0}
    assert paper == {0: 98.66, 100: 99.53}


def test_a_point_of_three_seeds_has_students_interval() -> None:
    """Of 95, 96 and 97 the standard error is 1/√3; Student's factor is 4.303."""
    records = [a_record(95.0 + seed, levels="a-e", assignment="fix", seed=seed) for seed in range(3)]
    points = series.interpolation(Evidence(records), "mnist", "iid", "global_accuracy")
    (point,) = points[points["whose"] == "ours"].to_dict("records")
    assert (point["share"], point["value"]) == (50, 96.0)
    assert point["half_width"] == pytest.approx(4.303 / 3**0.5, abs=1e-3)


def test_where_no_mix_was_run_an_interpolation_has_the_ends_of_which_most_have_one_length() -> None:
    records = [
        a_record(99.0, levels="a"),
        a_record(95.0, levels="c", protocol="short"),
        a_record(94.0, levels="e", protocol="short"),
    ]
    points = series.interpolation(Evidence(records), "mnist", "iid", "global_accuracy")
    ours = points[points["whose"] == "ours"]
    assert set(zip(ours["large"], ours["small"], ours["share"], ours["value"], strict=True)) == {
        *((large, "e", 0, 94.0) for large in "abcd"),
        *((large, "c", 0, 95.0) for large in "ab"),
        *(("c", small, 100, 95.0) for small in "de"),
    }
    assert set(ours["schedule"]) == {"short, 20 rounds"}


def test_the_points_have_a_line_for_each_pair_and_a_column_for_each_share_that_was_run() -> None:
    records = [
        a_record(90.0, levels="a3-e7", assignment="fix"),
        a_record(95.0, levels="a-e", assignment="fix"),
        a_record(97.0, levels="b-e", assignment="fix"),
    ]
    points = series.interpolation(Evidence(records), "mnist", "iid", "global_accuracy")
    assert data(exhibits.points(points)).to_dict("records") == [
        {"Levels": "a–e", "30 %": "90.00", "50 %": "95.00"},
        {"Levels": "b–e", "30 %": "–", "50 %": "97.00"},
    ]


def test_a_table_without_rows_is_replaced_by_words(recorded: Write) -> None:
    points = series.interpolation(Evidence([]), "mnist", "iid", "global_accuracy")
    for table in (exhibits.points(points), exhibits.sub_models("perplexity")):
        assert vars(table)["data"] == '<p class="plain">Not run.</p>'


def test_without_runs_an_interpolation_has_the_papers_ends_alone() -> None:
    points = series.interpolation(Evidence([]), "wikitext2", "iid", "perplexity")
    assert set(points["whose"]) == {"paper"}
    assert len(points) == 10 * 2


def test_half_and_half_are_ten_pairs_fixed_and_dynamic() -> None:
    assert len(series.PAIRS) == 10
    assert series.half_and_half("mnist", "iid", ("a", "e")) == {
        "fix": run_params(dataset="mnist", levels="a-e", assignment="fix"),
        "dynamic": run_params(dataset="mnist", levels="a-e", assignment="dynamic"),
    }


def test_the_curves_of_a_pair_have_equally_many_rounds(recorded: Write) -> None:
    """Dynamic was run as long as the paper, too."""
    short = [a_record(protocol="short", assignment=name) for name in ("fix", "dynamic")]
    records = [*short, a_record(), a_record(levels="b-e")]
    for one in records:
        recorded(one)
    found = series.pair_curves(Evidence(records), "mnist", "iid")
    drawn = found[["large", "assignment", "schedule"]].drop_duplicates().to_numpy().tolist()
    assert drawn == [
        ["a", "fix", "short, 20 rounds"],
        ["a", "dynamic", "short, 20 rounds"],
        ["b", "dynamic", "paper"],
    ]


def a_mix(accuracy: float, **settings: Any) -> dict[str, Any]:
    """The record of a mix whose slice of level e has this accuracy."""
    metrics = {"global_accuracy": accuracy, "local_accuracy": accuracy}
    return a_record(**{"levels": "d-e", **settings}) | {"sub_models": {"e": metrics}}


NOISE = PairNoise(0.1, 4)


def numbers(found: pd.DataFrame) -> list[dict[str, Any]]:
    """What `series.sub_models` says, without the runs."""
    rows = found.drop(columns=["answer", "level_alone"]).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def test_a_slice_stands_beside_its_level_alone_of_the_same_seeds() -> None:
    records = [
        *(a_mix(accuracy, seed=seed) for seed, accuracy in enumerate((97.0, 91.0, 10.0))),
        *(a_record(best, levels="e", seed=seed) for seed, best in ((0, 97.5), (1, 93.0))),
        a_record(20.0, levels="e", protocol="short"),
    ]
    found = series.sub_models(Evidence(records), "global_accuracy")
    (row,) = numbers(found)
    # The final accuracies alone are 96.5 and 92 with the seeds 0 and 1: gains of 0.5 and -1. Nothing else was
    # repeated, so the interval is that of Student's test of these two.
    assert row == {
        "level": "e",
        "sliced": 94.0,
        "alone": 94.25,
        "gain": -0.25,
        "half_width": pytest.approx(12.7062 * 1.5 / 2, rel=1e-5),
        "chance": pytest.approx(ttest_rel([97.0, 91.0], [96.5, 92.0]).pvalue),
        "basis": "1.0",
        "seeds": 2,
    }
    assert found["answer"].iloc[0].schedule == "paper"


def test_less_perplexity_is_a_gain() -> None:
    row = series.slice_beside_alone({0: 5.0}, {0: 7.0}, "perplexity", NOISE)
    assert row["gain"] == pytest.approx(math.log(7 / 5))
    assert (row["half_width"], row["seeds"]) == (NOISE.half_width(1), 1)


def test_a_slice_that_diverged_has_no_interval() -> None:
    row = series.slice_beside_alone({0: math.nan}, {0: 95.0}, "global_accuracy", NOISE)
    assert all(math.isnan(row[name]) for name in ("gain", "half_width", "chance"))


def test_without_the_level_alone_of_one_of_the_seeds_a_slice_stands_alone() -> None:
    row = series.slice_beside_alone({0: 90.0, 1: 92.0}, {2: 95.0}, "global_accuracy", NOISE)
    assert (row["sliced"], row["seeds"]) == (91.0, 2)
    assert all(math.isnan(row[name]) for name in ("alone", "gain", "half_width", "chance"))


def test_the_level_alone_of_other_code_is_marked_beside_its_slice(recorded: Write) -> None:
    alone = a_record(95.0, levels="e", stale=True)
    for record in (a_mix(97.0), alone):
        recorded(record)
    (line,) = data(exhibits.sub_models("global_accuracy")).to_dict("records")
    assert line["Alone"] == f'<a href="../runs/{alone["run_id"]}.html">94.00‡</a>'
    assert line["Mix"].endswith(">d-e, dynamic</a>")


def test_a_metric_of_a_run_that_diverged_is_a_dash(recorded: Write) -> None:
    diverged = a_record(math.nan)
    recorded(diverged)
    rows = data(exhibits.results("mnist", "iid", "global_accuracy"))
    (row,) = rows[rows["Model"] == "a-e"].to_dict("records")
    assert (row["Final"], row["Difference"]) == ("–", "–")
    assert row["Ours"] == f'<a href="../runs/{diverged["run_id"]}.html">–</a>'


def test_schedules_and_switches_have_rows_of_their_own() -> None:
    records = [a_mix(90.0), a_mix(80.0, seed=1), a_mix(70.0, protocol="short"), a_mix(60.0, norm="gn")]
    records.append(a_mix(50.0, norm="none"))  # a slice of which nothing makes up for the Scaler
    found = series.sub_models(Evidence(records), "global_accuracy")
    assert [(row["sliced"], row["seeds"]) for row in numbers(found)] == [(85.0, 2), (70.0, 1), (60.0, 1)]


def test_a_run_that_was_evaluated_more_often_has_no_second_row() -> None:
    found = series.sub_models(Evidence([a_mix(90.0), a_mix(90.0, eval_every=1)]), "global_accuracy")
    assert len(found) == 1


def test_local_accuracy_of_slices_is_left_out_where_it_is_global_accuracy() -> None:
    evidence = Evidence([a_mix(90.0), a_mix(80.0, partition="non-iid-2")])
    (row,) = numbers(series.sub_models(evidence, "local_accuracy"))
    assert row["sliced"] == 80.0


def test_repeated_runs_on_images_have_no_slices_in_perplexity() -> None:
    evidence = Evidence([a_mix(90.0), a_mix(91.0, seed=1)])
    assert series.sub_models(evidence, "perplexity").empty


def test_the_table_of_slices_counts_those_that_are_worse_or_better_by_more_than_chance(
    recorded: Write,
) -> None:
    """Level e alone ends with 96. The slices of another mix, and another level alone, lend their noise."""
    mixes = [
        *(
            a_mix(accuracy, levels=f"{level}-e")
            for level, accuracy in zip("abc", (97.0, 95.0, 96.01), strict=True)
        ),
        a_mix(90.0, protocol="short", norm="gn"),
    ]
    steady = [
        a_record(99.0, levels="a-d", seed=seed) | {"sub_models": {"d": {"global_accuracy": accuracy}}}
        for seed, accuracy in enumerate((89.0, 89.002))
    ]
    steady += [a_record(best, levels="c", seed=seed) for seed, best in enumerate((98.0, 98.006))]
    for record in [*mixes, *steady, a_record(97.0, levels="e")]:
        recorded(record)
    table = exhibits.sub_models("global_accuracy")
    assert vars(table)["caption"] == (
        "3 slices stand beside a level alone: 1 worse and 1 better by more than ±, 1 with an interval that "
        "includes zero, and 0 without an interval. After Holm's correction for all of them, 1 worse and 1 "
        "better remain."
    )
    lines = data(table).drop(columns=["Data", "Level"])
    assert f'<a href="../runs/{mixes[0]["run_id"]}.html">a-e, dynamic</a>' in set(lines["Mix"])
    lines = lines.replace("<.*?>", "", regex=True)
    width = "0.04"  # 12.706 · 0.00283: pairs of slice and level alone would differ by 9.000 and 9.004
    assert sorted(lines.itertuples(index=False, name=None)) == [
        ("a-d, dynamic", "89.00", "not run", "–", "", "", "2", "paper"),
        ("a-e, dynamic", "97.00", "96.00", "+1.00", width, "1.0", "1", "paper"),
        ("b-e, dynamic", "95.00", "96.00", "−1.00", width, "1.0", "1", "paper"),
        ("c-e, dynamic", "96.01", "96.00", "+0.01", width, "1.0", "1", "paper"),
        ("d-e, dynamic, norm gn", "90.00", "not run", "–", "", "", "1", "short, 20 rounds"),
    ]


def test_slices_by_share_begin_with_the_level_alone_and_have_one_length() -> None:
    """The final round of each; a pair of which no mix was run has no line."""
    records = [
        a_record(98.5, levels="e"),
        a_record(60.5, levels="e", seed=7),  # no mix has this seed
        a_mix(97.0, levels="d2-e8", assignment="fix"),
        a_mix(93.0, levels="d2-e8", assignment="fix", seed=1),
        a_mix(95.0, levels="d2-e8", assignment="fix", seed=2),
        a_mix(94.0, assignment="fix"),
        a_mix(50.0, levels="d9-e1", assignment="fix", protocol="short"),
        a_mix(96.0),  # drawn anew each round
        a_record(99.0, levels="d"),
    ]
    points = series.slices_by_share(Evidence(records), "mnist", "iid", "global_accuracy")
    columns = ["large", "small", "share", "value", "schedule"]
    assert points[columns].to_numpy().tolist() == [
        ["d", "e", 0, 97.5, "paper"],
        ["d", "e", 20, 95.0, "paper"],
        ["d", "e", 50, 94.0, "paper"],
    ]
    assert points["half_width"].notna().tolist() == [False, True, False]
    assert series.slices_by_share(Evidence([]), "mnist", "iid", "global_accuracy").empty


def test_what_accuracy_costs_counts_both_ways_and_no_pauses(recorded: Write) -> None:
    record = a_record(levels="e") | {"device": "a processor"}
    columns = {
        "round": [5, 10, 20, 21],
        "global_accuracy": [9.0, 10.0, 11.0, 12.0],
        "down_mb": [2.0, 4.0, 8.0, 8.5],
        "up_mb": [1.5, 3.0, 6.0, 6.25],
        "training_seconds": [10.0, 15.0, 1035.0, 1036.0],  # a round took 2, 1, 102 and 1 seconds
    }
    write_run(record, pd.DataFrame(columns))
    found = series.spendings(Evidence([record]), "mnist", "iid")
    assert found["sent_mb"].tolist() == [3.5, 7.0, 14.0, 14.75]
    assert found["seconds"].tolist() == [7.5, 15.0, 30.0, 31.5]
    assert set(found["levels"] + " " + found["schedule"]) == {"e paper"}


def test_seconds_are_those_of_one_machine(recorded: Write) -> None:
    """Levels d and e were run on a processor, b on a GPU: its seconds would look cheap."""
    devices = {"e": "a processor", "d": "a processor", "b": "a GPU"}
    records = [a_record(levels=levels) | {"device": device} for levels, device in devices.items()]
    curve = {"round": [1], "down_mb": [2.0], "up_mb": [1.5], "training_seconds": [10.0]}
    for record in records:
        write_run(record, pd.DataFrame(curve))
    found = series.spendings(Evidence(records), "mnist", "iid").set_index("levels")
    assert found["sent_mb"].tolist() == [3.5] * 3
    assert found["seconds"].dropna().to_dict() == {"d": 10.0, "e": 10.0}


PERPLEXITY = {"perplexity": 7.5, "masked_perplexity": 2500.0, "visible_perplexity": 2.5}


def test_perplexities_of_hidden_and_visible_tokens_stand_beside_the_papers(recorded: Write) -> None:
    """The last round's, and the paper's beside the best one; what a run changes is told."""
    assert data(exhibits.perplexities()).empty
    metrics = {f"best_{name}": value - 0.5 for name, value in PERPLEXITY.items()}
    metrics |= {f"final_{name}": value for name, value in PERPLEXITY.items()}
    for predicted in ("all", "masked"):
        recorded(a_record(dataset="wikitext2", levels="e", predicted=predicted) | {"metrics": metrics})
    usual, masked = data(exhibits.perplexities()).to_dict("records")
    assert usual["Levels"] == "e, fix"
    assert [usual[name] for name in ("Changed", "Paper", "Seeds", "Schedule")] == ["", "7.41", "1", "paper"]
    assert [usual[name] for name in ("All", "Masked", "Visible")] == ["7.50", "2500.00", "2.50"]
    assert ">7.00</a>" in usual["Best"]
    assert (masked["Changed"], masked["Paper"]) == ("predicted masked", "–")


def test_a_slice_of_a_mix_without_the_scaler_finds_its_level_alone() -> None:
    """A single level has nothing to scale, and has one name."""
    records = [a_mix(97.0, scaler=False), a_record(98.5, levels="e")]
    (found,) = numbers(series.sub_models(Evidence(records), "global_accuracy"))
    assert (found["sliced"], found["alone"]) == (97.0, 97.5)
