"""The count of layers from their widths agrees with the networks of torch and with the paper's tables."""

import itertools
import math
from typing import Any

import pytest
import torch

from heterofl_core.cost import EXAMPLES, model_cost
from heterofl_core.levels import LEVELS, Mix, width_rate
from heterofl_core.models import build_model
from heterofl_core.report import counts
from heterofl_core.report.counts import Layer

NETWORKS = {"cnn": counts.cnn, "preresnet18": counts.preresnet, "transformer": counts.transformer}
TABLES = {"mnist": counts.cnn, "cifar10": counts.preresnet, "wikitext2": counts.transformer}


def trained(**settings: Any) -> int:
    """Parameters of a network, as torch counts them."""
    with torch.device("meta"):
        return sum(value.numel() for value in build_model(**settings).parameters())


# Layers, by hand


def test_a_convolution_without_bias_counts_its_products() -> None:
    """2 → 3 channels, 3×3, on 5×5 positions: 54 weights, each used at 25 positions."""
    assert counts.convolution(2, 3, 5) == Layer((54,), 1350, 1350)


def test_a_convolution_with_bias_counts_its_outputs_too() -> None:
    assert counts.convolution(2, 3, 5, bias=True) == Layer((54, 3), 1350, 1350 + 75)


def test_a_shortcut_is_a_convolution_of_one_pixel() -> None:
    assert counts.convolution(2, 3, 5, kernel=1) == Layer((6,), 150, 150)


def test_a_linear_layer_counts_at_each_position() -> None:
    assert counts.linear(3, 4, positions=5) == Layer((12, 4), 60, 60)


def test_norms_and_embeddings_have_no_products() -> None:
    assert counts.norm(3, 25) == Layer((3, 3), 0, 150)
    assert counts.embedding(7, 3) == Layer((21,), 0, 0)


def test_a_layer_counts_once_for_each_of_its_tensors() -> None:
    layers = [counts.convolution(2, 3, 5), counts.norm(3, 25), counts.linear(3, 4)]
    assert counts.parameters(layers) == 54 + 6 + 16
    assert counts.macs(layers) == 1350 + 12
    assert counts.paper_flops(layers) == 1350 + 2 * 150 + 2 * 12
    assert counts.space_mb(layers) == 76 * 4 / 2**20


# Networks, beside torch


@pytest.mark.parametrize(("arch", "level"), list(itertools.product(NETWORKS, LEVELS)))
def test_networks_agree_with_those_of_torch(arch: str, level: str) -> None:
    """Each of the two counts knows nothing of the other."""
    layers = NETWORKS[arch](width_rate(level))
    cost = model_cost(arch, EXAMPLES[arch], width_rate=width_rate(level))
    assert counts.parameters(layers) == trained(arch=arch, width_rate=width_rate(level))
    assert (counts.macs(layers), counts.paper_flops(layers)) == (cost.macs, cost.paper_flops)
    assert counts.space_mb(layers) == cost.space_mb


@pytest.mark.parametrize("blocks", [(2, 2, 2, 2), (1, 1, 1, 1), (3, 1, 2, 4)])
def test_any_number_of_blocks_can_be_counted(blocks: tuple[int, ...]) -> None:
    layers = counts.preresnet(0.25, blocks)
    cost = model_cost("preresnet18", EXAMPLES["preresnet18"], width_rate=0.25, blocks=blocks)
    assert (counts.parameters(layers), counts.paper_flops(layers)) == (cost.parameters, cost.paper_flops)


def test_eight_blocks_have_eleven_million_parameters() -> None:
    assert counts.parameters(counts.preresnet(1, (2, 2, 2, 2))) == 11_172_170


def test_a_vocabulary_of_any_size_can_be_counted() -> None:
    assert counts.parameters(counts.transformer(1 / 16, 50)) == trained(
        arch="transformer", width_rate=1 / 16, num_tokens=50
    )


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32)])
def test_the_perceptron_agrees_with_that_of_torch(image: tuple[int, ...]) -> None:
    layers = counts.mlp(math.prod(image))
    assert counts.parameters(layers) == trained(arch="mlp", input_shape=image)


# The paper's tables


@pytest.mark.parametrize(
    ("count", "printed"),
    [(1_556_874, 1_600_000), (98_922, 98_900), (1_367_965_696, 1_400_000_000), (1000, 1000), (999, 999)],
)
def test_counts_are_rounded_as_the_paper_prints_them(count: int, printed: int) -> None:
    assert counts.as_printed(count) == printed


def test_a_mix_costs_the_mean_of_its_levels() -> None:
    def model(rate: float) -> list[Layer]:
        return [counts.linear(int(1100 * rate), int(1100 * rate))]  # 1,211,100 and 303,050 parameters

    assert counts.cost_columns(Mix.parse("a-b"), model) == [0.63, 757_100, 1_500_000, 2.89]


@pytest.mark.parametrize("dataset", TABLES)
def test_all_rows_of_the_papers_tables_agree(dataset: str) -> None:
    assert counts.agreeing_rows(dataset, TABLES[dataset]).to_dict() == dict.fromkeys(counts.COST_COLUMNS, 31)


def test_eight_blocks_do_not_agree() -> None:
    found = counts.agreeing_rows("cifar10", lambda rate: counts.preresnet(rate, (2, 2, 2, 2)))
    assert (found[["parameters", "flops", "space_mb"]] < 5).all()


def test_space_tells_how_many_words_there_are() -> None:
    short = counts.agreeing_rows("wikitext2", lambda rate: counts.transformer(rate, 33_278))
    assert short["space_mb"] < 31
