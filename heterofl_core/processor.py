"""The processor: what it is called, which instructions it has, and which of its kernels cannot be used.

Processors of one name can differ in their instructions. Libraries choose their kernels by them, and so do the
last digits of what is computed.
"""

import os
import platform
from pathlib import Path

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Sets of instructions of x86 processors, the best first, as Linux names them."""


def processor() -> str:
    """The processor's name, with its best instructions and its cores."""
    names, best = cpuinfo("model name"), instructions()
    behind = f" with {best}" if best else ""
    return f"{names[0]}{behind} ({len(names)} cores)" if names else platform.processor() or platform.machine()


def instructions() -> str | None:
    """The best set of instructions that the processor has; None if it has none of them, or does not say."""
    flags = next(iter(cpuinfo("flags")), "").split()
    return next((name for name in INSTRUCTIONS if name in flags), None)


def lacks_instructions(precision: str, device: str) -> bool:
    """Whether a run would be in bf16 on a processor that has AVX2 at best, and so no instructions for it.

    It would take ten to twenty-five times as long as in fp32, measured for convolutions of 8 to 512 channels.
    """
    return precision == "bf16" and device == "cpu" and instructions() == "avx2"


def cpuinfo(name: str) -> list[str]:
    """What Linux says under a name of each core; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def avoid_faulty_kernels() -> None:
    """Has PyTorch pass over oneDNN's kernels for AVX2, one of which writes beyond its memory.

    It is that of the weights' gradient of a strided 1×1 convolution of less than eight channels, channels
    last: the first shortcut of the residual network at level e. The process ends, or computes with what it
    has overwritten (oneDNN's issue 6035, open in the version that PyTorch 2.13 has). The kernels for AVX take
    half as long again for wide layers, and more than twice as long for narrow ones. Where there is AVX-512,
    none of these is chosen. A limit that is set already stays.
    """
    if instructions() == "avx2":
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")  # read when the first convolution is prepared
