"""How much work a run is, in multiply-accumulates, and how long this machine would take for it."""

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch

from heterofl_core.clients import ClientTask, ModelCopy, client_update
from heterofl_core.cost import EXAMPLES, Cost, mix_cost, model_cost
from heterofl_core.examples import SEQUENCE_LENGTH, Examples, ImageExamples, TextExamples
from heterofl_core.executor import on_one_thread
from heterofl_core.federation import round_half_up
from heterofl_core.levels import Mix, width_rate
from heterofl_core.models import build_model
from heterofl_core.params import RunParams
from heterofl_core.runs import is_evaluated

BACKWARD = 2  # a backward pass has about twice the work of a forward pass
CLIENT_WORDS = 3_700  # that one hundredth of WikiText2 has, of 33,279
STEPS = 6  # that are timed


@dataclass(frozen=True)
class Sizes:
    """How large a data set is.

    Attributes:
        shape: of an image, or of a sequence of tokens.
        train, test: examples; for text, sequences.
    """

    shape: tuple[int, ...]
    train: int
    test: int


SIZES = {
    "digits": Sizes((1, 16, 16), 1_437, 360),
    "mnist": Sizes((1, 28, 28), 60_000, 10_000),
    "cifar10": Sizes((3, 32, 32), 50_000, 10_000),
    "wikitext2": Sizes((SEQUENCE_LENGTH,), 32_634, 3_837),
}


@dataclass(frozen=True)
class Estimate:
    """What a run asks for.

    Attributes:
        macs: multiply-accumulates of training and evaluation.
        seconds: on this machine, if nothing else runs on it.
    """

    macs: float
    seconds: float


def estimate(params: RunParams) -> Estimate:
    """The work of a run, and its time from a few timed steps of the same models on this machine."""
    sizes, mix = SIZES[params.dataset], Mix.parse(params.levels)
    text = params.dataset == "wikitext2"
    active = max(round_half_up(params.participation * params.num_clients), 1)
    per_client = sizes.train / params.num_clients
    batch = max(1, params.batch_size // params.num_clients) if text else params.batch_size
    epochs = params.rounds * active * params.local_epochs
    evaluations = sum(is_evaluated(params, number) for number in range(1, params.rounds + 1))
    passes = sizes.test + (sizes.train if params.norm == "sbn" else 0)
    if params.method in ("standalone", "lg-fedavg"):
        passes = sizes.test * params.num_clients + passes - sizes.test

    def cost(level: str) -> Cost:
        return model_cost(params.arch, example(params), width_rate=width_rate(level), **options(params))

    step = sum(
        share * step_seconds(params.arch, params.norm, params.dataset, level, batch)
        for share, level in zip(mix.shares, mix.levels, strict=True)
    )
    forward = forward_seconds(params.arch, params.norm, params.dataset, mix.largest)
    workers = joblib.cpu_count()
    steps = epochs * math.ceil(per_client / batch)
    return Estimate(
        macs=epochs * per_client * (1 + BACKWARD) * mix_cost(mix, cost).macs
        + evaluations * passes * cost(mix.largest).macs,
        seconds=(steps * step + evaluations * passes * forward) / workers,
    )


def example(params: RunParams) -> torch.Tensor:
    """One example on the meta device."""
    if params.dataset == "wikitext2":
        return EXAMPLES["transformer"]
    return torch.empty(1, *SIZES[params.dataset].shape, device="meta")


def options(params: RunParams) -> dict[str, Any]:
    """Options of `build_model` that change the cost."""
    blocks = {"blocks": params.blocks} if params.blocks else {}
    shape = {} if params.dataset == "wikitext2" else {"input_shape": SIZES[params.dataset].shape}
    return {"norm": params.norm, **shape, **blocks}


@functools.cache
def step_seconds(arch: str, norm: str, dataset: str, level: str, batch: int) -> float:
    """Seconds that one local step takes on one core, timed."""
    task = timed_task(arch, norm, dataset, level, batch)
    on_one_thread(client_update, task)  # warm up
    started = time.perf_counter()
    on_one_thread(client_update, task)
    return (time.perf_counter() - started) / STEPS


@functools.cache
def forward_seconds(arch: str, norm: str, dataset: str, level: str) -> float:
    """Seconds that a forward pass takes on one core for one example, timed on a batch of 100."""
    shape = SIZES[dataset].shape
    size = {} if dataset == "wikitext2" else {"input_shape": shape}
    model = build_model(arch, width_rate(level), norm=norm, **size)
    inputs = (
        torch.zeros(10, *shape, dtype=torch.int64) if dataset == "wikitext2" else torch.zeros(100, *shape)
    )

    def forward(x: torch.Tensor) -> None:
        with torch.no_grad():
            model(x)

    on_one_thread(forward, inputs)
    started = time.perf_counter()
    on_one_thread(forward, inputs)
    return (time.perf_counter() - started) / len(inputs)


def timed_task(arch: str, norm: str, dataset: str, level: str, batch: int) -> ClientTask:
    """A client with data of the right shape for a few steps."""
    rng, shape = np.random.default_rng(0), SIZES[dataset].shape
    examples: Examples
    sizes: dict[str, Any]
    if dataset == "wikitext2":
        labels = CLIENT_WORDS
        tokens = rng.integers(0, labels, (batch, STEPS * SEQUENCE_LENGTH))
        examples, sizes = TextExamples(tokens, labels), {"num_tokens": labels}
    else:
        labels = 10
        inputs = rng.integers(0, 256, (STEPS * batch, *shape)).astype(np.uint8)
        ones = np.ones((shape[0], 1, 1))
        examples = ImageExamples(inputs, rng.integers(0, 10, STEPS * batch), ones, ones, dataset == "cifar10")
        sizes = {"input_shape": shape}
    model_options: dict[str, Any] = {"width_rate": width_rate(level), "norm": norm, **sizes}
    parameters = {
        name: value.numpy() for name, value in build_model(arch, **model_options).state_dict().items()
    }
    return ClientTask(
        client=0,
        round=1,
        seed=0,
        model=ModelCopy(arch, model_options, parameters),
        examples=examples,
        held=np.ones(labels, dtype=bool),
        left_out=0,
        upload={},
        masked_loss="zero",
        local_epochs=1,
        batch_size=batch,
        lr=0.01,
        momentum=0.9,
        weight_decay=0.0005,
        clip_norm=1.0,
    )
