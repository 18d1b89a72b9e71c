"""The pipeline's profiles: on this machine, and on SLURM and Kubernetes as far as one sees without a cluster.

Stand-ins for SLURM's commands and for the API server of Kubernetes write down what Snakemake submits, and
execute it here.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from heterofl_core.folders import ROOT, data_folder
from heterofl_core.params import run_params
from heterofl_core.pipeline import MEMORY_MB, WORKER_MB
from heterofl_core.records import record_path

TINY = {"dataset": "digits", "protocol": "smoke", "num_clients": 20}
RUNS = {levels: run_params(**TINY, levels=levels).run_id for levels in ("e", "d-e")}


def needs(plugin: str) -> pytest.MarkDecorator:
    """Skips where the project's extra for pipelines is not installed."""
    return pytest.mark.skipif(not find_spec(plugin), reason=f"{plugin} is not installed (extra 'pipeline')")


needs_slurm = needs("snakemake_executor_plugin_slurm")
needs_kubernetes = needs("snakemake_executor_plugin_kubernetes")


class Checkout:
    """A copy of what a fresh clone has, without any run.

    Its `.snakemake/` and its profiles are the test's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignore = shutil.ignore_patterns("_build", "executed", "__pycache__")
        for name in ("heterofl_core", "params", "book", "workflow"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)

    def profile(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Changes a profile so that it is quick and ends before the book."""
        path = self.folder / "workflow" / "profiles" / name / "config.yaml"
        text = path.read_text().replace("/study", str(self.folder))  # where the volume is mounted
        profile: dict[str, Any] = yaml.safe_load(text) | {"until": ["results"]} | changes
        path.write_text(yaml.safe_dump(profile))
        return profile

    def pipeline(self, levels: list[str], *options: str, code: int = 0, **variables: str) -> str:
        """What the pipeline prints for a study of tiny runs, after which it must end with this code."""
        study = {"title": "Tiny runs", "exhibits": [], "runs": [TINY | {"levels": levels}]}
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(study))
        done = subprocess.run(
            [sys.executable, "-m", "heterofl_core", "pipeline", "tiny.yaml", *options],
            cwd=self.folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout
        return done.stdout


@pytest.fixture
def checkout(tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A checkout with outputs of its own, and with this machine's data and timings."""
    monkeypatch.setenv("HETEROFL_DATA", str(data_folder()))
    return Checkout(tmp_path / "checkout")


# What would be done


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--profile", "slurm"), id="slurm", marks=needs_slurm),
        pytest.param(("--profile", "kubernetes"), id="kubernetes", marks=needs_kubernetes),
    ],
)
def test_each_profile_plans_one_job_for_each_run(
    options: tuple[str, ...], checkout: Checkout, outputs: Path
) -> None:
    printed = checkout.pipeline(list(RUNS), *options, "--dry-run")
    assert re.search(r"^run +2$", printed, re.MULTILINE), printed
    assert not (outputs / "runs").exists()


@needs("snakemake")
def test_a_dry_run_shows_what_is_open_on_which_device_and_changes_nothing(
    checkout: Checkout, outputs: Path
) -> None:
    marker = outputs / "pipeline" / RUNS["e"]
    marker.parent.mkdir(parents=True)
    marker.touch()  # of a record that is gone
    data = checkout.folder / "data"
    printed = checkout.pipeline(list(RUNS), "--dry-run", "-p", "device=cuda", HETEROFL_DATA=str(data))
    assert re.search(r"^run +2$", printed, re.MULTILINE), printed
    assert len(re.findall(r"resources:.* gpu=1\b", printed)) == 2, printed
    assert marker.exists()
    assert not data.exists()  # no timings


# SLURM

SLURM = {
    "sbatch": f"""#!{sys.executable}
import argparse, json, os, subprocess, sys
from pathlib import Path

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--job-name", "--output", "--export", "--comment", "-p", "-t", "--mem", "--ntasks",
             "--cpus-per-task", "-D", "--wrap"):
    parser.add_argument(name)
parser.add_argument("--parsable", action="store_true")
job = vars(parser.parse_args())
number = os.getpid()
jobs = Path(__file__).parent / "jobs"
(jobs / f"{{number}}.json").write_text(json.dumps(job))
if (jobs / "refuse").exists():
    sys.exit("sbatch: error: Batch job submission failed: Invalid qos specification")
slow = jobs / job["comment"].removeprefix("rule_run_wildcards_")
if slow.exists():
    slow.unlink()
    state = "TIMEOUT"
else:
    with open(job["output"].replace("%j", str(number)), "w") as log:
        ended = subprocess.run(["/bin/sh", "-c", job["wrap"]], cwd=job["D"], stdout=log, stderr=log)
    state = "FAILED" if ended.returncode else "COMPLETED"
(jobs / f"{{number}}.state").write_text(f"{{number}}|{{state}}\\n")
print(number)
""",
    "srun": """#!/bin/sh
while case "$1" in -*) true;; *) false;; esac; do shift; done
exec "$@"
""",
    "sacct": """#!/bin/sh
case "$*" in *--name*) cat "$(dirname "$0")"/jobs/*.state;; esac  # else it asks for accounts and reasons
""",
    "sinfo": """#!/bin/sh
printf 'PARTITION\\nshort\\nlong*\\n'
""",
    "scontrol": """#!/bin/sh
echo 'MaxArraySize = 1001'
""",
}
"""Commands that execute a job while it is submitted, unless `jobs/` has a file that tells otherwise:
`refuse`, or the id of a run that comes to its time limit once."""


class Slurm:
    """A login node.

    Attributes:
        jobs: the folder with a file for each submitted job.
        path: of the commands, first.
    """

    def __init__(self, folder: Path) -> None:
        self.jobs = folder / "jobs"
        self.jobs.mkdir(parents=True)
        self.path = f"{folder}:{os.environ['PATH']}"
        for name, script in SLURM.items():
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)

    def submitted(self) -> list[dict[str, Any]]:
        """The options of each call of sbatch."""
        return [json.loads(path.read_text()) for path in self.jobs.glob("*.json")]


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    """A login node that one may submit from."""
    return Slurm(tmp_path / "slurm")


@needs_slurm
def test_slurm_executes_each_run_as_a_job_and_again_after_its_time_limit(
    checkout: Checkout, slurm: Slurm
) -> None:
    checkout.profile("slurm", {"slurm-init-seconds-before-status-checks": 1})
    (slurm.jobs / RUNS["e"]).touch()

    checkout.pipeline(list(RUNS), "--profile", "slurm", PATH=slurm.path)
    submitted = slurm.submitted()
    comments = sorted(job["comment"].removeprefix("rule_run_wildcards_") for job in submitted)
    assert comments == sorted([RUNS["e"], RUNS["e"], RUNS["d-e"]])
    assert len({job["job_name"] for job in submitted}) == 1  # by which SLURM is asked for their states
    for job in submitted:
        assert (job["ntasks"], job["cpus_per_task"], job["mem"]) == (
            "1",
            "1",
            str(MEMORY_MB["digits"] + WORKER_MB),
        )
        assert (job["t"], job["p"]) == (str(24 * 60), "long")
        assert job["D"] == str(checkout.folder)
        assert f"run:run_id={job['comment'].removeprefix('rule_run_wildcards_')}'" in job["wrap"]
    assert all(record_path(run_id).exists() for run_id in RUNS.values())

    checkout.pipeline(list(RUNS), "--profile", "slurm", PATH=slurm.path)
    assert len(slurm.submitted()) == len(submitted)


@needs_slurm
def test_a_run_asks_slurm_for_a_core_for_each_worker_and_stays_open_if_it_is_refused(
    checkout: Checkout, slurm: Slurm
) -> None:
    checkout.profile("slurm", {"slurm-init-seconds-before-status-checks": 1, "retries": 0})
    (slurm.jobs / "refuse").touch()
    printed = checkout.pipeline(["e"], "--profile", "slurm", "-p", "workers=7", code=1, PATH=slurm.path)
    assert printed.count("tiny.yaml (Tiny runs): 1 runs: 1 missing") == 2  # before and after
    (job,) = slurm.submitted()
    assert job["cpus_per_task"] == "7"  # however few the login node has
    assert "Invalid qos" in printed


# Kubernetes


class Cluster(ThreadingHTTPServer):
    """As much of Kubernetes' API server as is asked for; a job is a process here, and the first one dies.

    Attributes:
        jobs: what was submitted, by name.
        deleted: the names of what was deleted.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: stands for the empty one that a pod starts in.
        """
        super().__init__(("127.0.0.1", 0), Api)
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.deleted: list[str] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def kubeconfig(self) -> str:
        """What tells a client where this server is."""
        cluster = {"server": f"http://127.0.0.1:{self.server_port}"}
        return yaml.safe_dump(
            {
                "clusters": [{"name": "here", "cluster": cluster}],
                "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "current-context": "here",
            }
        )

    def start(self, job: dict[str, Any]) -> None:
        """Executes a job, with no environment but its own."""
        container = container_of(job)
        variables = {"PATH": os.environ["PATH"]}
        for variable in container["env"]:
            secret = variable["valueFrom"]["secretKeyRef"]
            value = self.secrets[secret["name"]][secret["key"]]
            variables[variable["name"]] = base64.b64decode(value).decode()
        if not self.jobs:
            variables["PYTHONHOME"] = "/nowhere"  # ends Python, but not the shell around it
        name = job["metadata"]["name"]
        self.jobs[name] = job
        with (self.folder / f"{name}.txt").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                container["command"] + container["args"],
                cwd=self.folder,
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def status(self, name: str) -> dict[str, Any]:
        """The status of a job."""
        code = self.processes[name].poll()
        return {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}

    def pod(self, name: str) -> dict[str, Any]:
        """The pod of a job."""
        code = self.processes[name].poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {"name": "snakemake", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        return {
            "metadata": {"name": f"{name}-pod"},
            "status": {"containerStatuses": [container | {"state": state}]},
        }


class Api(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Cluster

    def do_POST(self) -> None:
        """Creates a secret or a job."""
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/secrets"):
            self.server.secrets[sent["metadata"]["name"]] = sent["data"]
        else:
            self.server.start(sent)
        self.answer(sent, 201)

    def do_GET(self) -> None:
        """The status of a job, its pods or the log of one."""
        url = urlsplit(self.path)
        if url.path.endswith("/log"):  # with previous=true, and no container is started twice
            self.answer({"reason": "BadRequest"}, 400)
        elif url.path.endswith("/pods"):
            name = parse_qs(url.query)["labelSelector"][0].removeprefix("job-name=")
            self.answer({"items": [self.server.pod(name)]})
        else:
            name = url.path.split("/")[-2]
            self.answer(self.server.jobs[name] | {"status": self.server.status(name)})

    def do_DELETE(self) -> None:
        """Deletes nothing, but notes it."""
        self.server.deleted.append(urlsplit(self.path).path.split("/")[-1])
        self.answer({"status": "Success"})

    def answer(self, content: dict[str, Any], code: int = 200) -> None:
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    """The only container of a job."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return dict(container)


@needs_kubernetes
def test_kubernetes_executes_a_run_on_the_volume_and_again_if_it_died(
    checkout: Checkout, tmp_path: Path
) -> None:
    profile = checkout.profile("kubernetes", {"seconds-between-status-checks": 1, "latency-wait": 2})
    pod, kubeconfig = tmp_path / "pod", tmp_path / "kubeconfig"
    pod.mkdir()
    with Cluster(pod) as cluster:
        threading.Thread(target=cluster.serve_forever, daemon=True).start()
        kubeconfig.write_text(cluster.kubeconfig())
        checkout.pipeline(["e"], "--profile", "kubernetes", KUBECONFIG=str(kubeconfig))
        cluster.shutdown()

    assert len(cluster.jobs) == 2
    for job in cluster.jobs.values():
        container = container_of(job)
        assert container["image"] == profile["container-image"]
        assert container["resources"]["requests"] == {
            "cpu": "950m",
            "memory": f"{MEMORY_MB['digits'] + WORKER_MB}M",
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        claims = {
            volume["persistentVolumeClaim"]["claimName"]: mounts[volume["name"]]
            for volume in job["spec"]["template"]["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {"heterofl": str(checkout.folder)}
        (_, command) = container["args"]
        assert command.startswith(f"cd {checkout.folder} ")
        assert f"--snakefile '{checkout.folder}/workflow/Snakefile'" in command
        assert f"'run:run_id={RUNS['e']}'" in command
    assert record_path(RUNS["e"]).exists()
    assert cluster.deleted == list(cluster.secrets)  # the jobs stay, with their logs
