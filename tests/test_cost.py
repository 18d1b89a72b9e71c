"""Costs, to every digit that the paper prints."""

import csv
import functools
from collections.abc import Hashable
from typing import Any

import pytest
import torch

from heterofl_core.cost import EXAMPLES, Cost, cost_table, mix_cost, model_cost
from heterofl_core.folders import PARAMS
from heterofl_core.levels import Mix, width_rate
from heterofl_core.printing import magnitude

UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
TABLES = {"cnn": "table5_mnist", "preresnet18": "table6_cifar10", "transformer": "table7_wikitext2"}
BASELINES = ("Standalone", "FedAvg", "LG-FedAvg")
IMAGE = torch.empty(1, 1, 28, 28, device="meta")


def read_table(arch: str) -> dict[str, dict[str, str]]:
    """The paper's table of an architecture, by model."""
    with (PARAMS / "paper" / f"{TABLES[arch]}.csv").open(encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


PAPER = {arch: read_table(arch) for arch in TABLES}
ROWS = [(arch, model) for arch in TABLES for model in PAPER[arch] if model not in BASELINES]


@functools.cache
def ours(arch: str) -> dict[str, dict[Hashable, Any]]:
    """Our table of an architecture, by model."""
    return {row["Model"]: row for row in cost_table(arch).to_dict("records")}


def printed(text: str) -> int:
    """The number that a text such as 98.9 K stands for."""
    number, unit = text.split()
    return round(float(number) * UNITS[unit])


LEVELS = [
    ("cnn", "a", 1_556_874, 80_504_320, 39_974_912),
    ("cnn", "b", 391_370, 20_493_056, 10_107_904),
    ("cnn", "c", 98_922, 5_306_752, 2_584_064),
    ("cnn", "d", 25_274, 1_418_432, 674_560),
    ("cnn", "e", 6_594, 400_480, 182_912),
    ("preresnet18", "a", 9_622_090, 330_246_144, 328_930_304),
    ("preresnet18", "b", 2_408_746, 83_334_144, 82_676_224),
    ("preresnet18", "c", 603_802, 21_219_840, 20_890_880),
    ("preresnet18", "d", 151_762, 5_498_112, 5_333_632),
    ("preresnet18", "e", 38_350, 1_471_104, 1_388_864),
    ("transformer", "a", 19_263_999, 1_367_965_696, 683_655_168),
    ("transformer", "b", 9_107_967, 614_776_832, 307_224_576),
    ("transformer", "c", 4_435_455, 290_086_912, 144_961_536),
    ("transformer", "d", 2_200_575, 140_718_080, 70_318_080),
    ("transformer", "e", 1_108_479, 69_277_696, 34_618_368),
]


@pytest.mark.parametrize(("arch", "level", "parameters", "paper_flops", "macs"), LEVELS)
def test_a_level_costs_exactly_this(
    arch: str, level: str, parameters: int, paper_flops: int, macs: int
) -> None:
    """Attention: 4 layers, each with Q·K and the weighted sum of V over 64 × 64 pairs of positions."""
    attention_macs = int(4 * 2 * 64 * 64 * 256 * width_rate(level)) if arch == "transformer" else 0
    cost = model_cost(arch, EXAMPLES[arch], width_rate=width_rate(level))
    assert cost == Cost(
        parameters, paper_flops, macs, attention_macs, space_mb=parameters * 4 / 2**20, ratio=1.0
    )


@pytest.mark.parametrize(("arch", "level", "parameters", "paper_flops", "macs"), LEVELS)
def test_a_levels_row_of_the_cost_table_has_the_exact_counts(
    arch: str, level: str, parameters: int, paper_flops: int, macs: int
) -> None:
    row = ours(arch)[level]
    assert (row["parameters"], row["paper_flops"], row["macs"]) == (parameters, paper_flops, macs)


@pytest.mark.parametrize(
    ("table", "image", "parameters", "macs"),
    [
        ("cnn", (1, 28, 28), 633_226, 632_064),
        ("preresnet18", (3, 32, 32), 1_804_682, 1_803_520),
    ],
)
def test_the_baselines_rows_are_those_of_the_mlp(
    table: str, image: tuple[int, ...], parameters: int, macs: int
) -> None:
    cost = model_cost("mlp", torch.empty(1, *image, device="meta"), input_shape=image)
    assert cost == Cost(parameters, 2 * macs, macs, 0, space_mb=parameters * 4 / 2**20)
    for model in BASELINES:
        paper = PAPER[table][model]
        assert printed(magnitude(cost.parameters)) == int(paper["parameters"])
        assert printed(magnitude(cost.paper_flops)) == int(paper["flops"])
        assert f"{cost.space_mb:.2f}" == paper["space_mb"]
        assert f"{cost.ratio:.2f}" == paper["ratio"]


def test_level_es_count_follows_from_its_layers() -> None:
    """Each layer counts once for each of its two tensors; pooling leaves 28, 14, 7 and 3 pixels."""
    convolutions = [(28, 1, 4), (14, 4, 8), (7, 8, 16), (3, 16, 32)]
    outputs = sum(size**2 * after for size, _, after in convolutions)
    macs = sum(size**2 * after * before * 9 for size, before, after in convolutions)
    paper_flops = 2 * (macs + outputs) + 2 * (2 * outputs) + 2 * 32 * 10
    cost = model_cost("cnn", IMAGE, width_rate=1 / 16)
    assert (cost.macs, cost.paper_flops) == (macs + 32 * 10, paper_flops)


def test_norms_without_parameters_cost_nothing() -> None:
    outputs = sum(size**2 * width for size, width in [(28, 4), (14, 8), (7, 16), (3, 32)])
    with_norm, without = (model_cost("cnn", IMAGE, width_rate=1 / 16, norm=norm) for norm in ("gn", "none"))
    assert with_norm.paper_flops - without.paper_flops == 4 * outputs
    assert with_norm.parameters - without.parameters == 2 * (4 + 8 + 16 + 32)
    assert with_norm.macs == without.macs


def test_a_mix_costs_the_mean_of_its_levels() -> None:
    costs = {"a": Cost(100, 1000, 10, 20, 1.0), "e": Cost(10, 100, 0, 10, 0.0)}
    mean = mix_cost(Mix.parse("a3-e7"), costs.__getitem__)
    assert vars(mean) == pytest.approx(
        {
            "parameters": 37,
            "paper_flops": 370,
            "macs": 3,
            "attention_macs": 13,
            "space_mb": 0.3,
            "ratio": 0.37,
        }
    )


def test_a_mix_may_have_any_parts_and_none_of_a_level() -> None:
    """As they come out of a trace; the ratio is to the first level, even so."""
    costs = {"a": Cost(100, 1000, 10, 20, 1.0), "c": Cost(50, 1, 1, 1, 0.5), "e": Cost(10, 100, 0, 10, 0.0)}
    few = mix_cost(Mix(("a", "c", "e"), (1, 0, 99)), costs.__getitem__)
    assert few == mix_cost(Mix.parse("a1-e99"), costs.__getitem__)
    assert (few.parameters, few.ratio) == pytest.approx((10.9, 0.109))
    none = mix_cost(Mix(("a", "e"), (0, 7)), costs.__getitem__)
    assert (none.parameters, none.ratio) == (10, 0.1)


def test_the_cost_tables_have_the_31_models_of_the_papers() -> None:
    for arch in ("cnn", "preresnet18"):  # in the paper's order, too
        assert list(ours(arch)) == [model for model in PAPER[arch] if model not in BASELINES]
    assert sorted(ours("transformer")) == sorted(PAPER["transformer"])
    assert len(ROWS) == 3 * 31


@pytest.mark.parametrize(("arch", "model"), ROWS)
def test_costs_agree_with_the_papers_tables_to_the_printed_digit(arch: str, model: str) -> None:
    paper, row = PAPER[arch][model], ours(arch)[model]
    assert row["Ratio"] == paper["ratio"]
    assert printed(row["Parameters"]) == int(paper["parameters"])
    assert printed(row["FLOPs"]) == int(paper["flops"])
    assert row["Space (MB)"] == paper["space_mb"]


def test_a_longer_sequence_costs_more_attention_than_in_proportion() -> None:
    half, whole = (
        model_cost("transformer", torch.empty(1, length, dtype=torch.int64, device="meta"), num_tokens=50)
        for length in (32, 64)
    )
    assert whole.macs == 2 * half.macs
    assert whole.attention_macs == 4 * half.attention_macs
    assert whole.parameters == half.parameters
