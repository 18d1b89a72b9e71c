"""How much work a run is, and how long this machine would take for it; nothing here needs torch."""

import functools
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import joblib

from heterofl_core.errors import InputError
from heterofl_core.files import write_text
from heterofl_core.folders import cache_folder
from heterofl_core.levels import Mix
from heterofl_core.own import is_own_dataset, known_fingerprints, parquet_files
from heterofl_core.params import SEQUENCE_LENGTH, RunParams
from heterofl_core.processor import processor
from heterofl_core.provenance import code_hash


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

CLIENT_WORDS = 3_759
"""Different words that a client of WikiText2 has on average, of 33,279; a test counts them."""


def sizes_of(dataset: str) -> Sizes:
    """How large a data set is; somebody's own is looked at.

    Raises:
        InputError: it is somebody's own, and is not there or damaged.
    """
    return own_sizes(*parquet_files(dataset)) if is_own_dataset(dataset) else SIZES[dataset]


@functools.cache
def own_sizes(train: Path, test: Path) -> Sizes:
    """The rows of two Parquet files, and the shape of the first image."""
    from PIL import Image
    from pyarrow.parquet import ParquetFile

    try:
        first = next(ParquetFile(train).iter_batches(1, columns=["image"])).to_pylist()[0]["image"]
        with Image.open(io.BytesIO(first["bytes"])) as image:
            shape = (len(image.getbands()), image.height, image.width)
        return Sizes(shape, *(ParquetFile(file).metadata.num_rows for file in (train, test)))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"data files {train} and {test} cannot be read ({error!r})") from error


@dataclass(frozen=True)
class Work:
    """What a run does.

    Attributes:
        steps: local steps of all clients.
        batch: examples of a step.
        trained: examples that pass forward and backward.
        evaluated: examples that pass forward, through the model of the largest level at most.
    """

    steps: int
    batch: int
    trained: float
    evaluated: int


def work_of(params: RunParams) -> Work:
    """The work of a run, from its parameters alone."""
    sizes = sizes_of(params.dataset)
    text = params.dataset == "wikitext2"
    per_client = sizes.train / params.num_clients
    batch = max(1, params.batch_size // params.num_clients) if text else params.batch_size
    epochs = params.rounds * params.num_active * params.local_epochs
    evaluations = sum(params.is_evaluated(number) for number in range(1, params.rounds + 1))
    slices = len(Mix.parse(params.levels).levels) - 1  # of the final model, judged in the end
    passes = sizes.test + (sizes.train if params.norm == "sbn" else 0)
    if params.has_personal_models:
        passes = sizes.test * params.num_clients + passes - sizes.test
    steps, trained = epochs * math.ceil(per_client / batch), epochs * per_client
    return Work(steps, batch, trained, (evaluations + slices) * passes)


@dataclass(frozen=True)
class Timing:
    """What one core of this machine takes for a model.

    Attributes:
        step_seconds: for a local step.
        forward_seconds: for one example, in evaluation.
    """

    step_seconds: float
    forward_seconds: float


Timings = dict[str, Timing]
"""By `timing_name`."""


def timing_name(params: RunParams, level: str) -> str:
    """What a timing depends on; somebody's own model and data by what their files hold."""
    blocks = "".join(map(str, params.blocks or ()))
    data = f"{params.dataset}{' augmented' if params.augmented else ''}"
    own = "".join(f" {digest}" for digest in known_fingerprints(params.dataset, params.arch).values())
    return f"{params.arch}{blocks} {params.norm} {data} {level} {work_of(params).batch}{own}"


def seconds_of(params: RunParams, timings: Mapping[str, Timing], workers: int | None = None) -> float | None:
    """The seconds that a run takes if it has this machine for itself; None if a timing is missing.

    Args:
        workers: processes of the run; None for as many as there are cores.
    """
    mix, work = Mix.parse(params.levels), work_of(params)
    names = [timing_name(params, level) for level in mix.levels]
    if not all(name in timings for name in names):
        return None
    step = sum(share * timings[name].step_seconds for share, name in zip(mix.shares, names, strict=True))
    forward = timings[timing_name(params, mix.largest)].forward_seconds
    cores = min(joblib.cpu_count(), workers or math.inf)
    return work.steps * step / min(cores, params.num_active) + work.evaluated * forward / cores


def timings_path() -> Path:
    """Where the timings of this machine are kept."""
    return cache_folder() / "timings.json"


def timed_on() -> dict[str, str]:
    """What timings belong to: another machine, or other code, takes another time."""
    return {"processor": processor(), "code_hash": code_hash()}


def kept_timings() -> Timings:
    """The timings of this machine and this code that were kept; empty if there are none."""
    try:
        kept = json.loads(timings_path().read_text(encoding="utf-8"))
        if kept["machine"] != timed_on():
            return {}
        return {name: Timing(**values) for name, values in kept["timings"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or cut: measured anew
        return {}


def keep_timings(timings: Mapping[str, Timing]) -> None:
    """Keeps timings for the next process."""
    content = {
        "machine": timed_on(),
        "timings": {name: vars(timing) for name, timing in timings.items()},
    }
    write_text(timings_path(), json.dumps(content, indent=2) + "\n")
