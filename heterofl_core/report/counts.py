"""What the paper's networks cost, counted from nothing but their widths: a second opinion on `cost.py`, which
watches layers of torch while an example passes. Nothing here needs torch.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from heterofl_core.levels import Mix, all_mixes, width_rate
from heterofl_core.params import PAPER_BLOCKS, SEQUENCE_LENGTH
from heterofl_core.report.paper import table
from heterofl_core.selection import scaled_width

HIDDEN_SIZES = (64, 128, 256, 512)  # of the CNN and the ResNet (Table 4)
LABELS = 10
BYTES = 4  # of a parameter in float32
COST_COLUMNS = ["ratio", "parameters", "flops", "space_mb"]


@dataclass(frozen=True)
class Layer:
    """A layer with parameters, as far as its cost goes.

    Attributes:
        tensors: elements of each of its parameters: of the weight, and of the bias if there is one.
        macs: multiply-accumulates for one example.
        counted: what the authors' counter adds for each of these tensors.
    """

    tensors: tuple[int, ...]
    macs: int
    counted: int


Model = Callable[[float], list[Layer]]
"""The layers of a network at a width rate in (0, 1]."""


def convolution(before: int, after: int, size: int, kernel: int = 3, bias: bool = False) -> Layer:
    """A convolution whose output has `size` × `size` positions."""
    weight, outputs = after * before * kernel**2, after * size**2
    macs = outputs * before * kernel**2
    return Layer((weight, after), macs, macs + outputs) if bias else Layer((weight,), macs, macs)


def linear(before: int, after: int, positions: int = 1) -> Layer:
    """A linear layer, applied at each position."""
    macs = positions * before * after
    return Layer((before * after, after), macs, macs)


def norm(width: int, positions: int) -> Layer:
    """A normalisation with a weight and a bias for each of its channels."""
    return Layer((width, width), 0, 2 * width * positions)


def embedding(rows: int, width: int) -> Layer:
    """An embedding, which costs parameters only."""
    return Layer((rows * width,), 0, 0)


def cnn(width_rate: float) -> list[Layer]:
    """The CNN for MNIST (Table 4): pooling leaves 28, 14, 7 and 3 pixels."""
    widths = [scaled_width(size, width_rate) for size in HIDDEN_SIZES]
    layers = []
    for before, after, size in zip([1, *widths[:-1]], widths, (28, 14, 7, 3), strict=True):
        layers += [convolution(before, after, size, bias=True), norm(after, size**2)]
    return [*layers, linear(widths[-1], LABELS)]


def preresnet(width_rate: float, blocks: Sequence[int] = PAPER_BLOCKS) -> list[Layer]:
    """The pre-activation ResNet for CIFAR10 (He et al., 2016) with so many blocks in its four stages."""
    widths = [scaled_width(size, width_rate) for size in HIDDEN_SIZES]
    before, size = widths[0], 32
    layers = [convolution(3, before, size)]
    for stage, (width, number) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(number):
            halves = stage > 0 and block == 0
            layers.append(norm(before, size**2))
            size = size // 2 if halves else size
            layers += [convolution(before, width, size), norm(width, size**2)]
            layers.append(convolution(width, width, size))
            layers += [convolution(before, width, size, kernel=1)] if halves else []  # the shortcut
            before = width
    return [*layers, norm(before, size**2), linear(before, LABELS)]


def transformer(width_rate: float, tokens: int = 33_279) -> list[Layer]:
    """The Transformer for WikiText2 (Table 4): 4 encoder layers with 8 heads, for one sequence.

    Args:
        tokens: in the vocabulary; the embedding has one more row, for [MASK].
    """
    length = SEQUENCE_LENGTH
    width, hidden = scaled_width(256, width_rate), scaled_width(512, width_rate)
    heads = 8 * scaled_width(256 // 8, width_rate)
    encoder = [
        *3 * [linear(width, heads, length)],  # queries, keys, values
        linear(heads, width, length),
        norm(width, length),
        linear(width, hidden, length),
        linear(hidden, width, length),
        norm(width, length),
    ]
    embeddings = [embedding(tokens + 1, width), embedding(length, width), norm(width, length)]
    decoder = [linear(width, width, length), norm(width, length), linear(width, tokens, length)]
    return [*embeddings, *4 * encoder, *decoder]


def mlp(pixels: int) -> list[Layer]:
    """The multilayer perceptron of the baselines (Liang et al., 2020)."""
    return [linear(*sizes) for sizes in itertools.pairwise([pixels, 512, 256, 256, 128, LABELS])]


def parameters(layers: Sequence[Layer]) -> int:
    """Trainable scalars."""
    return sum(sum(layer.tensors) for layer in layers)


def macs(layers: Sequence[Layer]) -> int:
    """Multiply-accumulates of convolutions and linear layers, for one example."""
    return sum(layer.macs for layer in layers)


def paper_flops(layers: Sequence[Layer]) -> int:
    """The FLOPs column: a layer's count once for each of its parameter tensors, for one example."""
    return sum(len(layer.tensors) * layer.counted for layer in layers)


def space_mb(layers: Sequence[Layer]) -> float:
    """The Space column: parameters in float32, in units of 2^20 bytes."""
    return parameters(layers) * BYTES / 2**20


def as_printed(count: float) -> int:
    """A count from 1 on, rounded as the paper prints it: to a tenth of a thousand, a million or a billion."""
    unit = 1000 ** int(math.log10(count) // 3)
    return round(round(count / unit, 1) * unit)


def cost_columns(mix: Mix, model: Model) -> list[float]:
    """The row of a mix in the cost columns of Tables 5 to 7: the mean over its levels, as printed."""
    levels = [model(width_rate(level)) for level in mix.levels]

    def mean(count: Callable[[Sequence[Layer]], float]) -> float:
        return float(np.average([count(layers) for layers in levels], weights=mix.parts))

    ratio = mean(parameters) / parameters(levels[0])
    counts = [as_printed(mean(parameters)), as_printed(mean(paper_flops))]
    return [round(ratio, 2), *counts, round(mean(space_mb), 2)]


def agreeing_rows(dataset: str, model: Model) -> "pd.Series[int]":
    """In how many of the 31 mixes of Table 5, 6 or 7 a network agrees to the printed digit, by column."""
    rows = {str(mix): cost_columns(mix, model) for mix in all_mixes()}
    counted = pd.DataFrame.from_dict(rows, orient="index", columns=COST_COLUMNS)
    return (counted == table(dataset).loc[counted.index, COST_COLUMNS]).sum()
