"""What is shown of the paper's mechanisms agrees with the layers."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from heterofl_core.layers import mask_logits
from heterofl_core.report import mechanisms

LOGITS = np.array([2.0, 1.0, -1.0, 0.5])
HELD = np.array([True, True, False, False])


def test_the_figure_of_heads_shows_a_prefix_of_each() -> None:
    prefix, each_head = mechanisms.heads("c").axes[0].images[0].get_array().data  # type: ignore[union-attr]
    assert np.flatnonzero(prefix).tolist() == list(range(64))
    assert np.flatnonzero(each_head).tolist() == [32 * head + own for head in range(8) for own in range(8)]


# Loss and norm, beside torch


@pytest.mark.parametrize("masked_loss", mechanisms.MASKS)
def test_masks_agree_with_those_of_training(masked_loss: str) -> None:
    """Loss and gradient, by torch's own derivative."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = F.cross_entropy(mask_logits(logits, torch.tensor(HELD), masked_loss), torch.tensor(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    row = mechanisms.masks(LOGITS, HELD, label=0).set_index("masked_loss").loc[masked_loss]
    assert row["loss"] == pytest.approx(loss.item())
    assert [row[f"gradient {number}"] for number in range(4)] == pytest.approx(gradient.tolist())


def test_an_absent_label_keeps_its_place_in_the_softmax_of_zero_only() -> None:
    """Two labels with logit 0 held, two absent."""
    even = np.zeros(4)
    assert mechanisms.masked_softmax(even, HELD, "zero").tolist() == [0.25] * 4
    assert mechanisms.masked_softmax(even, HELD, "neg_inf").tolist() == [0.5, 0.5, 0, 0]


def test_one_class_learns_nothing_from_minus_infinity() -> None:
    alone = np.array([True, False, False, False])
    row = mechanisms.masks(LOGITS, alone, label=0).set_index("masked_loss").loc["neg_inf"]
    assert (row == 0).all()


def test_the_norm_is_that_of_torch_and_cancels_a_scale() -> None:
    x = np.random.default_rng(0).normal(size=(10, 4))
    expected = F.batch_norm(torch.tensor(x), None, None, training=True, eps=mechanisms.EPSILON)
    assert mechanisms.batch_norm(x) == pytest.approx(expected.numpy())
    assert mechanisms.batch_norm(16 * x) == pytest.approx(mechanisms.batch_norm(x), abs=1e-4)
