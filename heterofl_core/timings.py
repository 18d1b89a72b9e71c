"""Timing this machine: a few steps and forward passes of each model that a run has."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from heterofl_core.clients import ClientTask, ModelCopy, client_update
from heterofl_core.cost import EXAMPLES, client_sizes, mix_cost, model_cost
from heterofl_core.estimate import (
    CLIENT_WORDS,
    Timing,
    Timings,
    keep_timings,
    kept_timings,
    sizes_of,
    timing_name,
    work_of,
)
from heterofl_core.examples import Examples, ImageExamples, TextExamples
from heterofl_core.executor import Job, on_one_thread
from heterofl_core.levels import Mix, width_rate
from heterofl_core.models import build_model
from heterofl_core.params import SEQUENCE_LENGTH, RunParams

BACKWARD = 2  # a backward pass has about twice the work of a forward pass
NUM_LABELS = 10  # of images; how many there are hardly changes the work
STEPS = 6  # that are timed
REPEATS = 4  # of which the first one warms up


def macs_of(params: RunParams) -> float:
    """Multiply-accumulates of training and evaluation of a run, without those of attention as in the paper's
    tables; text is trained on a client's words only.
    """
    mix, work = Mix.parse(params.levels), work_of(params)
    cost = functools.partial(model_cost, params.arch, example(params))
    trained = mix_cost(mix, lambda level: cost(**client_options(params, level)))
    evaluated = cost(width_rate=width_rate(mix.largest), **options(params))
    return work.trained * (1 + BACKWARD) * trained.macs + work.evaluated * evaluated.macs


def example(params: RunParams) -> torch.Tensor:
    """One example on the meta device."""
    if params.dataset == "wikitext2":
        return EXAMPLES["transformer"]
    return torch.empty(1, *sizes_of(params.dataset).shape, device="meta")


def options(params: RunParams) -> dict[str, Any]:
    """Options of `build_model`, as a federation gives them; somebody's own model may need each."""
    blocks = {"blocks": params.blocks} if params.blocks else {}
    if params.dataset == "wikitext2":
        sizes: dict[str, Any] = {}
    else:
        sizes = {"input_shape": sizes_of(params.dataset).shape, "num_labels": NUM_LABELS}
    return {"norm": params.norm, "scale": 1.0, **sizes, **blocks}


def client_options(params: RunParams, level: str) -> dict[str, Any]:
    """Options of `build_model` for a client of a level."""
    return {"width_rate": width_rate(level), **options(params), **client_sizes(params.arch)}


def timings_for(runs: Iterable[RunParams]) -> Timings:
    """The timings that these runs need: those that were kept, and the rest measured and kept, too."""
    timings = kept_timings()
    needed = {
        timing_name(params, level): (params, level)
        for params in runs
        for level in Mix.parse(params.levels).levels
    }
    missing = {name: needed[name] for name in needed.keys() - timings.keys()}
    if missing:
        timings |= {name: measure(*one) for name, one in missing.items()}
        keep_timings(timings)
    return timings


def measure(params: RunParams, level: str) -> Timing:
    """Times the model of one level."""
    return Timing(step_seconds(params, level), forward_seconds(params, level))


def step_seconds(params: RunParams, level: str) -> float:
    """Seconds that one local step takes on one core."""
    return shortest(client_update, timed_task(params, level)) / STEPS


def forward_seconds(params: RunParams, level: str) -> float:
    """Seconds that a forward pass takes on one core for one example, timed on 100 images or on 10
    sequences.
    """
    shape, text = sizes_of(params.dataset).shape, params.dataset == "wikitext2"
    model = build_model(params.arch, width_rate(level), **options(params))
    inputs = torch.zeros(10, *shape, dtype=torch.int64) if text else torch.zeros(100, *shape)

    def forward(x: torch.Tensor) -> None:
        with torch.no_grad():
            model(x)

    return shortest(forward, inputs) / len(inputs)


def shortest(function: Callable[[Job], object], job: Job) -> float:
    """Seconds of a call on one thread: the shortest of a few, since whatever else runs only adds to it."""

    def seconds() -> float:
        started = time.perf_counter()
        on_one_thread(function, job)
        return time.perf_counter() - started

    return min(seconds() for _ in range(REPEATS))


def timed_task(params: RunParams, level: str) -> ClientTask:
    """A client with data of the right shape for a few steps."""
    rng, shape, batch = np.random.default_rng(0), sizes_of(params.dataset).shape, work_of(params).batch
    examples: Examples
    if params.dataset == "wikitext2":
        labels = CLIENT_WORDS
        tokens = rng.integers(0, labels, (batch, STEPS * SEQUENCE_LENGTH))
        examples = TextExamples(tokens, labels)
    else:
        labels = NUM_LABELS
        inputs = rng.integers(0, 256, (STEPS * batch, *shape)).astype(np.uint8)
        ones = np.ones((shape[0], 1, 1))
        examples = ImageExamples(inputs, rng.integers(0, labels, STEPS * batch), ones, ones, params.augmented)
    model_options = client_options(params, level)
    parameters = {
        name: value.numpy() for name, value in build_model(params.arch, **model_options).state_dict().items()
    }
    return ClientTask(
        client=0,
        round=1,
        seed=0,
        model=ModelCopy(params.arch, model_options, parameters),
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
