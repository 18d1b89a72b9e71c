"""Where a result comes from: code, versions, machine."""

import ast
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.folders import ROOT
from heterofl_core.processor import processor as processor  # `compiled` and `runs` take it from here

RESULT_MODULES = (
    "captured",
    "classification",
    "clients",
    "cnn",
    "compiled",
    "data",
    "decoded",
    "engines",
    "examples",
    "executor",
    "federation",
    "heterofl",
    "language",
    "layers",
    "levels",
    "local_step",
    "methods",
    "mlp",
    "models",
    "parquet",
    "partition",
    "personal",
    "pooling",
    "preresnet",
    "randomness",
    "runs",
    "selection",
    "sliceable",
    "statistics",
    "tasks",
    "text",
    "transformer",
    "vectorised",
)
"""The modules that can change a result. Parameters cannot, since a record holds them all; what else is in
`params`, `records` and `checkpoints` (a window's length, how many clients are active, which rounds are
evaluated, which one is best, the order of the tensors that a run goes on with) is held fast by tests.
"""

PACKAGES = ("torch", "numpy", "scikit-learn", "joblib")
"""The packages that can change a result."""


def code_hash() -> str:
    """A hash of the code that can change results; comments, docstrings and layout do not count."""
    return str(code()["code_hash"])


@functools.cache
def code() -> dict[str, Any]:
    """The hash of the code, and the commit that holds it, as they were when a process read the code.

    What is edited or committed while a run goes on, or waits for its turn, is not what made it.
    """
    status = git("status", "--porcelain", "--", "heterofl_core", "params", "book/experiments")
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "code_hash": hashed(RESULT_MODULES),
    }


def check_unchanged() -> None:
    """For a process that starts others: raises an `InputError` if they would read other code than it did."""
    if hashed(RESULT_MODULES) != code_hash():
        raise InputError("code that can change results was changed since this command began; start it again")


def check_code(of_run: str) -> None:
    """For a process that a run started: raises an `InputError` if the code was changed in between.

    Args:
        of_run: the hash of the code that the run read.
    """
    if of_run != code_hash():
        raise InputError("the code was changed while the run went on, which must be started again")


def hashed(modules: Sequence[str]) -> str:
    """A hash of what some modules mean."""
    digest = hashlib.sha256()
    for module in modules:
        source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
        for piece in meaning(ast.parse(source)):
            digest.update(piece.encode() + b"\0")
    return digest.hexdigest()[:16]


def meaning(node: object) -> Iterator[str]:
    """A syntax tree as text, without docstrings and without what differs between Python versions."""
    if isinstance(node, list):
        yield "["
        for part in node:
            if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)):  # a docstring
                yield from meaning(part)
        yield "]"
    elif isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if value not in (None, []):  # newer versions have more fields, empty where nothing uses them
                yield name
                yield from meaning(value)
        yield ")"
    else:
        yield repr(node)


def provenance() -> dict[str, Any]:
    """Versions, machine and commit, as JSON."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": processor(),
        **code(),
    }


def git(*arguments: str) -> str | None:
    """What git says in this checkout; None where there is no git or no checkout."""
    only_here = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}  # not in one around it
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=ROOT, env=only_here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


code()  # not when a run first asks, which may be long after its modules were read
