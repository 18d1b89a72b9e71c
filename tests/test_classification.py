"""Global and Local accuracy, of one model and of personal ones."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofl_core import classification, personal
from heterofl_core.classification import (
    BATCH,
    PART,
    Classification,
    PartOfData,
    accuracy,
)
from heterofl_core.clients import ModelCopy
from heterofl_core.data import Images
from heterofl_core.examples import ImageExamples, augment, normalise
from heterofl_core.executor import on_one_thread, side_by_side
from heterofl_core.models import build_model
from heterofl_core.params import run_params
from heterofl_core.partition import Partition
from heterofl_core.personal import PersonalModel, evaluate_personal, probabilities_of
from heterofl_core.randomness import generator
from heterofl_core.statistics import collect_statistics


def test_accuracy_is_the_percentage_of_largest_logits_that_are_the_labels() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [7.0, 6.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 0])) == 75.0


DARK, BRIGHT = 0, 200
TEST_LABELS = [0, 0, 1, 1, 2, 2, 0, 1]
TEST_PIXELS = [DARK, DARK, BRIGHT, DARK, BRIGHT, BRIGHT, BRIGHT, BRIGHT]
OWNERS = [0, 1, 0, 1, 1, 2, 2, 2]
HELD = np.array([[True, True, False], [False, True, True], [True, False, True]])


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Classification:
    """Three clients, eight test images of one brightness each, and no norm."""

    def images(pixels: list[int]) -> np.ndarray:
        return np.array(pixels, dtype=np.uint8)[:, None, None, None].repeat(16, axis=2).repeat(16, axis=3)

    data = Images(
        images([DARK, BRIGHT] * 3), np.array([0, 1, 2] * 2), images(TEST_PIXELS), np.array(TEST_LABELS)
    )
    monkeypatch.setattr("heterofl_core.classification.load_images", lambda _: data)
    return task_of(masked_loss="zero")


def task_of(**settings: Any) -> Classification:
    task = Classification(run_params(dataset="digits", levels="e", norm="none", num_clients=3, **settings))
    tests = [np.flatnonzero(np.array(OWNERS) == client) for client in range(3)]
    task.partition = Partition(task.partition.train, tests, HELD)
    return task


def digits_task(**settings: Any) -> Classification:
    return Classification(run_params(dataset="digits", levels="e", **settings))


def copy_of(parameters: dict[str, Tensor], arch: str = "cnn", **options: Any) -> ModelCopy:
    return ModelCopy(arch, options, {name: value.numpy() for name, value in parameters.items()})


def model_of(biases: list[float], brightness: list[float]) -> ModelCopy:
    """A network whose logits are biases plus, for bright images only, `brightness`.

    The mean pixel is 100 and the deviation 100, so dark images become -1, which ReLU takes to 0, and
    bright ones 1, which the first channel of every block hands on.
    """
    options: dict[str, Any] = {
        "width_rate": 1 / 16,
        "norm": "none",
        "input_shape": (1, 16, 16),
        "num_labels": 3,
    }
    zero = {
        name: torch.zeros_like(value) for name, value in build_model("cnn", **options).state_dict().items()
    }
    for block in range(4):
        zero[f"blocks.{block}.convolution.weight"][0, 0, 1, 1] = 1
    zero["linear.weight"][:, 0] = torch.tensor(brightness)
    zero["linear.bias"] += torch.tensor(biases)
    return copy_of(zero, **options)


# Whose images are counted


KNOWN = [True, False, True, True, True, True, True, False]  # 1 and 7: of labels that their clients lack


def give_away(task: Classification, image: int) -> None:
    """Makes a test image nobody's."""
    tests = [own[own != image] for own in task.partition.test]
    task.partition = Partition(task.partition.train, tests, task.partition.held)


def test_every_test_image_has_its_owner_and_is_known_to_it_or_not(by_hand: Classification) -> None:
    assert by_hand.owners().tolist() == OWNERS
    known = by_hand.known()
    assert known.dtype == bool
    assert known.tolist() == KNOWN


def test_nobodys_image_is_not_known_whoever_holds_its_label(by_hand: Classification) -> None:
    """Image 5 has label 2, which the last client, number -1 to numpy, holds."""
    give_away(by_hand, 5)
    assert by_hand.owners().tolist() == [*OWNERS[:5], -1, *OWNERS[6:]]
    assert HELD[-1, TEST_LABELS[5]]
    assert by_hand.known().tolist() == [*KNOWN[:5], False, *KNOWN[6:]]


def test_nobodys_image_counts_in_global_accuracy_only(by_hand: Classification) -> None:
    """Image 5 was right; see below for the others."""
    give_away(by_hand, 5)
    found = by_hand.evaluate(model_of(biases=[3, 2, 1], brightness=[0, 0, 4]), workers=1)
    assert found == {"global_accuracy": 100 * 4 / 8, "local_accuracy": pytest.approx(100 * 3 / 5)}


@pytest.mark.parametrize("partition", ["iid", "non-iid-2", "dirichlet-0.5"])
def test_owners_and_known_follow_from_the_partition(partition: str) -> None:
    task = digits_task(num_clients=20, partition=partition)
    owners, known = task.owners(), task.known()
    assert sorted(np.concatenate(task.partition.test).tolist()) == list(range(len(owners)))
    for client, own in enumerate(task.partition.test):
        assert set(owners[own]) <= {client}
        labels = set(task.data.train_labels[task.partition.train[client]].tolist())
        assert known[own].tolist() == [label in labels for label in task.data.test_labels[own].tolist()]


# One global model


def test_global_accuracy_is_without_masks_over_all_test_examples(by_hand: Classification) -> None:
    """Dark images are taken for label 0 and bright ones for 2: right are images 0, 1, 4, 5."""
    model = model_of(biases=[3, 2, 1], brightness=[0, 0, 4])
    assert by_hand.evaluate(model, workers=1)["global_accuracy"] == 100 * 4 / 8


def test_local_accuracy_masks_absent_labels_and_leaves_out_examples_of_them(by_hand: Classification) -> None:
    """The same network behind masks. Image 1 has label 0, which its client does not hold; image 7 has
    label 1, likewise. Client 0 takes dark for 0 and bright for 0 (3 > 2): image 0 right, 2 wrong. Client 1
    takes dark for 1 and bright for 2: 3 and 4 right. Client 2 takes bright for 2: 5 right, 6 wrong.
    """
    model = model_of(biases=[3, 2, 1], brightness=[0, 0, 4])
    assert by_hand.evaluate(model, workers=1)["local_accuracy"] == pytest.approx(100 * 4 / 6)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(("masked_loss", "expected"), [("zero", 0.0), ("neg_inf", 100 * 4 / 6)])
def test_the_mask_in_local_accuracy_is_the_one_of_training(masked_loss: str, expected: float) -> None:
    """With negative logits everywhere, an absent label's 0 is the largest."""
    model = model_of(biases=[-7, -8, -9], brightness=[0, 0, 4])
    found = task_of(masked_loss=masked_loss).evaluate(model, workers=1)
    assert found["local_accuracy"] == pytest.approx(expected)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("masked_loss", ["none", "detach"])
def test_without_masks_local_accuracy_still_leaves_out_examples_of_absent_labels(masked_loss: str) -> None:
    """Of images 0, 2, 3, 4, 5, 6 the unmasked network gets 0, 4 and 5 right."""
    model = model_of(biases=[3, 2, 1], brightness=[0, 0, 4])
    found = task_of(masked_loss=masked_loss).evaluate(model, workers=1)
    assert found == {"global_accuracy": 50.0, "local_accuracy": 50.0}


def test_evaluation_passes_all_examples_in_order_in_batches_of_equal_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = np.arange(7, dtype=np.uint8)[:, None, None, None]
    examples = ImageExamples(
        inputs, np.zeros(7, int), np.full((1, 1, 1), 100.0), np.full((1, 1, 1), 100.0), augmented=False
    )
    monkeypatch.setattr(classification, "BATCH", 3)
    batches = list(PartOfData(copy_of({}), examples, (0, 0)).batches())
    assert [len(batch) for batch in batches] == [3, 3, 1]
    expected = (torch.arange(7.0) - 100) / 100
    torch.testing.assert_close(torch.cat(batches).flatten(), expected)


def test_statistics_are_counted_in_batches_of_50_and_parts_of_1000() -> None:
    """Neither is a mere matter of speed: both can change a result. While sBN's statistics are counted, each
    layer normalises a batch by the batch's own mean and variance, so what the deeper layers get, and with it
    their statistics, depends on which images stand together. A part's number keys the draws of augmentation.
    """
    assert (BATCH, PART) == (50, 1000)


def test_parts_have_a_fixed_size_and_together_all_images_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits_task()
    assert classification.PART % classification.BATCH == 0  # so batches do not depend on the parts
    monkeypatch.setattr(classification, "PART", 100)
    parts = task.parts(copy_of({}), task.test_images())
    assert [len(part.examples.inputs) for part in parts] == [100, 100, 100, 60]
    assert [part.seed for part in parts] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    together = np.concatenate([part.examples.inputs for part in parts])
    np.testing.assert_array_equal(together, task.data.test_inputs)


def test_evaluation_with_sbn_uses_statistics_of_the_training_data() -> None:
    """For test images unlike them, in other batches; what the model says of each is made its label."""
    task = digits_task()
    copy = initial(task)
    model = copy.build()
    train = task.data.train_inputs
    collect_statistics(
        model,
        [normalise(train[at : at + BATCH], task.mean, task.deviation) for at in range(0, len(train), BATCH)],
    )
    inverted = 16 - task.data.test_inputs
    with torch.no_grad():
        pixels = torch.from_numpy((inverted - task.mean) / task.deviation).float()
        labels = torch.cat([model(image).argmax(dim=1) for image in pixels.split(7)])
    task.data = replace(task.data, test_inputs=inverted, test_labels=labels.numpy())
    assert task.evaluate(copy, workers=1)["global_accuracy"] == 100


def initial(task: Classification, arch: str = "cnn", seed: int = 0) -> ModelCopy:
    """A model with random parameters."""
    torch.manual_seed(seed)
    options = {"width_rate": 1 / 16, **task.sizes}
    return copy_of(build_model(arch, **options).state_dict(), arch, **options)


@pytest.mark.parametrize("augmented", [True, False])
def test_statistics_are_augmented_if_asked_for_and_the_test_images_never(
    monkeypatch: pytest.MonkeyPatch, augmented: bool
) -> None:
    """Two parts of 800 and 637 images; augmentation of a part is keyed by the seed and its number."""
    monkeypatch.setattr(classification, "PART", 800)
    task = digits_task(augmented_statistics=augmented, augmented=not augmented, seed=5)
    copy = initial(task)
    batches = []
    for part, start in enumerate((0, 800)):
        rng = generator(5, "statistics", part)
        own = task.data.train_inputs[start : start + 800]
        for at in range(0, len(own), BATCH):
            inputs = own[at : at + BATCH]
            batches.append(
                normalise(augment(inputs, rng) if augmented else inputs, task.mean, task.deviation)
            )
    model = copy.build()
    collect_statistics(model, batches)
    with torch.no_grad():
        logits = model(normalise(task.data.test_inputs, task.mean, task.deviation))
    expected = accuracy(logits, torch.from_numpy(task.data.test_labels))
    assert task.evaluate(copy, workers=1)["global_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("arch", ["cnn", "preresnet18"])
def test_the_number_of_workers_does_not_change_the_numbers(
    monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    monkeypatch.setattr(classification, "PART", 250)
    task = digits_task(partition="non-iid-2", augmented_statistics=True)
    model = initial(task, arch)
    here, elsewhere = (task.evaluate(model, workers) for workers in (1, 2))
    assert here == elsewhere
    assert 0 < here["global_accuracy"] < 60


# What clients have


@pytest.mark.parametrize("augmented", [True, False])
def test_a_client_has_its_own_images_and_labels(augmented: bool) -> None:
    task = digits_task(partition="non-iid-2", augmented=augmented)
    share, own = task.share(7), task.partition.train[7]
    assert isinstance(share.examples, ImageExamples)
    assert share.examples.augmented == augmented
    np.testing.assert_array_equal(share.examples.inputs, task.data.train_inputs[own])
    np.testing.assert_array_equal(share.examples.labels, task.data.train_labels[own])
    np.testing.assert_array_equal(share.held, task.partition.held[7])
    assert set(np.flatnonzero(share.held)) == set(share.examples.labels)
    assert share.download == {}
    assert {axis: rows.tolist() for axis, rows in share.upload.items()} == {
        "labels": np.flatnonzero(share.held).tolist()
    }
    assert share.left_out == 0
    assert share.sizes == {"input_shape": (1, 16, 16), "num_labels": 10}


def test_rows_of_absent_labels_are_uploaded_if_aggregation_is_not_restricted() -> None:
    assert digits_task(partition="non-iid-2", label_restricted=False).share(7).upload == {}


def test_label_counts_are_those_of_the_training_images(by_hand: Classification) -> None:
    by_hand.partition = Partition([np.array([0, 3]), np.array([1]), np.array([2, 4, 5])], [], HELD)
    assert by_hand.label_counts().tolist() == [[2, 0, 0], [0, 1, 0], [0, 1, 2]]


# Personal models


def test_personal_models_by_hand(by_hand: Classification) -> None:
    """Three models with logits for (dark, bright) images, and their probabilities, summed for Global.

    Model 0 takes dark for 0 and bright for 1; model 1 dark for 1 and bright for 2; model 2 is sure of
    label 2 whatever it sees. Local: image 0 (dark, label 0, of client 0) right; 2 (bright, 1, client 0)
    right; 3 (dark, 1, client 1) right; 4 (bright, 2, client 1) right; 5 (bright, 2, client 2) right; 6
    (bright, 0, client 2) wrong; 1 and 7 have labels that their clients do not hold.
    """
    models = {
        0: model_of(biases=[2, 0, 0], brightness=[-2, 2, 0]),
        1: model_of(biases=[0, 2, 0], brightness=[0, -2, 2]),
        2: model_of(biases=[0, 0, 9], brightness=[0, 0, 0]),
    }
    found = evaluate_personal(by_hand, models, workers=1)
    assert found["local_accuracy"] == pytest.approx(100 * 5 / 6)
    sure, other = np.exp(2) / (np.exp(2) + 2), 1 / (np.exp(2) + 2)  # of models 0 and 1
    assert sure + other < 1 + 2 * other  # so of a dark image, too, the ensemble thinks label 2
    assert found["global_accuracy"] == 100 * 2 / 8


def test_the_ensemble_averages_probabilities_and_not_logits(by_hand: Classification) -> None:
    """One model is very sure of label 2, two are fairly sure of label 0: logits would say 2."""
    fairly, very = [3.0, 0.0, 0.0], [0.0, 0.0, 50.0]
    models = {
        client: model_of(biases, brightness=[0, 0, 0]) for client, biases in enumerate([fairly, very, fairly])
    }
    assert evaluate_personal(by_hand, models, workers=1)["global_accuracy"] == 100 * 3 / 8


def test_a_personal_models_statistics_come_from_its_clients_training_images() -> None:
    task = digits_task(num_clients=3, partition="dirichlet-1", seed=2)
    models = {client: initial(task, seed=client) for client in range(3)}
    test = normalise(task.data.test_inputs, task.mean, task.deviation)
    labels = torch.from_numpy(task.data.test_labels)
    probabilities = torch.zeros(3, len(labels), 10)
    right = total = 0
    for client, copy in models.items():
        model, own = copy.build(), task.partition.train[client]
        inputs = task.data.train_inputs[own]
        collect_statistics(
            model,
            [
                normalise(inputs[at : at + BATCH], task.mean, task.deviation)
                for at in range(0, len(inputs), BATCH)
            ],
        )
        with torch.no_grad():
            probabilities[client] = model(test).softmax(dim=1)
        for image in task.partition.test[client]:
            if task.partition.held[client, labels[image]]:
                total += 1
                right += int(probabilities[client, image].argmax() == labels[image])
    found = evaluate_personal(task, models, workers=1)
    assert found["local_accuracy"] == pytest.approx(100 * right / total, abs=0.5)
    assert found["global_accuracy"] == pytest.approx(accuracy(probabilities.sum(dim=0), labels), abs=0.5)


def test_nobodys_image_counts_for_personal_models_in_global_accuracy_only(by_hand: Classification) -> None:
    """Everybody is sure of label 2, which images 4 and 5 have; of those that count, one in five."""
    give_away(by_hand, 5)
    models = {client: model_of(biases=[0, 0, 9], brightness=[0, 0, 0]) for client in range(3)}
    assert evaluate_personal(by_hand, models, workers=1) == {
        "global_accuracy": 100 * 2 / 8,
        "local_accuracy": pytest.approx(100 * 1 / 5),
    }


def test_a_group_answers_with_the_sum_of_its_probabilities_and_each_clients_own(
    by_hand: Classification,
) -> None:
    biases = {0: [2.0, 0.0, 0.0], 2: [0.0, 1.0, -1.0]}
    nothing = by_hand.images(slice(0, 1), augmented=False)  # there is no norm that needs statistics
    models = [
        PersonalModel(
            client,
            model_of(values, brightness=[0, 0, 0]),
            train=nothing,
            own=by_hand.partition.test[client],
            test=by_hand.test_images(),
            seed=0,
        )
        for client, values in biases.items()
    ]
    together, own = probabilities_of(models)
    each = {client: np.exp(values) / np.exp(values).sum() for client, values in biases.items()}
    np.testing.assert_allclose(together, np.tile(each[0] + each[2], (8, 1)), rtol=1e-6)
    assert together.dtype == np.float64
    assert list(own) == [0, 2]
    for client, probabilities in own.items():
        size = len(by_hand.partition.test[client])
        np.testing.assert_allclose(probabilities, np.tile(each[client], (size, 1)), rtol=1e-6)


def personal_jobs(
    monkeypatch: pytest.MonkeyPatch, task: Classification, models: dict[int, ModelCopy]
) -> list[list[PersonalModel]]:
    """The jobs that an evaluation consists of."""
    seen: list[list[PersonalModel]] = []

    def remember(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> list[Any]:
        seen.extend(jobs)
        return side_by_side(function, jobs, workers)

    with monkeypatch.context() as patch:
        patch.setattr(personal, "side_by_side", remember)
        evaluate_personal(task, models, workers=1)
    return seen


def test_a_job_has_ten_clients_each_with_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits_task(num_clients=23, augmented_statistics=True, seed=4)
    models = {client: initial(task, seed=client) for client in range(23)}
    jobs = personal_jobs(monkeypatch, task, models)
    assert [[one.client for one in job] for job in jobs] == [[*range(10)], [*range(10, 20)], [20, 21, 22]]
    for one in itertools.chain.from_iterable(jobs):
        assert one.model is models[one.client]
        assert one.seed == 4
        assert one.train.augmented
        own = task.data.train_inputs[task.partition.train[one.client]]
        np.testing.assert_array_equal(one.train.inputs, own)
        np.testing.assert_array_equal(one.own, task.partition.test[one.client])
        assert not one.test.augmented
        np.testing.assert_array_equal(one.test.inputs, task.data.test_inputs)


@pytest.mark.parametrize("augmented", [True, False])
def test_neither_workers_nor_groups_change_the_numbers_of_personal_models(
    monkeypatch: pytest.MonkeyPatch, augmented: bool
) -> None:
    task = digits_task(num_clients=5, partition="dirichlet-1", augmented_statistics=augmented)
    models = {client: initial(task, seed=client) for client in range(5)}
    (whole,) = personal_jobs(monkeypatch, task, models)
    found = [evaluate_personal(task, models, workers=1)]
    monkeypatch.setattr(personal, "GROUP", 2)
    parts = personal_jobs(monkeypatch, task, models)
    assert [len(job) for job in parts] == [2, 2, 1]
    together, own = on_one_thread(probabilities_of, whole)
    answers = [on_one_thread(probabilities_of, part) for part in parts]
    for _, group in answers:
        for client, probabilities in group.items():
            np.testing.assert_array_equal(probabilities, own[client])
    np.testing.assert_allclose(np.sum([answer for answer, _ in answers], axis=0), together, rtol=1e-12)
    found += [evaluate_personal(task, models, workers) for workers in (1, 2)]
    assert found[0] == found[1] == found[2]
    assert 0 < found[0]["local_accuracy"] < 60
