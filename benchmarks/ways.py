"""Essentially different ways to execute the local steps of small models, and what each gives.

    python -m benchmarks.ways

Milliseconds of one core for one step of one client on a batch of 10, on made-up images. Prints a table and
writes outputs/bench/ways.csv.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.results import write_machine, write_table
from heterofl_core.clients import autocast
from heterofl_core.compiled import program_of
from heterofl_core.levels import width_rate
from heterofl_core.local_step import LocalStep, StepKind, together
from heterofl_core.models import build_model
from heterofl_core.vectorised import ON_CPU

BATCH = 10
MODELS = (("cnn", "e"), ("cnn", "c"), ("preresnet18", "e"))
SHAPES = {"cnn": (1, 28, 28), "preresnet18": (3, 32, 32)}
SECONDS = 1.0  # of each measurement
REPEATS = 5

Step = Callable[[], object]


class MatrixConvolution(nn.Conv2d):
    """A convolution as a product of matrices: with a matrix for each client it is one batched product, not a
    convolution in groups.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride)."""
        height, width = (size // step for size, step in zip(x.shape[2:], self.stride, strict=True))
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]
        out = self.weight.flatten(1) @ patches  # (B, out, H · W)
        out = out if self.bias is None else out + self.bias[:, None]
        return out.unflatten(-1, (height, width))


def kind_of(arch: str, level: str, clients: int) -> StepKind:
    """Steps of a level that is the largest of its mix."""
    options = {"width_rate": width_rate(level), "input_shape": SHAPES[arch], "num_labels": 10}
    return StepKind(
        arch=arch,
        options=options,
        batch=(BATCH, *SHAPES[arch]),
        labels=10,
        clients=clients,
        device="cpu",
        masked_loss="zero",
        left_out=0,
        momentum=0.9,
        weight_decay=5e-4,
        clip_norm=1.0,
        precision="fp32",
    )


def plain(kind: StepKind, layout: torch.memory_format = torch.contiguous_format) -> Step:
    """The loop of `clients.client_update`, operation by operation."""
    model = build_model(kind.arch, **kind.options).train().to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)
    images = torch.randn(kind.batch).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, kind.batch[:1])

    def step() -> None:
        with autocast(kind.precision, kind.device):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    return step


def functional(kind: StepKind, compiled: bool = False, matrices: bool = False) -> Step:
    """The step of `local_step.py`, of one client or several, as operations or as a program."""
    local = LocalStep(kind)
    for layer in local.model.modules() if matrices else ():
        if type(layer) is nn.Conv2d:
            layer.__class__ = MatrixConvolution
    run = program_of(kind) if compiled else local
    tensors = list(local.placeholders())
    start = build_model(kind.arch, **kind.options).state_dict()
    tensors[0] = together([start] * kind.clients)
    tensors[2] = torch.randn_like(tensors[2])

    def step() -> None:
        with torch.no_grad():
            tensors[0], tensors[1], _ = run(*tensors)

    return step


def ways(arch: str, level: str) -> Iterator[tuple[str, int, int, Callable[[], Step]]]:
    """A description, threads, clients that one call serves, and what makes the call."""
    one, five = kind_of(arch, level, 1), kind_of(arch, level, ON_CPU)
    yield "plain loop, two threads", 2, 1, lambda: plain(one)
    yield "plain loop, one thread", 1, 1, lambda: plain(one)
    yield (
        "plain loop, channels-last, bf16",
        1,
        1,
        lambda: plain(replace(one, precision="bf16"), torch.channels_last),
    )
    yield "five clients together, convolutions in groups", 1, ON_CPU, lambda: functional(five)
    yield (
        "five clients together, convolutions as matrices",
        1,
        ON_CPU,
        lambda: functional(five, matrices=True),
    )
    yield "whole step compiled", 1, 1, lambda: functional(one, compiled=True)
    yield "whole step compiled, five clients together", 1, ON_CPU, lambda: functional(five, compiled=True)


def milliseconds(make: Callable[[], Step], threads: int) -> float:
    """Of a call, in the middle of some repeats."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    step = make()
    for _ in range(3):
        step()
    found = []
    for _ in range(REPEATS):
        calls, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS / REPEATS:
            step()
            calls += 1
        found.append((time.perf_counter() - started) / calls)
    torch.set_num_threads(before)
    return 1000 * statistics.median(found)


def main() -> None:
    """Measures every way for every model."""
    rows = [
        {
            "arch": arch,
            "level": level,
            "way": way,
            "core_ms": milliseconds(make, threads) * threads / clients,
        }
        for arch, level in MODELS
        for way, threads, clients, make in ways(arch, level)
    ]
    write_table("ways", rows)
    write_machine("ways")
    print(
        pd.DataFrame(rows).pivot_table("core_ms", "way", ["arch", "level"], sort=False).round(2).to_string()
    )


if __name__ == "__main__":
    main()
