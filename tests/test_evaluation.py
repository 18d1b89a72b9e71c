"""sBN statistics, Global and Local accuracy."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core import evaluation
from heterofl_core.data import Images
from heterofl_core.evaluation import Moments, accuracy, collect_statistics, evaluate, normalised_batches
from heterofl_core.federation import Federation
from heterofl_core.layers import StaticBatchNorm2d
from heterofl_core.models import build_model
from heterofl_core.params import run_params
from heterofl_core.partition import Partition


def random_images(number: int) -> Tensor:
    """Shape (number, 1, 16, 16), with a mean far from zero."""
    return 2 * torch.randn(number, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 5


def norms_of(model: nn.Module) -> list[StaticBatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, StaticBatchNorm2d)]


# sBN statistics


def test_moments_of_uneven_batches_are_those_of_all_values_together() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(100, 3, (17, 4, 2, 3)).astype(np.float32)
    moments = Moments()
    for part in np.split(x, [1, 9, 16]):
        moments.add(torch.from_numpy(part))
    mean, variance = moments.mean_and_variance()
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis=(0, 2, 3), dtype=np.float64), rtol=1e-5)


def test_moments_by_hand() -> None:
    moments = Moments()
    moments.add(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    moments.add(torch.tensor([6.0]).reshape(1, 1, 1, 1))
    mean, variance = moments.mean_and_variance()
    assert (mean.tolist(), variance.tolist()) == ([3.0], [pytest.approx(14 / 3)])


def test_the_first_layers_statistics_are_exact_whatever_the_batches() -> None:
    """Its inputs do not depend on any other layer's batch statistics."""
    torch.manual_seed(0)
    model = build_model("cnn", 1 / 16)
    images = random_images(40)
    collect_statistics(model, images.split([23, 10, 6, 1]))
    weight, bias = (
        model.state_dict()[f"blocks.0.convolution.{name}"].double() for name in ("weight", "bias")
    )
    outputs = F.conv2d(images.double(), weight, bias, padding=1).numpy()
    norm = norms_of(model)[0]
    assert norm.mean is not None
    assert norm.variance is not None
    np.testing.assert_allclose(norm.mean, outputs.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.variance, outputs.var(axis=(0, 2, 3)), rtol=1e-5)


def test_with_all_data_in_one_batch_evaluation_computes_what_training_does_in_every_layer() -> None:
    torch.manual_seed(0)
    model = build_model("cnn", 1 / 16)
    images = random_images(30)
    outputs: list[Tensor] = []
    for layer in (*model.get_submodule("blocks").children(), model):
        layer.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    model.train()(images)
    in_training = outputs.copy()
    collect_statistics(model, [images])
    assert not model.training
    outputs.clear()
    model(images)
    in_evaluation = outputs.copy()
    assert len(in_training) == len(in_evaluation) == 5
    for trained, evaluated in zip(in_training, in_evaluation, strict=True):
        torch.testing.assert_close(evaluated, trained, rtol=1e-4, atol=1e-5)


def test_collecting_changes_no_parameter_and_leaves_no_hook() -> None:
    model = build_model("cnn", 1 / 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    collect_statistics(model, [random_images(4)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(not layer._forward_pre_hooks for layer in model.modules())


def test_collecting_again_forgets_the_first_pass() -> None:
    torch.manual_seed(0)
    model, again = build_model("cnn", 1 / 16), build_model("cnn", 1 / 16)
    again.load_state_dict(model.state_dict())
    collect_statistics(again, [random_images(8) * 3])
    for either in (model, again):
        collect_statistics(either, [random_images(8)])
    for first, second in zip(norms_of(model), norms_of(again), strict=True):
        assert first.mean is not None
        assert second.mean is not None
        assert torch.equal(first.mean, second.mean)


def test_a_model_without_sbn_needs_no_data() -> None:
    def no_data() -> Iterator[Tensor]:
        raise AssertionError("the data were read")
        yield

    model = build_model("cnn", 1 / 16, norm="gn")
    collect_statistics(model, no_data())
    assert not model.training


# Accuracy


def test_accuracy_is_the_percentage_of_largest_logits_that_are_the_labels() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [7.0, 6.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 75.0


DARK, BRIGHT = 0, 200
TEST_LABELS = [0, 0, 1, 1, 2, 2, 0, 1]
TEST_PIXELS = [DARK, DARK, BRIGHT, DARK, BRIGHT, BRIGHT, BRIGHT, BRIGHT]
OWNERS = [0, 1, 0, 1, 1, 2, 2, 2]
HELD = np.array([[True, True, False], [False, True, True], [True, False, True]])


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Three clients, eight test images of one brightness each, and no norm."""

    def images(pixels: list[int]) -> np.ndarray:
        return np.array(pixels, dtype=np.uint8)[:, None, None, None].repeat(16, axis=2).repeat(16, axis=3)

    data = Images(
        images([DARK, BRIGHT] * 3), np.array([0, 1, 2] * 2), images(TEST_PIXELS), np.array(TEST_LABELS)
    )
    monkeypatch.setattr("heterofl_core.federation.load_data", lambda _: data)
    return federation_of(masked_loss="zero")


def federation_of(**settings: object) -> Federation:
    federation = Federation(run_params(dataset="digits", levels="e", norm="none", num_clients=3, **settings))
    tests = [np.flatnonzero(np.array(OWNERS) == client) for client in range(3)]
    federation.partition = Partition(federation.partition.train, tests, HELD)
    return federation


def parameters(federation: Federation, biases: list[float], brightness: list[float]) -> dict[str, Tensor]:
    """A network whose logits are biases plus, for bright images only, `brightness`.

    The mean pixel is 100 and the deviation 100, so dark images become -1, which ReLU takes to 0, and
    bright ones 1, which the first channel of every block hands on.
    """
    zero = {name: torch.zeros_like(value) for name, value in federation.global_model().state_dict().items()}
    for block in range(4):
        zero[f"blocks.{block}.convolution.weight"][0, 0, 1, 1] = 1
    zero["linear.weight"][:, 0] = torch.tensor(brightness)
    zero["linear.bias"] += torch.tensor(biases)
    return zero


def test_global_accuracy_is_without_masks_over_all_test_examples(by_hand: Federation) -> None:
    """Dark images are taken for label 0 and bright ones for 2: right are images 0, 1, 4, 5."""
    values = parameters(by_hand, biases=[3, 2, 1], brightness=[0, 0, 4])
    assert evaluate(by_hand, values)["global_accuracy"] == 100 * 4 / 8


def test_local_accuracy_masks_absent_labels_and_leaves_out_examples_of_them(by_hand: Federation) -> None:
    """The same network behind masks. Image 1 has label 0, which its client does not hold; image 7 has
    label 1, likewise. Client 0 takes dark for 0 and bright for 0 (3 > 2): image 0 right, 2 wrong. Client 1
    takes dark for 1 and bright for 2: 3 and 4 right. Client 2 takes bright for 2: 5 right, 6 wrong.
    """
    values = parameters(by_hand, biases=[3, 2, 1], brightness=[0, 0, 4])
    assert evaluate(by_hand, values)["local_accuracy"] == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize(("masked_loss", "expected"), [("zero", 0.0), ("neg_inf", 100 * 4 / 6)])
def test_the_mask_in_local_accuracy_is_the_one_of_training(
    by_hand: Federation, masked_loss: str, expected: float
) -> None:
    """With negative logits everywhere, an absent label's 0 is the largest."""
    by_hand = federation_of(masked_loss=masked_loss)
    values = parameters(by_hand, biases=[-7, -8, -9], brightness=[0, 0, 4])
    assert evaluate(by_hand, values)["local_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("masked_loss", ["none", "detach"])
def test_without_masks_local_accuracy_still_leaves_out_examples_of_absent_labels(
    by_hand: Federation, masked_loss: str
) -> None:
    """Of images 0, 2, 3, 4, 5, 6 the unmasked network gets 0, 4 and 5 right."""
    by_hand = federation_of(masked_loss=masked_loss)
    values = parameters(by_hand, biases=[3, 2, 1], brightness=[0, 0, 4])
    assert evaluate(by_hand, values) == {"global_accuracy": 50.0, "local_accuracy": 50.0}


def test_evaluation_passes_all_examples_in_order_in_batches_of_500(
    by_hand: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = np.arange(7, dtype=np.uint8)[:, None, None, None]
    assert evaluation.BATCH == 500
    monkeypatch.setattr(evaluation, "BATCH", 3)
    batches = list(normalised_batches(by_hand, inputs))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    expected = (torch.arange(7.0) - 100) / 100
    torch.testing.assert_close(torch.cat(batches).flatten(), expected)


def test_evaluation_with_sbn_uses_statistics_of_the_training_data() -> None:
    """For test images unlike them, in other batches; what the model says of each is made its label."""
    federation = Federation(run_params(dataset="digits", levels="e"))
    model = federation.global_model()
    collect_statistics(model, normalised_batches(federation, federation.data.train_inputs))
    inverted = 16 - federation.data.test_inputs
    with torch.no_grad():
        pixels = torch.from_numpy((inverted - federation.mean) / federation.deviation).float()
        labels = torch.cat([model(image).argmax(dim=1) for image in pixels.split(7)])
    federation.data = replace(federation.data, test_inputs=inverted, test_labels=labels.numpy())
    assert evaluate(federation, model.state_dict())["global_accuracy"] == 100
