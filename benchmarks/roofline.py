"""What a local step must do at least, how fast this machine can do it, and the fraction of that reached.

    python -m benchmarks.roofline

The roofline (Williams, Waterman and Patterson, 2009): a step cannot end before its multiply-adds at the peak
of this machine, nor before its bytes at the bandwidth of the smallest memory that holds what it works on;
both are measured. The larger of the two times is the floor. It counts convolutions, products of matrices,
and what layers with parameters read and write. Scaler, activation functions, dropout, pooling, masks and
softmax are free, as if they were done on the way. One core, the paper's schedule; the Transformer has the
words of one client.

The peak is the better one of a product of matrices and of a convolution: on some processors PyTorch hands
products in float32 to a library that does not use their widest vectors, and convolutions to one that does.

Prints the peaks and the table, and writes `outputs/bench/roofline.csv`, with the peaks in `machine.json`.
Leave the machine alone meanwhile.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench import DATASETS, Ours, ways
from benchmarks.results import has_bf16, write_machine, write_table
from heterofl_core.clients import ClientTask, client_update
from heterofl_core.cost import cost_table, model_cost
from heterofl_core.estimate import work_of
from heterofl_core.executor import side_by_side
from heterofl_core.levels import LEVELS
from heterofl_core.models import build_model
from heterofl_core.params import RunParams, run_params
from heterofl_core.timings import BACKWARD, STEPS, client_options, example, shortest, timed_task
from heterofl_core.vectorised import ON_CPU, group_update, in_groups

FLOAT = 4  # bytes
ACTIVATION = {"fp32": 4, "bf16": 2}  # bytes
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHOWN = ("a", "c", "e")  # levels; each needs its programs
PRODUCT = 2048  # rows and columns of the matrices of a product
CONVOLUTION = (10, 256, 16)  # images, channels in and out, and height and width; 3×3 kernels
MEASURED_SECONDS = 0.5  # of each peak
COPIED = 1 / 8
"""Of a cache, what is copied: tensor and copy then fit, even beside those of another process."""
MEMORY_MB = 256.0
"""What is copied in memory: more than any cache holds."""
TOUCHED = 8
"""Times that a step reads or writes each parameter: the value is read in the forward and in the backward
pass, the gradient written and read, the momentum read and written, the value read and written."""
HELD = 3  # values for each parameter: its own, its gradient and its momentum
PASSED = 4
"""Times that a step reads or writes each activation: it is written and read in the forward pass, and its
gradient is in the backward pass."""


@dataclass(frozen=True)
class Peaks:
    """What processes of one thread each reach together.

    Attributes:
        processes: that measured at the same time.
        gflops: of a matrix product, 10^9 floating-point operations a second, by precision.
        gbytes: of copies, 10^9 bytes read or written a second, by the memory that holds them.
    """

    processes: int
    gflops: dict[str, float]
    gbytes: dict[str, float]


def repetitions_a_second(function: Callable[[], object]) -> float:
    """How often a function can be called in a second, after some calls to warm up."""
    for _ in range(3):
        function()
    calls, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < MEASURED_SECONDS:
        function()
        calls += 1
    return calls / passed


def product_gflops(precision: str) -> float:
    """10^9 floating-point operations a second of a product of square matrices."""
    left, right = (torch.rand(PRODUCT, PRODUCT).to(KINDS[precision]) for _ in range(2))
    result = torch.empty(PRODUCT, PRODUCT, dtype=KINDS[precision])
    return repetitions_a_second(lambda: torch.mm(left, right, out=result)) * 2 * PRODUCT**3 / 1e9


def convolution_gflops(precision: str) -> float:
    """10^9 floating-point operations a second of a 3×3 convolution, not counting those on the margin."""
    images, channels, size = CONVOLUTION
    inputs = torch.rand(images, channels, size, size).to(KINDS[precision], memory_format=torch.channels_last)
    kernels = torch.rand(channels, channels, 3, 3).to(KINDS[precision], memory_format=torch.channels_last)
    taps = (
        3 * size - 2
    ) ** 2  # in each direction all pixels have 3 neighbours, itself included, but two have 2
    flops = 2 * images * channels**2 * taps
    return repetitions_a_second(lambda: F.conv2d(inputs, kernels, padding=1)) * flops / 1e9


def copy_gbytes(size_mb: float) -> float:
    """10^9 bytes a second, read and written, of a copy of a tensor."""
    source = torch.rand(round(size_mb * 2**20 / FLOAT))
    target = torch.empty_like(source)
    return repetitions_a_second(lambda: target.copy_(source)) * 2 * source.nbytes / 1e9


@torch.no_grad()
def peaks_of_one(_: int) -> tuple[dict[str, float], dict[str, float]]:
    """The peaks of a process with one thread: those of arithmetic, and those of copies."""
    gflops = {}
    for precision in KINDS if has_bf16() else ("fp32",):
        gflops[f"{precision} product"] = product_gflops(precision)
        gflops[f"{precision} convolution"] = convolution_gflops(precision)
    sizes = {name: COPIED * size_mb for name, size_mb in caches_mb().items()} | {"memory": MEMORY_MB}
    return gflops, {memory: copy_gbytes(size_mb) for memory, size_mb in sizes.items()}


def peaks(processes: int) -> Peaks:
    """The peaks of some processes that run side by side, added up."""
    side_by_side(copy_gbytes, [1.0] * processes, processes)  # once they are there, all start at the same time
    found = side_by_side(peaks_of_one, range(processes), processes)

    def total(part: int) -> dict[str, float]:
        return {name: sum(one[part][name] for one in found) for name in found[0][part]}

    return Peaks(processes, total(0), total(1))


def caches_mb() -> dict[str, float]:
    """Sizes of a core's L2 and L3 caches in units of 2^20 bytes; usual ones where Linux does not tell."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    try:
        return {
            f"L{level}": int((folder / f"index{level}" / "size").read_text().removesuffix("K\n")) / 1024
            for level in (2, 3)
        }
    except (OSError, ValueError):
        return {"L2": 1.0, "L3": 32.0}


@dataclass(frozen=True)
class StepWork:
    """What a local step must do.

    Attributes:
        flops: floating-point operations, two for each multiply-accumulate, of the forward pass and of a
            backward pass with twice as many.
        moved_mb: read or written, in units of 2^20 bytes.
        held_mb: what it works on.
    """

    flops: float
    moved_mb: float
    held_mb: float


def step_work(params: RunParams, level: str) -> StepWork:
    """The work of a step of one client in the run's precision, from the shapes of the model alone."""
    batch, model_options = work_of(params).batch, client_options(params, level)
    cost = model_cost(params.arch, example(params), **model_options)
    outputs = ACTIVATION[params.precision] * batch * activations(params, model_options)
    parameters = FLOAT * cost.parameters
    return StepWork(
        flops=(1 + BACKWARD) * 2 * (cost.macs + cost.attention_macs) * batch,
        moved_mb=(TOUCHED * parameters + PASSED * outputs) / 2**20,
        held_mb=(HELD * parameters + outputs) / 2**20,
    )


def activations(params: RunParams, model_options: dict[str, Any]) -> int:
    """Numbers that leave the layers with parameters, for one example; nothing is computed."""
    with torch.device("meta"):
        model = build_model(params.arch, **model_options)
    sizes: list[int] = []

    def count(_: nn.Module, __: Any, output: Tensor) -> None:
        sizes.append(output.numel())

    for layer in model.modules():
        if list(layer.parameters(recurse=False)):
            layer.register_forward_hook(count)
    model(example(params))
    return sum(sizes)


def home(held_mb: float, caches: dict[str, float]) -> str:
    """The smallest memory that holds so much: the name of a cache, or `memory`."""
    return next((name for name, size_mb in caches.items() if held_mb <= size_mb), "memory")


def floors_ms(work: StepWork, precision: str, peaks: Peaks, caches: dict[str, float]) -> tuple[float, float]:
    """Milliseconds that the arithmetic of a step takes at least, and those that its bytes do."""
    gflops = max(peaks.gflops[f"{precision} {kind}"] for kind in ("product", "convolution"))
    gbytes = peaks.gbytes[home(work.held_mb, caches)]
    return work.flops / gflops / 1e6, work.moved_mb * 2**20 / gbytes / 1e6


def step_ms(params: RunParams, level: str, way: Ours) -> float:
    """Milliseconds of a local step on one core, without what a client does once: the difference between one
    and four local epochs counts.
    """
    task = replace(timed_task(params, level), precision=way.precision)
    few, many = (update_seconds(replace(task, local_epochs=epochs), way.engine) for epochs in (1, 4))
    return 1000 * (many - few) / (3 * STEPS)


def update_seconds(task: ClientTask, engine: str) -> float:
    """Seconds of a client's update on one core; of one in a group, where the engine makes groups."""
    if engine == "plain":
        return shortest(client_update, task)
    group = in_groups([replace(task, client=number) for number in range(ON_CPU)])[0]
    return shortest(group_update, group) / len(group.tasks)


def row(dataset: str, level: str, way: Ours, peaks: Peaks) -> dict[str, Any]:
    """A row of the table."""
    params = run_params(dataset=dataset, levels=level, precision=way.precision)
    work, caches = step_work(params, level), caches_mb()
    compute, memory = floors_ms(work, way.precision, peaks, caches)
    measured = step_ms(params, level, way)
    return {
        "arch": params.arch,
        "level": level,
        "execution": str(way),
        "mflop": work.flops / 1e6,
        "moved_mb": work.moved_mb,
        "held_mb": work.held_mb,
        "home": home(work.held_mb, caches),
        "compute_ms": compute,
        "memory_ms": memory,
        "floor_ms": max(compute, memory),
        "measured_ms": measured,
        "fraction": max(compute, memory) / measured,
    }


def vocabularies() -> list[dict[str, Any]]:
    """What a client of WikiText2 receives in a round with all words, and with its own."""
    table = cost_table("transformer").set_index("Model").loc[list(LEVELS)]
    return [
        {
            "level": level,
            "all words (MB)": row["whole_mb"],
            "own words (MB)": row["own_mb"],
            "ratio": row["whole_mb"] / row["own_mb"],
        }
        for level, row in table.iterrows()
    ]


def main() -> None:
    """Measures the peaks and all steps, prints them and writes the tables."""
    write_table("vocabularies", vocabularies())
    alone, together = peaks(1), peaks(joblib.cpu_count())
    columns = {f"{one.processes} processes": one.gflops | one.gbytes for one in (alone, together)}
    print(pd.DataFrame(columns).to_string(float_format="{:.0f}".format), flush=True)
    rows = []
    for dataset, level in itertools.product(DATASETS, SHOWN):
        rows += [row(dataset, level, way, alone) for way in ways(level)]
        table = write_table("roofline", rows)
        write_machine("roofline", peaks=[asdict(alone), asdict(together)])
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))
    print(f"written to {table}")


if __name__ == "__main__":
    main()
