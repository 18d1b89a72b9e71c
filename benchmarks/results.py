"""Where benchmarks leave their tables: `outputs/bench/`, with the machine that they were measured on."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from heterofl_core.files import write_text
from heterofl_core.folders import bench_folder
from heterofl_core.processor import instructions
from heterofl_core.provenance import provenance


def write_table(name: str, rows: list[dict[str, Any]]) -> Path:
    """Writes a table to `outputs/bench/` as CSV, whole or not at all."""
    path = bench_folder() / f"{name}.csv"
    write_text(path, pd.DataFrame(rows).to_csv(index=False))
    return path


def write_machine(part: str, **more: Any) -> Path:
    """Writes where and when a table was measured to `outputs/bench/machine.json`.

    Args:
        part: the table's name; what the file says of other tables stays.
        more: what else belongs to the table, as JSON.
    """
    path = bench_folder() / "machine.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps(known | {part: where_and_when() | more}, indent=2) + "\n")
    return path


def where_and_when() -> dict[str, Any]:
    """Processor, cores, memory, versions, commit and time, as JSON."""
    return provenance() | {
        "cores": joblib.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_bf16(),
        "load": os.getloadavg()[0],  # of the last minute: about `cores` if nothing else ran
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    return instructions() in ("amx_bf16", "avx512_bf16")
