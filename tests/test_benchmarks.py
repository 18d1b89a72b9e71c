"""What the benchmarks compute from what they measure, and that the reference computes what ours does."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.classification import Classification
from heterofl_core.clients import ClientTask, ModelCopy, client_update
from heterofl_core.cost import model_cost
from heterofl_core.estimate import CLIENT_WORDS
from heterofl_core.examples import ImageExamples, TextExamples, normalise
from heterofl_core.federation import Federation
from heterofl_core.folders import ROOT
from heterofl_core.models import build_model
from heterofl_core.params import RunParams, run_params
from heterofl_core.randomness import generator

sys.path.append(str(ROOT))  # nothing installs the benchmarks

from benchmarks import bench, bounded, reference, results, roofline
from benchmarks.bench import REFERENCE, Ours, Spread
from benchmarks.reference import Reference, TransformedImages, Windows

FULL_BATCH = 100
"""More than the images of a client: every step then sees all of them, in whatever order."""


def digits(**changes: Any) -> Federation:
    """A federation on the embedded digits in which each local epoch is one step."""
    settings = {"dataset": "digits", "levels": "d-e", "batch_size": FULL_BATCH, "local_epochs": 2}
    return Federation(run_params(**settings | changes))


@pytest.mark.parametrize("partition", ["iid", "non-iid-2"])
def test_a_round_of_the_reference_agrees_with_ours(partition: str) -> None:
    federation = digits(partition=partition)
    weights = federation.initial_weights()
    ours, _ = federation.run_round(weights, 1, workers=1)
    theirs = Reference(federation).run_round(weights.shared, 1)
    assert set(theirs) == set(ours.shared)
    for name, value in ours.shared.items():
        np.testing.assert_allclose(theirs[name], value, rtol=0, atol=1e-5, err_msg=name)
        assert not torch.equal(value, weights.shared[name])  # it was trained


def test_an_update_of_a_transformer_with_the_whole_vocabulary_agrees_with_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One client with four of nine words, without dropout, on the batches that ours drew."""
    monkeypatch.setattr("heterofl_core.transformer.DROPOUT", 0.0)
    words, params = np.array([0, 2, 5, 6]), run_params(dataset="wikitext2", levels="e")
    torch.manual_seed(0)
    whole = build_model("transformer", width_rate=1 / 16, num_tokens=9)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    examples = TextExamples(np.random.default_rng(0).integers(0, 4, (1, 160)), num_tokens=4)
    update = client_update(text_task(part_of(before, words), examples, params))

    rng = reference_batches(examples, words)
    held = torch.from_numpy(np.isin(np.arange(9), words))
    loss = reference.local_update(whole, rng, held, params, lr=0.1)

    assert loss == pytest.approx(update.loss, abs=1e-5)
    after = part_of(whole.state_dict(), words)
    for name, value in update.parameters.items():
        np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-5, err_msg=name)


def part_of(state: dict[str, Tensor], words: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of some words, and of [MASK], and all other parameters."""
    rows = {"token.weight": np.append(words, 9), "linear.weight": words, "linear.bias": words}
    return {name: value.numpy()[rows.get(name, slice(None))] for name, value in state.items()}


def text_task(parameters: dict[str, np.ndarray], examples: TextExamples, params: RunParams) -> ClientTask:
    """A client that knows four words and leaves out five."""
    return ClientTask(
        client=0,
        round=1,
        seed=0,
        model=ModelCopy("transformer", {"width_rate": 1 / 16, "num_tokens": 4}, parameters),
        examples=examples,
        held=np.ones(4, dtype=bool),
        left_out=5,
        upload={},
        masked_loss="zero",
        local_epochs=1,
        batch_size=params.batch_size,
        lr=0.1,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        clip_norm=params.clip_norm,
    )


def reference_batches(examples: TextExamples, words: np.ndarray) -> list[reference.Example]:
    """The batches of client 0 in round 1, in the whole vocabulary."""
    number = torch.from_numpy(np.append(words, 9))
    return [
        {"inputs": number[inputs], "targets": number[targets]}
        for inputs, targets in examples.epoch(100, generator(0, "batches", 1, 0))
    ]


def test_the_global_accuracy_of_the_reference_agrees_with_ours() -> None:
    """Without a norm, since statistics depend on the batches in which they are collected."""
    federation = digits(norm="none")
    weights, _ = federation.run_round(federation.initial_weights(), 1, workers=1)
    model = build_model("cnn", **federation.model_options("d", federation.task.sizes))
    model.load_state_dict(weights.shared)
    expected = federation.evaluate(weights, workers=1)["global_accuracy"]
    assert Reference(federation).global_accuracy(model.eval()) == pytest.approx(expected)


def test_the_reference_masks_each_clients_logits_in_its_local_test() -> None:
    """A model that gives all labels the same negative logit: a mask puts 0 in the place of absent ones, so
    that the first absent label wins, and no image of a label that is held is right.
    """
    federation = digits(partition="non-iid-2")
    linear = nn.Linear(256, 10)
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, -1)
    assert Reference(federation).local_accuracy(nn.Sequential(nn.Flatten(), linear)) == 0


def test_statistics_of_the_reference_are_means_over_batches_of_ten() -> None:
    federation = digits(levels="e")
    model = Reference(federation).model_with_statistics(federation.initial_weights().shared)
    first = model.get_submodule("blocks.0")
    assert isinstance(federation.task, Classification)
    images = federation.task.images(slice(None), augmented=False)
    pixels = normalise(images.inputs, images.mean, images.deviation)
    with torch.no_grad():
        means = [first.get_submodule("convolution")(part).mean((0, 2, 3)) for part in pixels.split(10)]
    expected = torch.stack(means).mean(0)
    torch.testing.assert_close(first.get_buffer("norm.running_mean"), expected, rtol=0, atol=1e-5)


def test_the_reference_takes_few_steps_where_it_is_told_to() -> None:
    federation = digits(batch_size=3, levels="e")
    assert [len(batch["targets"]) for batch in Reference(federation, steps=2).batches(0)] == [3, 3]
    assert isinstance(federation.task, Classification)
    sizes = [len(batch["targets"]) for batch in Reference(federation).batches(0)]
    assert sum(sizes) == len(federation.task.partition.train[0])


def test_images_become_tensors_as_ours_do() -> None:
    inputs = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)
    mean, deviation = (np.array(values).reshape(3, 1, 1) for values in ([120.0, 90, 60], [70.0, 50, 30]))
    images = TransformedImages(inputs, np.arange(4), mean, deviation, augmented=False)
    found = torch.stack([images[number]["inputs"] for number in range(len(images))])
    torch.testing.assert_close(found, normalise(inputs, mean, deviation))
    assert [int(images[number]["targets"]) for number in range(4)] == [0, 1, 2, 3]


def test_augmented_images_are_cropped_from_a_black_margin_and_flipped() -> None:
    image = Image.fromarray(np.arange(1, 17, dtype=np.uint8).reshape(4, 4))
    padded = np.pad(np.asarray(image), 4)
    crops = {padded[top : top + 4, left : left + 4].tobytes() for top in range(9) for left in range(9)}
    found = [np.asarray(reference.cropped(image)).tobytes() for _ in range(400)]
    assert set(found) <= crops
    assert len(set(found)) > 40
    turned = {np.asarray(reference.flipped(image)).tobytes() for _ in range(40)}
    assert turned == {np.asarray(image).tobytes(), np.asarray(image)[:, ::-1].tobytes()}


def test_windows_cover_the_text_in_order_and_mask_a_part_of_it() -> None:
    tokens = torch.arange(2 * 6_410).reshape(2, -1)
    batches = list(Windows(tokens, num_tokens=20_000))
    assert len(batches) == len(Windows(tokens, 20_000)) == 101
    assert torch.equal(torch.cat([batch["targets"] for batch in batches], dim=1), tokens)
    inputs = torch.cat([batch["inputs"] for batch in batches], dim=1)
    masked = inputs == 20_000
    assert torch.equal(inputs[~masked], tokens[~masked])
    assert float(masked.double().mean()) == pytest.approx(0.15, abs=0.02)


def test_the_reference_drops_out_in_training_only() -> None:
    torch.manual_seed(0)
    model = build_model("transformer", width_rate=1 / 16, num_tokens=9)
    tokens = torch.arange(9)[None]
    plain = model.eval()(tokens)
    reference.add_dropout(model)
    assert torch.equal(model(tokens), plain)
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


def test_a_whole_round_lies_on_the_line_through_two_shorter_ones() -> None:
    """Two seconds to begin with, and half a second a step."""
    assert bench.whole_round(2.5, 7.0, steps=10, all_steps=300) == pytest.approx(152.0)
    assert bench.whole_round(2.5, 7.0, steps=10, all_steps=10) == 7.0
    assert bench.whole_round(2.5, 7.0, steps=10, all_steps=1) == 2.5
    assert math.isnan(bench.whole_round(2.5, 2.4, steps=10, all_steps=300))


@pytest.mark.parametrize(("dataset", "steps"), [("mnist", 300), ("cifar10", 250), ("wikitext2", 326)])
def test_steps_of_a_client_in_a_round_of_the_paper(dataset: str, steps: int) -> None:
    assert bench.steps_of_a_client(dataset, "e") == pytest.approx(steps, abs=1)


def test_turns_alternate_and_the_first_does_not_count() -> None:
    order: list[str] = []

    def call(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = bench.take_turns({"x": lambda: call("x"), "y": lambda: call("y")}, repeats=2)
    assert order == ["x", "y"] * 3
    assert found == {"x": [3.0, 5.0], "y": [4.0, 6.0]}


def test_spread_is_the_median_and_the_extremes() -> None:
    assert Spread.of([4.0, 1.0, 2.0]) == Spread(2.0, 1.0, 4.0)
    assert Spread.of([math.nan, 3.0]) == Spread(3.0, 3.0, 3.0)
    assert math.isnan(Spread.of([math.nan]).median)


def rows() -> list[dict[str, Any]]:
    """Of one case: the reference trains 12 s and evaluates 8 s, ours 3 s and, every fourth round, 2 s."""
    way = str(Ours("plain", "fp32"))
    training = {REFERENCE: Spread(12, 10, 14), way: Spread(3, 2, 5)}
    evaluation = {REFERENCE: Spread(8, 8, 8), way: Spread(2, 2, 4)}
    return bench.rows_of("mnist", "e", training, evaluation, eval_every=4)


def test_ratios_and_the_share_of_evaluation_in_the_table() -> None:
    found = {(row["phase"], row["execution"]): row for row in rows()}
    phases = ("training", "evaluation", "round")
    assert [found[phase, "plain fp32"]["ratio"] for phase in phases] == [4.0, 4.0, 20 / 3.5]
    whole = found["round", "plain fp32"]
    assert [whole[name] for name in ("seconds", "fastest", "slowest")] == [3.5, 2.5, 6.0]
    assert [found[phase, REFERENCE]["seconds"] for phase in phases] == [12, 8, 20]
    assert {found[phase, REFERENCE]["ratio"] for phase in phases} == {1.0}


def test_the_printed_table_has_a_column_for_each_way() -> None:
    table = bench.wide(rows())
    assert list(table.columns) == [REFERENCE, "plain fp32"]
    assert table.index[2] == ("mnist", "e", "round")
    assert table.iloc[2].tolist() == ["20 s (18–22)", "3.5 s (2.5–6) ×5.7"]


def test_tables_and_machine_are_written(outputs: Path) -> None:
    path = results.write_table("rounds", rows())
    assert path == outputs / "bench" / "rounds.csv"
    assert len(pd.read_csv(path)) == 6
    results.write_machine("rounds", quick=True)
    written = pd.read_json(results.write_machine("roofline"), typ="series")
    assert written["rounds"]["quick"]
    assert set(written["roofline"]) >= {"device", "cores", "memory_mb", "versions", "git_commit", "date"}


@pytest.mark.usefixtures("outputs")
def test_rows_are_kept_of_other_cases_that_were_measured_in_the_same_way() -> None:
    assert bench.kept([], [], quick=True) == []
    results.write_table("rounds", rows())
    results.write_machine("rounds", quick=True, measured_by=bench.measured_by())
    assert len(bench.kept(["mnist"], ["a"], quick=True)) == 6
    assert bench.kept(["mnist"], ["e"], quick=True) == []
    assert bench.kept(["mnist"], ["a"], quick=False) == []
    results.write_machine("rounds", quick=True, measured_by={"bench.py": "another"})
    assert bench.kept(["mnist"], ["a"], quick=True) == []


def test_active_clients_have_the_levels_in_equal_numbers() -> None:
    federation = bounded.with_equal_levels(digits(levels="a-b-c-d-e"))
    clients = federation.active_clients(bounded.ROUND)
    assert "".join(federation.level(bounded.ROUND, client) for client in clients) == "aabbccddee"


def test_bounded_clients_keep_their_first_batches() -> None:
    federation = digits(levels="e", batch_size=3)
    whole, few = federation.task.share(0), bounded.bounded_share(federation, 2)(0)
    assert isinstance(whole.examples, ImageExamples)
    assert isinstance(few.examples, ImageExamples)
    np.testing.assert_array_equal(few.examples.inputs, whole.examples.inputs[:6])
    np.testing.assert_array_equal(few.examples.labels, whole.examples.labels[:6])
    text = TextExamples(np.arange(400).reshape(2, 200), num_tokens=400)
    some = bounded.first_steps(text, 2, batch_size=100)
    assert isinstance(some, TextExamples)
    assert some.num_tokens == 400
    np.testing.assert_array_equal(some.tokens, text.tokens[:, :128])


def test_a_fifth_of_the_images_is_evaluated(mnist: Path) -> None:
    federation = bounded.bounded_federation(bench.params_of("mnist", "e"))
    assert isinstance(federation.task, Classification)
    assert [len(own) for own in federation.task.partition.test] == [100] * 20
    assert [len(own) for own in federation.task.partition.train] == [600] * 20
    assert bounded.evaluated_share("mnist") == 0.2


def test_arithmetic_of_a_step() -> None:
    """Three passes of the forward pass's size, two operations a multiply-accumulate, ten images."""
    work = roofline.step_work(run_params(dataset="mnist", levels="a"), "a")
    assert work.flops == 3 * 2 * 39_974_912 * 10
    text = roofline.step_work(run_params(dataset="wikitext2", levels="e"), "e")
    cost = model_cost(
        "transformer",
        torch.empty(1, 64, dtype=torch.int64, device="meta"),
        width_rate=1 / 16,
        num_tokens=CLIENT_WORDS,
    )
    assert text.flops == 3 * 2 * (cost.macs + cost.attention_macs)


def test_bytes_of_a_step() -> None:
    """Level e of the CNN by hand: convolution and norm each leave 4 channels of 28², 8 of 14², 16 of 7² and
    32 of 3², and the classifier ten numbers. Parameters stay in float32.
    """
    activations = 2 * (4 * 28**2 + 8 * 14**2 + 16 * 7**2 + 32 * 3**2) + 10
    work = roofline.step_work(run_params(dataset="mnist", levels="e"), "e")
    assert work.moved_mb * 2**20 == 8 * 4 * 6_594 + 4 * 4 * 10 * activations
    assert work.held_mb * 2**20 == 3 * 4 * 6_594 + 4 * 10 * activations
    half = roofline.step_work(run_params(dataset="mnist", levels="e", precision="bf16"), "e")
    assert half.moved_mb * 2**20 == 8 * 4 * 6_594 + 4 * 2 * 10 * activations


def test_the_floor_takes_the_better_peak_and_the_smallest_memory() -> None:
    caches = {"L2": 1.0, "L3": 32.0}
    peaks = roofline.Peaks(
        1, {"fp32 product": 100.0, "fp32 convolution": 200.0}, {"L2": 100.0, "L3": 50.0, "memory": 10.0}
    )
    held = {"L2": 1.0, "L3": 1.5, "memory": 33.0}
    assert {roofline.home(size_mb, caches) for size_mb in held.values()} == set(held)
    for name, milliseconds in {"L2": 10.0, "L3": 20.0, "memory": 100.0}.items():
        work = roofline.StepWork(flops=2e9, moved_mb=1e9 / 2**20, held_mb=held[name])
        assert roofline.floors_ms(work, "fp32", peaks, caches) == pytest.approx((10.0, milliseconds))


def test_operations_of_the_convolution_that_is_timed() -> None:
    """Products with the zeros of the margin do not count."""
    ones = F.conv2d(torch.ones(1, 1, 16, 16), torch.ones(1, 1, 3, 3), padding=1)
    assert int(ones.sum()) == (3 * 16 - 2) ** 2
