"""What the page "Reading the paper closely" counts, compares and draws; nothing here needs torch.

The counts are a second opinion on `cost.py`: that one watches layers of torch while an example passes, this
one knows nothing but widths.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from heterofl_core.evidence import Answer
from heterofl_core.exhibits import all_evidence, not_run
from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import LEVELS, Mix, all_mixes, width_rate
from heterofl_core.paper import table
from heterofl_core.params import PAPER_BLOCKS, SEQUENCE_LENGTH, run_params
from heterofl_core.records import read_rounds
from heterofl_core.report import each_run, title_of
from heterofl_core.selection import Axis, scaled_width, static_index
from heterofl_core.studies import combinations, values_of
from heterofl_core.tables import aligned

HIDDEN_SIZES = (64, 128, 256, 512)  # of the CNN and the ResNet (Table 4)
LABELS = 10
BYTES = 4  # of a parameter in float32
COST_COLUMNS = ["ratio", "parameters", "flops", "space_mb"]
EPSILON = 1e-5  # of a norm, as in PyTorch
NOT_RUN = dict.fromkeys(("Rounds", "Seeds", "Best", "Final"), "–")
MASKS = ("none", "detach", "zero", "neg_inf")
SPACINGS = (1, 5, 10, 50)  # rounds from one evaluation to the next
WORD_FREQUENCIES = 911.7
"""The perplexity of WikiText2's test text for who knows each word's share of the training text; counted by a
test.
"""
LONG = 100  # rounds of a run whose curve tells what looking more often brings


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
    """A table of the page: counts with commas, other numbers with so many decimals, words at the left.

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
        described = {"Setting": ", ".join(f"{name} {setting[name]}" for name in varied)}
        asked = run_params(**setting)
        answers = evidence.answers_to(asked)
        found = [summary(answer, metric) for answer in sorted(answers, key=lambda answer: answer.rounds)]
        rows += [described | one for one in found or [NOT_RUN | {"Code": not_run(asked)}]]
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
        runs: rows of `report.results`.

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


def looks(runs: pd.DataFrame) -> pd.DataFrame:
    """What the best Global accuracy of a run would be, had one looked more rarely; in percent.

    Args:
        runs: rows of `report.results`; those count that were evaluated after each of `LONG` or more rounds.

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
