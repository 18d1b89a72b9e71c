"""The fast twin of the plain loop: the same arithmetic in another order of additions.

How near two such orders must come is a question of its own. A step takes what rounding left behind and makes
it larger: ReLU and max-pooling choose, batch normalisation divides by what may be small, and attention behind
the Scaler of a small level is so sharp that one unit in the last place of float64 grows to a thousandth of
the parameters within a round (a test below shows it, of the plain loop alone). So whole rounds are compared
in float64, and in float32 every step of a round on its own, from the state in which the plain loop took it.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heterofl_core import vectorised
from heterofl_core.clients import ClientTask, ClientUpdate, ModelCopy, client_update, local_epochs
from heterofl_core.examples import Examples, ImageExamples, TextExamples
from heterofl_core.local_step import LocalStep, State, StepKind, apart, together
from heterofl_core.models import build_model
from heterofl_core.selection import LABELS, TOKENS
from heterofl_core.vectorised import (
    Group,
    fast_updates,
    group_update,
    in_groups,
    num_batches,
    with_filled_vocabulary,
    work,
)

RATES = {"a": 1.0, "b": 1 / 2, "c": 1 / 4, "d": 1 / 8, "e": 1 / 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "cnn": {"norm": "sbn", "input_shape": (1, 8, 8), "num_labels": 5},
    "preresnet18": {"norm": "sbn", "input_shape": (3, 8, 8), "num_labels": 5, "blocks": (1, 1, 1, 1)},
    "transformer": {"norm": "ln", "num_tokens": 5},
    "mlp": {"norm": "none", "input_shape": (1, 8, 8), "num_labels": 5},
}
HELD = np.array([True, True, False, True, False])


@dataclass(frozen=True)
class InDouble:
    """Examples whose images are in double precision."""

    examples: ImageExamples

    def epoch(
        self, batch_size: int, rng: np.random.Generator, device: str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.examples.epoch(batch_size, rng, device):
            yield inputs.double(), targets

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        return self.examples.batch_shape(batch_size)

    def whole_batches(self, batch_size: int) -> int:
        return self.examples.whole_batches(batch_size)


def examples_of(arch: str, size: int, client: int) -> Examples:
    """So many images, or two rows of so many times 16 tokens, of the labels that are held."""
    rng = np.random.default_rng(client)
    labels = HELD.nonzero()[0]
    if arch == "transformer":
        return TextExamples(rng.choice(labels, (2, 16 * size)), 5)
    shape = OPTIONS[arch]["input_shape"]
    channels = np.ones((shape[0], 1, 1))
    images = ImageExamples(
        inputs=rng.integers(0, 256, (size, *shape), dtype=np.uint8),
        labels=rng.choice(labels, size),
        mean=120 * channels,
        deviation=70 * channels,
        augmented=arch == "preresnet18",
    )
    return InDouble(images) if torch.get_default_dtype() == torch.float64 else images


def task_of(arch: str, level: str, size: int, client: int = 0, **changes: Any) -> ClientTask:
    """A client with a model of the current default precision; batches of four images, or of 64 tokens."""
    options = {"width_rate": RATES[level], "scale": changes.pop("scale", RATES[level]), **OPTIONS[arch]}
    torch.manual_seed(0)
    state = build_model(arch, **options).state_dict()
    task = ClientTask(
        client=client,
        round=2,
        seed=0,
        model=ModelCopy(arch, options, {name: value.numpy() for name, value in state.items()}),
        examples=examples_of(arch, size, client),
        held=HELD,
        left_out=0,
        upload={LABELS: HELD.nonzero()[0]},
        masked_loss="zero",
        local_epochs=2,
        batch_size=4,
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        clip_norm=1.0,
    )
    return replace(task, **changes)


def scale_of(arch: str, level: str) -> float:
    """The level's own beside level a, but for Transformers: no more than 1/4, for what stands above."""
    return max(RATES[level], 1 / 4) if arch == "transformer" else RATES[level]


def vector(state: Any) -> np.ndarray:
    """All parameters one behind the other."""
    return np.concatenate([np.asarray(value).ravel() for value in state.values()]).astype(np.float64)


def distance(found: Any, expected: Any) -> float:
    """Between two states, relative to the length of the second."""
    return float(np.linalg.norm(vector(found) - vector(expected)) / np.linalg.norm(vector(expected)))


def moved(update: ClientUpdate, task: ClientTask) -> dict[str, np.ndarray]:
    """How far an update went from where it began."""
    axes = task.model.axes()
    return {
        name: value
        - (task.model.parameters[name][HELD] if in_labels(axes[name]) else task.model.parameters[name])
        for name, value in update.parameters.items()
    }


def in_labels(axes: Sequence[Any]) -> bool:
    """Whether the rows of a parameter are labels."""
    return axes[0] is not None and axes[0].name == LABELS


def assert_agrees(found: ClientUpdate, task: ClientTask, tolerance: float) -> None:
    """What was learned, relative to how much that is, and the loss."""
    expected = client_update(task)
    assert found.client == task.client
    assert distance(moved(found, task), moved(expected, task)) < tolerance
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)


# Against the plain loop


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("level", RATES)
@pytest.mark.parametrize("arch", OPTIONS)
def test_a_whole_round_of_a_group_agrees_with_the_plain_loop(arch: str, level: str) -> None:
    """Two local epochs of clients with one, two and three whole batches, each epoch with a smaller one at its
    end, in a group with room for one more; of the largest models, two clients fill their group.
    """
    sizes, size = ((7, 11), 2) if level in "ab" else ((11, 7, 15), 4)
    tasks = tuple(
        task_of(arch, level, images, client, scale=scale_of(arch, level))
        for client, images in enumerate(sizes)
    )
    counts = [images // 4 for images in sizes]
    assert [num_batches(task) for task in tasks] == counts
    for task, update in zip(tasks, group_update(Group(tasks, size, compiled=False)), strict=True):
        assert_agrees(update, task, 1e-9)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("images", [3, 8, 11])
@pytest.mark.parametrize("arch", OPTIONS)
def test_a_client_alone_agrees_with_the_plain_loop(arch: str, images: int) -> None:
    """With no whole batch, with nothing else, and with both."""
    task = task_of(arch, "c", images)
    (update,) = group_update(Group((task,), 1, compiled=False))
    assert_agrees(update, task, 1e-9)


class Traced(torch.optim.SGD):
    """SGD that remembers parameters and velocity before and after each of its steps."""

    trace: list[tuple[list[Tensor], list[Tensor], list[Tensor]]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        before = [value.detach().clone() for value in parameters]
        velocity = [
            self.state[value].get("momentum_buffer", torch.zeros_like(value)).clone() for value in parameters
        ]
        super().step(closure)
        self.trace.append((before, velocity, [value.detach().clone() for value in parameters]))


Step = tuple[State, State, tuple[Tensor, tuple[Tensor, ...], Tensor], State]
"""Parameters and velocity before a step, its batch, and the parameters after it."""


def steps_of(task: ClientTask, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps of the plain loop."""
    with monkeypatch.context() as patch:
        patch.setattr(Traced, "trace", [], raising=False)
        patch.setattr(torch.optim, "SGD", Traced)
        client_update(task)
        trace = list(Traced.trace)
    model = task.model.build()
    names = list(task.model.parameters)
    batches = list(itertools.chain.from_iterable(local_epochs(task, model)))
    return [
        (
            dict(zip(names, before, strict=True)),
            dict(zip(names, velocity, strict=True)),
            batch,
            dict(zip(names, after, strict=True)),
        )
        for (before, velocity, after), batch in zip(trace, batches, strict=True)
    ]


@pytest.mark.parametrize("level", RATES)
@pytest.mark.parametrize("arch", OPTIONS)
def test_every_step_of_a_round_in_float32_agrees_with_the_plain_loop(
    arch: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each from the state in which the plain loop took it; three clients together, or one if it is large."""
    number, size = (1, 7) if level in "ab" else (3, 11)
    tasks = [task_of(arch, level, size, client, scale=scale_of(arch, level)) for client in range(number)]
    step = LocalStep(StepKind.of(tasks[0], clients=number))
    held, yes, lr = torch.from_numpy(HELD), torch.tensor(True), torch.tensor(0.05)
    traces = [steps_of(task, monkeypatch) for task in tasks]
    with torch.no_grad():
        for now in zip(*traces, strict=True):
            put_in = [(before, velocity, *batch, held, yes) for before, velocity, batch, _ in now]
            after, _, _ = step(*together(put_in), lr)
            for place, (before, _, _, expected) in enumerate(now):
                found = apart(after, place) if number > 1 else after
                assert distance(found, expected) < 1e-6
                assert distance(change(found, before), change(expected, before)) < 1e-3


def change(after: State, before: State) -> State:
    """What a step added to the parameters."""
    return {name: value - before[name] for name, value in after.items()}


@pytest.mark.parametrize("level", RATES)
def test_a_round_of_a_transformer_that_is_its_own_global_model_agrees_in_float32(level: str) -> None:
    """Without Scaler it is smooth enough for a whole round."""
    tasks = tuple(
        task_of("transformer", level, size, client, scale=1.0) for client, size in enumerate((7, 11))
    )
    for task, update in zip(tasks, group_update(Group(tasks, 2, compiled=False)), strict=True):
        assert distance(update.parameters, client_update(task).parameters) < 1e-6


def nudged(task: ClientTask, seed: int) -> ClientTask:
    """The same with every parameter one unit in the last place away, up or down."""
    rng = np.random.default_rng(seed)
    parameters = {
        name: np.nextafter(
            value, np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf).astype(value.dtype)
        )
        for name, value in task.model.parameters.items()
    }
    return replace(task, model=replace(task.model, parameters=parameters))


@pytest.mark.usefixtures("in_double")
def test_no_other_order_of_additions_could_agree_over_a_round_where_the_plain_loop_does_not() -> None:
    """A Transformer at level e beside level a, whose Scaler divides by 1/16: the last place of float64 grows
    by ten orders of magnitude within a round of the plain loop, and the fast twin differs by no more.
    """
    task = task_of("transformer", "e", 15)
    expected = client_update(task).parameters
    own = [distance(client_update(nudged(task, seed)).parameters, expected) for seed in range(3)]
    (update,) = group_update(Group((task,), 1, compiled=False))
    assert min(own) > 1e-6
    assert distance(update.parameters, expected) < 10 * max(own)


def test_bf16_agrees_with_the_plain_loop_as_far_as_bf16_goes() -> None:
    """Both round products to eight bits, not always the same way; each differs more from float32."""
    task = task_of("mlp", "c", 11, precision="bf16")
    exact = moved(client_update(replace(task, precision="fp32")), task)
    plain = moved(client_update(task), task)
    (update,) = group_update(Group((task,), 1, compiled=False))
    assert distance(moved(update, task), plain) < distance(plain, exact) / 2
    assert 1e-4 < distance(plain, exact) < 0.2


# Groups


def sketch(client: int, arch: str, level: str, size: int, device: str = "cpu", epochs: int = 1) -> ClientTask:
    """A client whose parameters are one number: enough to be put into a group."""
    options = {"width_rate": RATES[level], "scale": 1.0, **OPTIONS[arch]}
    model = ModelCopy(arch, options, {"weight": np.zeros(round(1000 * RATES[level]))}, device)
    return ClientTask(
        client=client,
        round=1,
        seed=0,
        model=model,
        examples=examples_of(arch, size, client),
        held=HELD,
        left_out=0,
        upload={},
        masked_loss="zero",
        local_epochs=epochs,
        batch_size=4,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.0,
        clip_norm=1.0,
    )


def outline(groups: list[Group]) -> list[tuple[list[int], int, bool]]:
    """Clients, size, and whether compiled, of each group."""
    return [([task.client for task in group.tasks], group.size, group.compiled) for group in groups]


def test_groups_by_hand() -> None:
    """Seven clients with a narrow CNN: five with the fewest batches together, and each of the others alone;
    two with a wider one alone; one without a whole batch alone, and not compiled. The longest work comes
    first: images times parameters, 62 numbers in a narrow model and 125 in a wider one.
    """
    narrow = [
        sketch(client, "cnn", "e", 4 * (10 - client) + 1) for client in range(7)
    ]  # 10, 9, ... 4 batches
    wider = [sketch(7, "cnn", "d", 8), sketch(8, "cnn", "d", 40)]
    groups = in_groups([*wider, sketch(9, "cnn", "e", 3), *narrow])
    assert outline(groups) == [
        ([6, 5, 4, 3, 2], 5, True),  # (4 + 5 + 6 + 7 + 8) · 62
        ([8], 1, True),  # 10 · 125
        ([0], 1, True),  # 10 · 62
        ([1], 1, True),  # 9 · 62
        ([7], 1, True),  # 2 · 125
        ([9], 1, False),
    ]


kinds_of_clients = st.tuples(
    st.sampled_from(list(OPTIONS)), st.sampled_from("ade"), st.integers(1, 19), st.integers(1, 2)
)


@settings(max_examples=60)
@given(st.lists(kinds_of_clients, max_size=30))
def test_all_clients_are_in_one_group_with_others_whose_steps_are_the_same(
    clients: list[tuple[str, str, int, int]],
) -> None:
    tasks = [
        sketch(client, arch, level, size, epochs=epochs)
        for client, (arch, level, size, epochs) in enumerate(clients)
    ]
    groups = in_groups(tasks)
    grouped = [task for group in groups for task in group.tasks]
    assert sorted(task.client for task in grouped) == list(range(len(tasks)))
    works = [work(group) for group in groups]
    assert works == sorted(works, reverse=True)
    for group in groups:
        assert len(group.tasks) == group.size
        assert len({repr((StepKind.of(task, clients=1), task.local_epochs)) for task in group.tasks}) == 1
        assert group.compiled == all(num_batches(task) > 0 for task in group.tasks)
    found = Counter((kind_of(group.tasks[0]), group.size) for group in groups if group.compiled)
    expected: Counter[tuple[tuple[str, str, int], int]] = Counter()
    for kind, number in Counter(kind_of(task) for task in tasks if num_batches(task)).items():
        narrow = kind[:2] in (("cnn", "e"), ("preresnet18", "e"))
        expected[kind, 5] = number // 5 if narrow else 0
        expected[kind, 1] = number % 5 if narrow else number
    assert found == +expected


def kind_of(task: ClientTask) -> tuple[str, str, int]:
    """What tells apart the clients of the test above: all else is the same for all of them."""
    level = next(name for name, rate in RATES.items() if rate == task.model.options["width_rate"])
    return task.model.arch, level, task.local_epochs


def test_clients_of_about_as_many_batches_are_together() -> None:
    """Ten clients in any order: those with fewer whole batches wait for nobody."""
    batches = [3, 9, 1, 8, 2, 7, 4, 6, 5, 10]
    first, second = in_groups(
        [sketch(client, "preresnet18", "e", 4 * each) for client, each in enumerate(batches)]
    )
    assert [num_batches(task) for task in first.tasks] == [6, 7, 8, 9, 10]
    assert [num_batches(task) for task in second.tasks] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(1, [1]), (2, [2]), (3, [4]), (4, [4]), (5, [6]), (7, [8]), (9, [10]), (11, [10, 1]), (25, [10, 10, 6])],
)
def test_groups_on_a_gpu_have_one_of_a_few_sizes(number: int, sizes: list[int]) -> None:
    """The smallest that holds them; a wide model too, and nothing of it needs a GPU here."""
    groups = in_groups([sketch(client, "preresnet18", "a", 8, "cuda") for client in range(number)])
    assert [group.size for group in groups] == sizes
    assert [len(group.tasks) for group in groups] == [
        min(10, number - start) for start in range(0, number, 10)
    ]
    assert all(group.compiled for group in groups)


@pytest.mark.usefixtures("in_double")
def test_the_updates_of_a_round_are_those_of_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clients of several levels and sizes, each once, in the order of their groups."""
    monkeypatch.setattr(vectorised, "program_of", LocalStep)
    levels = "eedeeedee"
    tasks = {
        client: task_of("cnn", level, 3 if client == 4 else 7 + 4 * (client % 2), client)
        for client, level in enumerate(levels)
    }
    updates = list(fast_updates(list(tasks.values()), workers=1))
    assert [update.client for update in updates] == [
        task.client for group in in_groups(list(tasks.values())) for task in group.tasks
    ]
    assert sorted(update.client for update in updates) == list(tasks)
    for update in updates:
        assert_agrees(update, tasks[update.client], 1e-9)


# Vocabularies


def small_vocabulary(masked_loss: str = "zero", left_out: int = 5000) -> ClientTask:
    """A client that has 7 words of 5007; [MASK] is the last row of its embedding, and not sent back."""
    options: dict[str, Any] = {"width_rate": 1 / 16, "scale": 0.25, "norm": "ln", "num_tokens": 7}
    torch.manual_seed(0)
    state = build_model("transformer", **options).state_dict()
    return replace(
        task_of("transformer", "e", 1),
        model=ModelCopy("transformer", options, {name: value.numpy() for name, value in state.items()}),
        examples=TextExamples(np.random.default_rng(0).integers(0, 7, (2, 140)), 7),
        held=np.ones(7, dtype=bool),
        left_out=left_out,
        upload={LABELS: np.arange(7), TOKENS: np.arange(7)},
        masked_loss=masked_loss,
    )


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf"])
def test_words_that_nobody_uses_change_nothing(masked_loss: str) -> None:
    task = small_vocabulary(masked_loss)
    filled = with_filled_vocabulary(task)
    expected = client_update(task)
    for update in (client_update(filled), *group_update(Group((filled,), 1, compiled=False))):
        assert update.loss == pytest.approx(expected.loss, rel=1e-10)
        for name, value in expected.parameters.items():
            np.testing.assert_allclose(update.parameters[name], value, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.usefixtures("in_double")
def test_mask_is_found_behind_a_filled_vocabulary() -> None:
    task = small_vocabulary()
    task = replace(task, upload={**task.upload, TOKENS: np.arange(8)})  # the last is [MASK]
    filled = with_filled_vocabulary(task)
    assert filled.upload[TOKENS].tolist() == [*range(7), 1024]
    np.testing.assert_allclose(
        client_update(filled).parameters["token.weight"],
        client_update(task).parameters["token.weight"],
        rtol=0,
        atol=1e-10,
    )


def test_a_filled_vocabulary_has_rows_of_zeros_before_mask_and_behind_the_labels() -> None:
    task = small_vocabulary()
    filled = with_filled_vocabulary(task)
    before, after = task.model.parameters, filled.model.parameters
    assert filled.model.options["num_tokens"] == 1024
    assert after["token.weight"].shape == (1025, 16)
    np.testing.assert_array_equal(after["token.weight"][[*range(7), -1]], before["token.weight"])
    assert not after["token.weight"][7:-1].any()
    for name in ("linear.weight", "linear.bias"):
        np.testing.assert_array_equal(after[name][:7], before[name])
        assert len(after[name]) == 1024
        assert not after[name][7:].any()
    others = set(before) - {"token.weight", "linear.weight", "linear.bias"}
    assert all(after[name] is before[name] for name in others)
    assert isinstance(filled.examples, TextExamples)
    assert filled.examples.num_tokens == 1024  # [MASK]
    assert filled.held.tolist() == [True] * 7 + [False] * 1017
    assert filled.left_out == 5000 - 1017
    assert [rows.tolist() for rows in filled.upload.values()] == [[*range(7)]] * 2
    kept = {name: getattr(task, name) for name in ("model", "examples", "held", "left_out", "upload")}
    assert replace(filled, **kept) == task
    assert {name: value.shape for name, value in filled.model.build().state_dict().items()} == {
        name: value.shape for name, value in after.items()
    }


@pytest.mark.parametrize("left_out", [0, 1016])
def test_a_vocabulary_that_leaves_too_little_out_stays_as_it_is(left_out: int) -> None:
    """1017 rows would have to come."""
    task = small_vocabulary(left_out=left_out)
    assert with_filled_vocabulary(task) is task
    assert with_filled_vocabulary(small_vocabulary(left_out=1017)).left_out == 0


def test_a_full_multiple_and_images_stay_as_they_are() -> None:
    filled = with_filled_vocabulary(small_vocabulary())
    assert with_filled_vocabulary(filled) is filled
    images = sketch(0, "cnn", "e", 8)
    assert with_filled_vocabulary(images) is images


def test_clients_with_other_numbers_of_words_take_steps_of_one_kind() -> None:
    """Words left out are part of a kind: they are all words but those filled up."""
    one, other = small_vocabulary(left_out=5000), small_vocabulary(left_out=5000)
    options = other.model.options | {"num_tokens": 6}
    rows = {
        name: value[1:] if name in ("token.weight", "linear.weight", "linear.bias") else value
        for name, value in other.model.parameters.items()
    }
    other = replace(
        other,
        model=replace(other.model, options=options, parameters=rows),
        held=np.ones(6, bool),
        left_out=5001,
    )
    assert StepKind.of(one, clients=1) != StepKind.of(other, clients=1)
    kinds = [StepKind.of(with_filled_vocabulary(task), clients=1) for task in (one, other)]
    assert kinds[0] == kinds[1]
