"""The baselines: what each method shares, and what a round of it does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofl_core.classification import Classification
from heterofl_core.clients import ModelCopy, client_update
from heterofl_core.data import Images, load_images
from heterofl_core.executor import on_one_thread
from heterofl_core.federation import Federation, Weights
from heterofl_core.methods import shared_parameters
from heterofl_core.models import build_model
from heterofl_core.params import run_params

CLIENTS = 6


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 80 digits instead of all."""
    whole = load_images("digits")
    few = Images(
        whole.train_inputs[:80], whole.train_labels[:80], whole.test_inputs[:80], whole.test_labels[:80]
    )
    monkeypatch.setattr("heterofl_core.classification.load_images", lambda _: few)


def federation_of(method: str, arch: str = "mlp", **settings: Any) -> Federation:
    """Six clients, two of them active in a round."""
    defaults: dict[str, Any] = {"levels": "e", "num_clients": CLIENTS, "participation": 1 / 3}
    params = run_params(
        dataset="digits", method=method, arch=arch, **{"local_epochs": 1, **defaults, **settings}
    )
    return Federation(params)


def own_updates(federation: Federation, weights: Weights, t: int) -> dict[int, dict[str, np.ndarray]]:
    """What each active client's own training gives."""
    return {
        client: on_one_thread(
            client_update,
            federation.client_task(weights, t, client, "e", federation.task.share(client), {}),
        ).parameters
        for client in federation.active_clients(t)
    }


def assert_identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# What is shared


@pytest.mark.parametrize("arch", ["cnn", "preresnet18", "mlp"])
def test_heterofl_and_fedavg_share_everything_and_standalone_nothing(arch: str) -> None:
    model = build_model(arch, 1 / 16)
    assert shared_parameters("heterofl", model, 3) == set(model.state_dict())
    assert shared_parameters("fedavg", model, 3) == set(model.state_dict())
    assert shared_parameters("standalone", model, 3) == set()


@pytest.mark.parametrize("shared_layers", [1, 3, 5, 9])
def test_lg_fedavg_shares_the_last_layers_of_the_mlp(shared_layers: int) -> None:
    shared = shared_parameters("lg-fedavg", build_model("mlp", 1 / 16), shared_layers)
    layers = range(max(0, 5 - shared_layers), 5)
    assert shared == {f"layers.{layer}.{name}" for layer in layers for name in ("weight", "bias")}


def test_lg_fedavg_shares_norms_between_and_behind_the_last_layers() -> None:
    shared = shared_parameters("lg-fedavg", build_model("cnn", 1 / 16), 2)
    assert shared == {
        "blocks.3.convolution.weight",
        "blocks.3.convolution.bias",
        "blocks.3.norm.weight",
        "blocks.3.norm.bias",
        "linear.weight",
        "linear.bias",
    }
    shared = shared_parameters("lg-fedavg", build_model("preresnet18", 1 / 16, norm="bn"), 1)
    assert shared == {"linear.weight", "linear.bias"}


def test_four_shared_layers_cut_the_last_block_of_preresnet18_in_two() -> None:
    model = build_model("preresnet18", 1 / 16)
    shared = shared_parameters("lg-fedavg", model, 4)
    assert {name for name in shared if name.startswith("blocks.3.")} == {"blocks.3.shortcut.weight"}
    last = {name for name in model.state_dict() if name.startswith("blocks.4.")}
    assert shared == {
        "blocks.3.shortcut.weight",
        *last,
        "norm.weight",
        "norm.bias",
        "linear.weight",
        "linear.bias",
    }


# FedAvg


@pytest.mark.parametrize("arch", ["cnn", "preresnet18"])
def test_fedavg_is_heterofl_of_one_level_without_masks_and_scaler(arch: str) -> None:
    """Bit for bit, over two rounds."""
    switches: dict[str, Any] = {"masked_loss": "none", "label_restricted": False, "scaler": False}
    settings: dict[str, Any] = {"partition": "non-iid-2", "num_clients": 10, "participation": 0.3}
    results = []
    for method, off in (("fedavg", {}), ("heterofl", switches)):
        federation = federation_of(method, arch, levels="d", **settings, **off)
        weights = federation.initial_weights()
        for t in (1, 2):
            weights, _ = federation.run_round(weights, t, workers=1)
        assert weights.personal == {}
        results.append(weights.shared)
    assert_identical(*results)


def test_fedavg_of_level_a_is_heterofl_of_level_a_without_masks_and_scaler() -> None:
    switches: dict[str, Any] = {"masked_loss": "none", "label_restricted": False, "scaler": False}
    first, second = (
        federation_of(method, "cnn", levels="a", batch_size=10, **off)
        for method, off in (("fedavg", {}), ("heterofl", switches))
    )
    results = [
        federation.run_round(federation.initial_weights(), 1, workers=1)[0].shared
        for federation in (first, second)
    ]
    assert_identical(*results)


def test_baselines_know_neither_masks_nor_the_scaler() -> None:
    for method in ("fedavg", "standalone", "lg-fedavg"):
        params = federation_of(method).params
        assert (params.masked_loss, params.label_restricted, params.scaler) == ("none", False, False)


# Standalone


def test_a_round_of_standalone_moves_nothing_but_the_active_clients_own_parameters() -> None:
    federation = federation_of("standalone", arch="cnn")
    before = federation.initial_weights()
    after, summary = federation.run_round(before, 1, workers=1)
    assert before.personal == {}
    assert_identical(after.shared, before.shared)
    updates = own_updates(federation, before, 1)
    assert list(after.personal) == federation.active_clients(1)
    for client, own in after.personal.items():
        assert list(own) == list(before.shared)
        for name, value in own.items():
            np.testing.assert_array_equal(value, updates[client][name])
            assert not torch.equal(value, before.shared[name])
    assert (summary.bytes_down, summary.bytes_up) == (0, 0)


def test_a_standalone_client_goes_on_from_its_own_parameters_and_the_others_keep_theirs() -> None:
    federation = federation_of("standalone", participation=0.5)
    weights = federation.initial_weights()
    first, _ = federation.run_round(weights, 1, workers=1)
    t = next(
        t
        for t in range(2, 50)
        if 0 < len(set(federation.active_clients(t)) & set(federation.active_clients(1))) < 3
    )
    second, _ = federation.run_round(first, t, workers=1)
    (again, *_) = set(federation.active_clients(t)) & set(federation.active_clients(1))
    (resting, *_) = set(federation.active_clients(1)) - set(federation.active_clients(t))
    (new, *_) = set(federation.active_clients(t)) - set(federation.active_clients(1))
    assert_identical(second.personal[resting], first.personal[resting])
    task = federation.client_task(first, t, again, "e", federation.task.share(again), {})
    for name, value in first.personal[again].items():
        np.testing.assert_array_equal(task.model.parameters[name], value)
    fresh = federation.client_task(first, t, new, "e", federation.task.share(new), {})
    for name, value in weights.shared.items():
        np.testing.assert_array_equal(fresh.model.parameters[name], value)
    assert set(second.personal) == set(first.personal) | set(federation.active_clients(t))
    updates = own_updates(federation, first, t)
    for name, value in second.personal[again].items():
        np.testing.assert_array_equal(value, updates[again][name])


# LG-FedAvg


@pytest.mark.parametrize("shared_layers", [1, 2])
def test_a_round_of_lg_fedavg_averages_the_last_layers_only(shared_layers: int) -> None:
    federation = federation_of("lg-fedavg", shared_layers=shared_layers)
    before = federation.initial_weights()
    after, summary = federation.run_round(before, 1, workers=1)
    updates = own_updates(federation, before, 1)
    last = {f"layers.{layer}.{name}" for layer in (3, 4)[-shared_layers:] for name in ("weight", "bias")}
    assert federation.shared == last
    for name, value in after.shared.items():
        if name in last:
            stacked = np.stack([update[name] for update in updates.values()]).astype(np.float64)
            np.testing.assert_array_equal(value, stacked.mean(axis=0).astype(np.float32))
            assert not torch.equal(value, before.shared[name])
        else:
            assert torch.equal(value, before.shared[name])
    assert list(after.personal) == federation.active_clients(1)
    for client, own in after.personal.items():
        assert set(own) == set(before.shared) - last
        for name, value in own.items():
            np.testing.assert_array_equal(value, updates[client][name])
    size = 2 * sum(4 * before.shared[name].numel() for name in last)  # two active clients
    assert (summary.bytes_down, summary.bytes_up) == (size, size)


def test_an_lg_fedavg_client_receives_the_shared_layers_and_keeps_its_own() -> None:
    federation = federation_of("lg-fedavg", participation=0.5)
    weights, _ = federation.run_round(federation.initial_weights(), 1, workers=1)
    client = federation.active_clients(1)[0]
    task = federation.client_task(weights, 2, client, "e", federation.task.share(client), {})
    for name, value in task.model.parameters.items():
        expected = weights.shared[name] if name in federation.shared else weights.personal[client][name]
        np.testing.assert_array_equal(value, expected)


def test_lg_fedavg_that_shares_every_layer_is_fedavg() -> None:
    both = (federation_of("lg-fedavg", shared_layers=9), federation_of("fedavg"))
    first, second = (federation.run_round(federation.initial_weights(), 1, 1)[0] for federation in both)
    assert_identical(first.shared, second.shared)
    assert first.personal == second.personal == {}
    lg, fed = (federation.evaluate(first, workers=1) for federation in both)
    assert lg["global_accuracy"] == fed["global_accuracy"]  # one model, not an ensemble


# Evaluation


@pytest.mark.parametrize("method", ["standalone", "lg-fedavg"])
def test_personal_models_are_evaluated_each_with_its_own_parameters(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of clients that never trained are the first ones."""
    federation = federation_of(method)
    weights, _ = federation.run_round(federation.initial_weights(), 1, workers=1)
    seen: dict[int, dict[str, np.ndarray]] = {}

    def remember(_: Classification, models: dict[int, Any], workers: int) -> dict[str, float]:
        seen.update({client: copy.parameters for client, copy in models.items()})
        return {"workers": workers}

    monkeypatch.setattr("heterofl_core.federation.evaluate_personal", remember)
    assert federation.evaluate(weights, workers=2) == {"workers": 2}
    assert list(seen) == list(range(CLIENTS))
    for client, parameters in seen.items():
        for name, value in parameters.items():
            personal = client in weights.personal and name not in federation.shared
            expected = weights.personal[client][name] if personal else weights.shared[name]
            np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("method", ["standalone", "lg-fedavg"])
def test_the_number_of_workers_changes_neither_personal_parameters_nor_accuracies(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two clients a job, so that there are jobs for two workers."""
    monkeypatch.setattr("heterofl_core.personal.GROUP", 2)
    federation = federation_of(method, levels="d")
    weights = [federation.run_round(federation.initial_weights(), 1, workers)[0] for workers in (1, 2)]
    assert_identical(weights[0].shared, weights[1].shared)
    for client, own in weights[0].personal.items():
        assert_identical(own, weights[1].personal[client])
    here, elsewhere = (federation.evaluate(weights[0], workers) for workers in (1, 2))
    assert here == elsewhere
    assert set(here) == {"global_accuracy", "local_accuracy"}


@pytest.mark.parametrize("method", ["heterofl", "fedavg"])
def test_methods_that_share_everything_are_evaluated_as_one_model(method: str) -> None:
    federation = federation_of(method, arch="cnn")
    weights = federation.initial_weights()
    options = federation.model_options("e", federation.task.sizes)
    model = ModelCopy("cnn", options, {name: value.numpy() for name, value in weights.shared.items()})
    assert federation.evaluate(weights, workers=1) == federation.task.evaluate(model, workers=1)
