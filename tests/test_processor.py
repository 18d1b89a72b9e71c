"""The processor: its name tells the instructions that decide digits, and its faulty kernels are avoided."""

import os
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.models import build_model
from heterofl_core.processor import avoid_faulty_kernels, processor


@pytest.mark.parametrize(
    ("flags", "machine"),
    [
        ("sse2 avx2 avx512f avx512_bf16", "A processor with avx512_bf16 (2 cores)"),
        ("sse2 avx2", "A processor with avx2 (2 cores)"),
        ("sse2", "A processor (2 cores)"),
    ],
)
def test_a_processor_is_named_with_its_instructions(
    flags: str, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run ended with other digits on two processors that are both called AMD EPYC."""
    (tmp_path / "cpuinfo").write_text(f"model name\t: A processor\nflags\t\t: {flags}\n\n" * 2)
    monkeypatch.setattr("heterofl_core.processor.Path", lambda name: tmp_path / Path(name).name)
    assert processor() == machine


def test_where_there_is_nothing_to_read_the_system_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofl_core.processor.cpuinfo", lambda name: [])
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor() == "arm"


@pytest.mark.parametrize(
    ("instructions", "before", "limit"),
    [("avx2", None, "AVX"), ("avx2", "SSE41", "SSE41"), ("avx512f", None, None), (None, None, None)],
)
def test_only_processors_that_end_with_avx2_are_limited(
    instructions: str | None, before: str | None, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if before:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", before)
    monkeypatch.setattr("heterofl_core.processor.instructions", lambda: instructions)
    avoid_faulty_kernels()
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == limit


def check_gradients() -> None:
    """Ends its process with an error unless each convolution's gradients are, up to rounding, exact."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for level in LEVELS:
        for convolution, inputs in convolutions(level):
            for _ in range(5):  # what is overwritten shows later
                found = gradients(convolution, inputs, torch.float32)
            for one, exact in zip(found, gradients(convolution, inputs, torch.float64), strict=True):
                torch.testing.assert_close(one.double(), exact, rtol=0, atol=float(exact.abs().max()) * 1e-4)


def convolutions(level: str) -> list[tuple[nn.Conv2d, Tensor]]:
    """Those of the residual network, each with what goes into it."""
    seen: list[tuple[nn.Conv2d, Tensor]] = []
    model = build_model("preresnet18", width_rate=width_rate(level))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, inputs: seen.append((module, *inputs)))
    model(torch.randn(10, 3, 32, 32))
    return seen


def gradients(convolution: nn.Conv2d, inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Of the squared outputs' sum, by inputs and weights, channels last as in training."""
    inputs, weight = (
        tensor.detach().to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for tensor in (inputs, convolution.weight)
    )
    outputs = functional.conv2d(inputs, weight, None, convolution.stride, convolution.padding)
    return torch.autograd.grad(outputs.square().sum(), (inputs, weight))


def test_the_residual_networks_convolutions_have_the_gradients_of_double_precision() -> None:
    """In a process of its own, which the kernel that is avoided would end."""
    process = get_context("spawn").Process(target=check_gradients)
    process.start()
    process.join()
    assert process.exitcode == 0
