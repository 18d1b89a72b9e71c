"""A study that is killed at random moments ends as one that never was.

    python tests/survive.py --kills 20 -p workers=2

Does the twelve MNIST runs of `tests/studies/survival.yaml` twice through the pipeline, in two folders:
once undisturbed, and once with SIGKILL sent at random moments to Snakemake, a papermill process, a kernel or
a worker, and the same command given again each time. Then it compares the two `results.csv`, byte for byte
but for what is measured (times and peak memory), and every `rounds.csv` in the same way. `make survive` takes
about half an hour on two cores.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil

from heterofl_core.folders import ROOT
from heterofl_core.pipeline import as_options
from heterofl_core.records import MEASURED

STUDY = Path(__file__).parent / "studies" / "survival.yaml"
CORE = [sys.executable, "-m", "heterofl_core"]
VICTIMS = {
    "Snakemake": "snakemake --snakefile",
    "papermill": "heterofl_core notebook",
    "kernel": "ipykernel_launcher",
    "worker": "joblib.externals.loky",
}
"""What is killed, and what its command line contains."""


def start(outputs: Path, study: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    """The pipeline, up to the table of results."""
    outputs.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*CORE, "pipeline", str(study), *as_options(settings), "--snakemake=--until results"],
        cwd=ROOT,
        env=os.environ | {"HETEROFL_OUTPUTS": str(outputs)},
        stdout=(outputs / "pipeline.txt").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def descendants(pipeline: subprocess.Popen[bytes]) -> dict[str, list[psutil.Process]]:
    """The processes of a pipeline that may be killed, by what they are."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in VICTIMS}
    top = psutil.Process(pipeline.pid)
    for process in [top, *top.children(recursive=True)]:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for name, mark in VICTIMS.items():
            if mark in line and not line.startswith("/bin/"):
                found[name].append(process)
    return {name: processes for name, processes in found.items() if processes}


def disturbed(
    outputs: Path, study: Path, settings: list[str], kills: int, rng: random.Random
) -> Counter[str]:
    """Kills at random until there were enough kills, then lets the study end; what was killed how often."""
    killed: Counter[str] = Counter()
    pipeline = start(outputs, study, settings)
    while sum(killed.values()) < kills:
        time.sleep(rng.uniform(1, 25))
        if pipeline.poll() is not None:
            if pipeline.returncode == 0:
                return killed
            pipeline = start(outputs, study, settings)
            continue
        candidates = descendants(pipeline)
        rarest = min(killed[name] for name in VICTIMS)
        name = rng.choice([name for name in VICTIMS if killed[name] == rarest])
        if name not in candidates:  # not started yet
            continue
        victim = rng.choice(candidates[name])
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
        killed[name] += 1
        print(f"kill {sum(killed.values())}: {name} {victim.pid}, {done(outputs)} runs are done", flush=True)
        if name == "Snakemake":
            pipeline.wait()
            pipeline = start(outputs, study, settings)
    for _ in range(10):
        if pipeline.wait() == 0:
            return killed
        pipeline = start(outputs, study, settings)
    raise SystemExit(f"the study does not end; see {outputs / 'pipeline.txt'}")


def done(outputs: Path) -> int:
    """How many records there are."""
    return len(list(outputs.glob("runs/*/record.json")))


def unmeasured(table: Path) -> str:
    """A table as text, without the columns of times and memory."""
    columns = pd.read_csv(table, dtype=str, keep_default_na=False)
    return columns.drop(columns=[name for name in MEASURED if name in columns]).to_csv(index=False)


def differences(one: Path, other: Path) -> list[str]:
    """The tables in which two outputs folders differ."""
    tables = {Path("results.csv")}
    for folder in (one, other):
        tables |= {path.relative_to(folder) for path in folder.glob("runs/*/rounds.csv")}
    return [
        str(table)
        for table in sorted(tables)
        if not ((one / table).exists() and (other / table).exists())
        or unmeasured(one / table) != unmeasured(other / table)
    ]


def leftovers(outputs: Path) -> list[str]:
    """Temporary files and checkpoints that nobody needs any more."""
    names = [str(path.relative_to(outputs)) for path in outputs.rglob("*") if path.is_file()]
    return [name for name in names if "/." in name or "checkpoint" in name]


def main() -> int:
    """Does both studies and compares them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--outputs", type=Path, help="a folder for both studies; an earlier one is gone on with"
    )
    options = parser.parse_args()
    folder = options.outputs or Path(tempfile.mkdtemp(prefix="survive-"))
    print(f"outputs: {folder}", flush=True)
    started = time.perf_counter()
    if start(folder / "undisturbed", options.study, options.param).wait():
        raise SystemExit(f"the undisturbed study failed; see {folder / 'undisturbed' / 'pipeline.txt'}")
    between = time.perf_counter()
    killed = disturbed(
        folder / "disturbed", options.study, options.param, options.kills, random.Random(options.seed)
    )
    ended = time.perf_counter()
    found = differences(folder / "undisturbed", folder / "disturbed")
    print(f"undisturbed: {between - started:.0f} s, {done(folder / 'undisturbed')} runs")
    print(f"disturbed: {ended - between:.0f} s, {done(folder / 'disturbed')} runs; killed: {dict(killed)}")
    print(f"left behind: {leftovers(folder / 'disturbed') or 'nothing'}")
    print(f"different: {found or 'nothing'}")
    return int(bool(found) or sum(killed.values()) < options.kills)


if __name__ == "__main__":
    raise SystemExit(main())
