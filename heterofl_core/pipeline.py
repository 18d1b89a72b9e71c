"""Whole studies as a Snakemake workflow: what `workflow/Snakefile` asks, and how it is started.

What is done stands in the records alone. Snakemake is told what is open and keeps nothing that could be lost
or contradict them.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError
from heterofl_core.files import written_at
from heterofl_core.folders import BOOK, PARAMS, ROOT, outputs_folder
from heterofl_core.params import Execution, RunParams
from heterofl_core.records import runs_folder
from heterofl_core.settings import from_texts, split_changes, to_texts
from heterofl_core.status import RunStatus, status_of
from heterofl_core.studies import read_study, study_names

WORKFLOW = ROOT / "workflow"
PROFILES = WORKFLOW / "profiles"
MEMORY_MB = {"digits": 1_000, "mnist": 2_000, "cifar10": 3_000, "wikitext2": 3_000}
"""What a run asks a cluster for, beside its workers."""
OWN_MB = 4_000
"""The same for somebody's own data set, which nobody has measured."""
WORKER_MB = 1_000
PERSONAL_MB = {"mlp": 3, "cnn": 6, "preresnet18": 37}
"""Of one client's own model, at level a; somebody's own architecture counts as the largest of them."""
CONTAINERS_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may use of the machine's memory, in bytes; `max` if it may use all."""


@dataclass(frozen=True)
class Workload:
    """The runs of some studies, and which of them still have to be done.

    Attributes:
        runs: all of them, by id.
        open: ids of those that have to be done.
        force: which of these have a record that is to be replaced.
        execution: of each run; one worker unless more are asked for, since runs are executed side by side.
    """

    runs: dict[str, RunParams]
    open: tuple[str, ...]
    force: frozenset[str]
    execution: Execution

    @property
    def workers(self) -> int:
        """Processes of each run."""
        return self.execution.workers or 1

    def marker(self, run_id: str) -> Path:
        """A file by which Snakemake sees that a run has ended well; only the record counts."""
        return outputs_folder() / "pipeline" / run_id

    def markers(self) -> list[Path]:
        """The markers of all open runs."""
        return [self.marker(run_id) for run_id in self.open]

    def remove_old_markers(self) -> None:
        """Removes markers of open runs: the record that they stood for is gone, or is to be replaced."""
        for marker in self.markers():
            marker.unlink(missing_ok=True)

    def arguments(self, run_id: str) -> str:
        """The command line of `heterofl_core notebook` for a run, quoted for a shell."""
        params = self.runs[run_id].model_dump(mode="json", exclude_none=True)
        execution = self.execution.model_dump(exclude_defaults=True) | {"workers": self.workers}
        force = ["--force"] if run_id in self.force else []
        return shlex.join([*as_options(to_texts(params | execution)), *force])

    @property
    def gpu(self) -> dict[str, Any]:
        """What a run asks a cluster for if it needs a GPU."""
        return {"gpu": 1, "gpu_manufacturer": "nvidia"} if self.execution.device == "cuda" else {}

    def memory_mb(self, run_id: str) -> int:
        """The memory that a run asks a cluster for; clients' own models are kept, and sent to the workers."""
        params = self.runs[run_id]
        personal = params.num_clients if params.has_personal_models else 0
        models = 2 * personal * PERSONAL_MB.get(params.arch, max(PERSONAL_MB.values()))
        return MEMORY_MB.get(params.dataset, OWN_MB) + self.workers * WORKER_MB + models


def as_options(settings: Sequence[str]) -> list[str]:
    """Settings of the form NAME=VALUE as the core's commands take them."""
    return [word for text in settings for word in ("-p", text)]


def workload(studies: Sequence[str], settings: Sequence[str], redo_stale: bool) -> Workload:
    """What has to be done.

    Args:
        studies: their names.
        settings: what every run has in common, of the form NAME=VALUE; wins over the studies.
        redo_stale: whether runs that other code made are done again.

    Raises:
        InputError: a study is unknown, a setting is not valid, or a record is damaged.
    """
    changes, execution = split_changes(from_texts(settings))
    if execution.force:
        raise InputError("force True is not for pipeline; allowed is --redo-stale, or study --force")
    statuses = statuses_of(studies, changes)
    damaged = [status for status in statuses.values() if status.state == "damaged"]
    if damaged:
        raise InputError(damaged[0].detail)
    redone = frozenset(
        run_id for run_id, status in statuses.items() if redo_stale and status.state == "stale"
    )
    return Workload(
        runs={run_id: status.params for run_id, status in statuses.items()},
        open=tuple(run_id for run_id, status in statuses.items() if status.is_open or run_id in redone),
        force=redone,
        execution=execution,
    )


def statuses_of(studies: Sequence[str], changes: Mapping[str, Any]) -> dict[str, RunStatus]:
    """How far the runs of some studies are, by id, each once.

    Raises:
        InputError: a study is unknown, or one of its runs is not valid.
    """
    if not studies:
        raise InputError(f"no study is named; there are {', '.join(study_names())}")
    runs = {params.run_id: params for name in studies for params in read_study(name, **changes).runs}
    return {run_id: status_of(params) for run_id, params in runs.items()}


def fetch(runs: Iterable[RunParams]) -> None:
    """Has MNIST downloaded, if one of some runs needs it and it is not there: runs that start at once would
    write into one another's download, which is torchvision's.

    Raises:
        InputError: it could not be downloaded.
    """
    if any(params.dataset == "mnist" for params in runs):
        from heterofl_core.data import load_images

        load_images("mnist")


def newest_record() -> list[Path]:
    """The record that was written last, if there is one: results that are older are made anew."""
    records = runs_folder().glob("*/record.json")
    return sorted(records, key=lambda path: written_at(path) or 0)[-1:]


def book_sources() -> list[Path]:
    """What the book is made of, beside the records: its texts, what was measured, and the code of its tables
    and figures, on which it also depends whether records are stale.
    """
    texts = ("*.md", "*.yml", "*.bib", "chapters/*", "decisions/*", "experiments/*", "report/*")
    patterns = (*texts, "_ext/*", "_static/*", "figures/*")
    made = ("course", "bench", "equivalent", "confusions", "ensembles")
    came_with_the_checkout = ROOT / "outputs" / "course"
    folders = {PARAMS, came_with_the_checkout, *(outputs_folder() / name for name in made)}
    found = [path for pattern in patterns for path in BOOK.glob(pattern)]
    found += (ROOT / "heterofl_core").rglob("*.py")
    found += [path for folder in folders for path in folder.rglob("[!.]*")]  # none that is being written
    return sorted(path for path in found if path.is_file())


def snakemake_command(
    studies: Sequence[str], settings: Sequence[str], redo_stale: bool, profile: str | None
) -> list[str]:
    """The command line that does some studies.

    Args:
        studies, settings, redo_stale: see `workload`.
        profile: a folder in `workflow/profiles/` for a cluster, or a path; none for this machine.

    Raises:
        InputError: there is no such profile.
    """
    given = {name: from_anywhere(value) for name, value in from_texts(settings).items()}
    config = {
        "studies": [from_anywhere(name) for name in studies],
        "settings": to_texts(given),
        "redo_stale": redo_stale,
    }
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile")),
        *("--directory", str(ROOT)),
        *(["--profile", str(profile_folder(profile))] if profile else on_this_machine()),
        *("--config", *(f"{name}={json.dumps(value)}" for name, value in config.items())),
    ]


def on_this_machine() -> list[str]:
    """Options by which runs take all cores, and no more memory together than there is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if CONTAINERS_LIMIT.exists() and (limit := CONTAINERS_LIMIT.read_text().strip()) != "max":
        memory = min(memory, int(limit))
    return ["--cores", "all", "--resources", f"mem_mb={memory // 2**20}"]


def from_anywhere(value: Any) -> Any:
    """The file of a study or a trace as Snakemake finds it, which stands elsewhere; else the value itself."""
    return str(Path(value).resolve()) if str(value).endswith((".yaml", ".csv")) else value


def profile_folder(profile: str) -> Path:
    """The folder of a profile, ours or somebody's own.

    Raises:
        InputError: there is none.
    """
    for folder in (PROFILES / profile, Path(profile).resolve()):
        if folder.is_dir():
            return folder
    known = ", ".join(sorted({path.name for path in PROFILES.iterdir()} - {"default"}))
    raise InputError(f"profile {profile!r} is unknown; allowed are {known}, or a folder with one of your own")
