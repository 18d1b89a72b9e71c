"""Local steps as programs: built once on a machine, kept in the cache, loaded in milliseconds.

Inductor turns a step into C++ and a shared library (AOTInductor). On a GPU a program is a CUDA graph instead;
see `captured.py`.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from heterofl_core.captured import CapturedStep
from heterofl_core.errors import InputError
from heterofl_core.files import atomic, sweep
from heterofl_core.folders import cache_folder
from heterofl_core.local_step import LocalStep, StepKind
from heterofl_core.pooling import POOLING
from heterofl_core.provenance import check_code, code_hash, processor

Step = Callable[..., Any]
"""What `LocalStep.__call__` takes and gives."""


def compiler() -> str | None:
    """The C++ compiler that Inductor would use, if there is one."""
    return next(
        filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))), None
    )


@functools.cache
def compiler_version() -> str:
    """What the compiler says of itself, which decides how a program rounds; empty if there is none."""
    if (found := compiler()) is None:
        return ""
    return subprocess.run([found, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


@functools.lru_cache(maxsize=64)
def program(key: str) -> Step:
    """The program of a kind of steps, as JSON; built if it is not in the cache.

    Raises:
        InputError: it could not be built or kept, or what was kept is damaged.
    """
    kind = StepKind.from_json(json.loads(key))
    if kind.device == "cuda":
        return CapturedStep(kind)
    path = program_path(kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # two processes would build the same
            if not path.exists():
                sweep(path)
                build_elsewhere(kind, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; use engine 'plain'") from error
    try:
        return torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    except RuntimeError as error:
        raise InputError(f"program {path} is damaged ({error}); delete it, and it is built anew") from error


def program_of(kind: StepKind) -> Step:
    """The program of a kind of steps; see `program`."""
    return program(json.dumps(kind.as_json(), sort_keys=True))


def program_path(kind: StepKind) -> Path:
    """Where the program is kept; its name tells what it depends on."""
    depends = {
        "kind": kind.as_json(),
        "code": code_hash(),
        "torch": torch.__version__,
        "cpu": processor(),
        "compiler": compiler_version(),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "compiled" / f"{kind.arch}_{digest}.pt2"


def build_elsewhere(kind: StepKind, path: Path) -> None:
    """Builds a program in a process of its own: a compiler needs more memory than a client."""
    command = [sys.executable, "-m", "heterofl_core.compiled", str(path)]
    order = json.dumps({"kind": kind.as_json(), "code": code_hash()})
    answer = subprocess.run(command, input=order, capture_output=True, text=True)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"engine 'compiled' cannot build a step of {kind.arch}: {reason}; use engine 'plain'"
        )


def build(kind: StepKind, path: Path) -> None:
    """Builds a program for this CPU; the file appears when it is whole."""
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and needed only here

    torch.set_num_threads(1)
    step = LocalStep(kind)
    placeholders = step.placeholders()
    graph = make_fx(step, decomposition_table=POOLING)(*placeholders)
    exported = torch.export.export(graph, placeholders, strict=False)
    with atomic(path) as new:
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(new), inductor_configs={"cpp.threads": 1}
        )


if __name__ == "__main__":
    order = json.load(sys.stdin)
    try:
        check_code(order["code"])  # the program would be kept under the name of other code
    except InputError as error:
        sys.exit(str(error))
    build(StepKind.from_json(order["kind"]), Path(sys.argv[1]))
