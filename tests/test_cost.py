"""Costs, to every digit that the paper prints."""

import csv

import pytest

from heterofl_core.cost import Cost, cost_table, in_thousands, mix_cost, model_cost
from heterofl_core.folders import PARAMS
from heterofl_core.levels import Mix, width_rate

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}

with (PARAMS / "paper" / "table5_mnist.csv").open(encoding="utf-8") as file:
    PAPER = {row["model"]: row for row in csv.DictReader(file) if len(row["model"].split("-")[0]) == 1}
OURS = {row["Model"]: row for row in cost_table().to_dict("records")}


def printed(text: str) -> int:
    """The number that a text such as 98.9 K stands for."""
    number, unit = text.split()
    return round(float(number) * UNITS[unit])


@pytest.mark.parametrize(
    ("level", "parameters", "paper_flops", "macs"),
    [
        ("a", 1_556_874, 80_504_320, 39_974_912),
        ("b", 391_370, 20_493_056, 10_107_904),
        ("c", 98_922, 5_306_752, 2_584_064),
        ("d", 25_274, 1_418_432, 674_560),
        ("e", 6_594, 400_480, 182_912),
    ],
)
def test_the_cnn_costs_exactly_this(level: str, parameters: int, paper_flops: int, macs: int) -> None:
    cost = model_cost("cnn", (1, 28, 28), width_rate=width_rate(level))
    assert cost == Cost(parameters, paper_flops, macs, space_mb=parameters * 4 / 2**20, ratio=1.0)


def test_level_es_count_follows_from_its_layers() -> None:
    """Each layer counts once for each of its two tensors; pooling leaves 28, 14, 7 and 3 pixels."""
    convolutions = [(28, 1, 4), (14, 4, 8), (7, 8, 16), (3, 16, 32)]
    outputs = sum(size**2 * after for size, _, after in convolutions)
    macs = sum(size**2 * after * before * 9 for size, before, after in convolutions)
    paper_flops = 2 * (macs + outputs) + 2 * (2 * outputs) + 2 * 32 * 10
    cost = model_cost("cnn", (1, 28, 28), width_rate=1 / 16)
    assert (cost.macs, cost.paper_flops) == (macs + 32 * 10, paper_flops)


def test_norms_without_parameters_cost_nothing() -> None:
    outputs = sum(size**2 * width for size, width in [(28, 4), (14, 8), (7, 16), (3, 32)])
    with_norm, without = (
        model_cost("cnn", (1, 28, 28), width_rate=1 / 16, norm=norm) for norm in ("gn", "none")
    )
    assert with_norm.paper_flops - without.paper_flops == 4 * outputs
    assert with_norm.parameters - without.parameters == 2 * (4 + 8 + 16 + 32)
    assert with_norm.macs == without.macs


def test_a_mix_costs_the_mean_of_its_levels() -> None:
    costs = {"a": Cost(100, 1000, 10, 1.0), "e": Cost(10, 100, 0, 0.0)}
    mean = mix_cost(Mix.parse("a3-e7"), costs.__getitem__)
    assert vars(mean) == pytest.approx(
        {"parameters": 37, "paper_flops": 370, "macs": 3, "space_mb": 0.3, "ratio": 0.37}
    )


def test_the_cost_table_has_the_models_of_table_5_in_its_order() -> None:
    assert list(OURS) == list(PAPER)
    assert len(OURS) == 31


@pytest.mark.parametrize("model", PAPER)
def test_costs_agree_with_table_5_to_the_printed_digit(model: str) -> None:
    paper, ours = PAPER[model], OURS[model]
    assert ours["Ratio"] == paper["ratio"]
    assert printed(ours["Parameters"]) == int(paper["parameters"])
    assert printed(ours["FLOPs"]) == int(paper["flops"])
    assert ours["Space (MB)"] == paper["space_mb"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(1_556_874, "1.6 M"), (98_922, "98.9 K"), (1_367_965_696, "1.4 B"), (1000, "1.0 K"), (999, "999")],
)
def test_counts_are_printed_as_in_the_paper(count: int, text: str) -> None:
    assert in_thousands(count) == text
