"""The paper's mechanisms on a few numbers, for "Reading the paper closely"; nothing here needs torch."""

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from heterofl_core.figures import LEVEL_COLOURS
from heterofl_core.levels import width_rate
from heterofl_core.selection import Axis, static_index

EPSILON = 1e-5  # of a norm, as in PyTorch
MASKS = ("none", "detach", "zero", "neg_inf")


def heads(level: str) -> Figure:
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
