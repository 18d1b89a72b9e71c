"""A federation on this machine: one SuperLink and several SuperNodes, each a process of its own, over TLS.

`make federation` shows one. All certificates and keys are made in a temporary folder and vanish with it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

from heterofl_core.errors import InputError
from heterofl_core.folders import ROOT
from heterofl_flower.credentials import Certificates, make_certificates, make_key
from heterofl_flower.roster import Member, Roster

APP = Path(__file__).resolve().parents[1]
BIN = Path(sysconfig.get_path("scripts"))  # where pip puts programs: not beside Python on Debian or Colab
HOST = "127.0.0.1"
CONNECTION = "loopback"  # the name of the server in Flower's own configuration
REFUSAL = re.compile(r"Exit Code: (\d+)\n.*\n(.*)")  # what a node writes when it cannot connect
COLOURS = ("FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE")  # Jupyter sets them; logs are read by programs here
POLL_SECONDS = 0.05
START_SECONDS = 60.0  # for a process to be ready, on a busy machine
STOP_SECONDS = 10.0  # for a process to end when it is asked to


@dataclass
class Process:
    """A process that was started here, and what it writes."""

    name: str
    handle: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        """The end of it, for a message of what went wrong."""
        return self.text()[-1500:]

    def wait_for(self, words: str, seconds: float) -> None:
        """Waits until it has written these words.

        Raises:
            InputError: it has not after so many seconds, or it has ended without.
        """
        wait_until(
            lambda: words in self.text() or self.handle.poll() is not None,
            seconds,
            lambda: f"{self.name} did not write {words!r}: {self.tail()}",
        )
        if words not in self.text():
            raise InputError(f"{self.name} ended without {words!r}: {self.tail()}")

    def ends(self, seconds: float) -> int:
        """Its exit status, once it has ended.

        Raises:
            InputError: it still runs after so many seconds.
        """
        try:
            return self.handle.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{self.name} still runs after {seconds:g} s: {self.tail()}") from error

    def kill(self) -> None:
        """Ends it and its children at once, as a device does whose battery is taken out."""
        os.killpg(self.handle.pid, signal.SIGKILL)
        self.handle.wait()


@dataclass
class Loopback:
    """A server and its clients on this machine, while `federation` runs.

    Attributes:
        folder: for certificates, keys, logs and all that Flower writes.
        certificates: of the server.
        port: of the server.
        processes: that were started, the server first.
        over: whether it has been stopped, so that nothing is started any more.
        lock: held by who starts a process or forbids it.
    """

    folder: Path
    certificates: Certificates
    port: int
    processes: list[Process] = field(default_factory=list)
    over: bool = False
    lock: Lock = field(default_factory=Lock)

    @property
    def roster(self) -> Path:
        """The operator's file."""
        return self.folder / "roster.yaml"

    @property
    def result(self) -> Path:
        """Where the server leaves the global parameters."""
        return self.folder / "result.safetensors"

    def start(self, name: str, *command: str | Path, **options: str | int | Path) -> Process:
        """Starts a process in a group of its own, so that it can be ended with all its children.

        Args:
            name: of the process and of its log.
            command: the program, and arguments in their places.
            options: arguments with names, `port` for `--port`.

        Raises:
            InputError: the federation has been stopped.
        """
        for option, value in options.items():
            command = (*command, f"--{option.replace('_', '-')}", str(value))
        log = self.folder / f"{name}.log"
        with self.lock, log.open("wb") as file:
            if self.over:  # another thread would otherwise start what nobody ends
                raise InputError(f"{name} is not started: the federation has been stopped")
            handle = subprocess.Popen(
                [str(part) for part in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=environment(self.folder),
                start_new_session=True,
            )
            process = Process(name, handle, log)
            self.processes.append(process)
        return process

    def start_server(self) -> Process:
        """The SuperLink, which admits nodes with a registered key only."""
        own = self.certificates
        server = self.start(
            "superlink",
            BIN / "flower-superlink",
            "--enable-supernode-auth",
            host=HOST,
            port=self.port,
            ssl_ca_certfile=own.authority,
            ssl_certfile=own.certificate,
            ssl_keyfile=own.key,
        )
        wait_until(
            lambda: self.is_listening() or server.handle.poll() is not None,
            START_SECONDS,
            lambda: f"the server does not listen: {server.tail()}",
        )
        if server.handle.poll() is not None:
            raise InputError(f"the server ended: {server.tail()}")
        return server

    def is_listening(self) -> bool:
        """Whether the server takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def make_key(self, name: str) -> str:
        """A key pair for a node; only the node reads the private one."""
        return make_key(self.private_key(name))

    def private_key(self, name: str) -> Path:
        """Where a node has its private key: in a folder of its own."""
        return self.folder / name / "key"

    def register(self, name: str) -> int:
        """Tells the server that a node's key is welcome.

        Returns:
            The number that the server gives to the node.

        Raises:
            InputError: the server does not take it.
        """
        public = self.private_key(name).with_suffix(".pub")
        command = self.start(
            f"{name}-registration", BIN / "flwr", "supernode", "register", public, CONNECTION, format="json"
        )
        command.ends(START_SECONDS)
        try:
            return int(json.loads(command.text())["node-id"])
        except (ValueError, KeyError) as error:
            raise InputError(f"the key of {name} was not registered: {command.tail()}") from error

    def start_node(self, name: str, authority: Path | None = None, config: str = "") -> Process:
        """A SuperNode.

        Args:
            name: whose key it uses.
            authority: the certificate that it trusts; the server's own unless given.
            config: what the node says of itself, in Flower's form.
        """
        said = {"node_config": config} if config else {}
        return self.start(
            name,
            BIN / "flower-supernode",
            superlink=f"{HOST}:{self.port}",
            host=HOST,
            port=free_port(),
            root_certificates=authority or self.certificates.authority,
            auth_supernode_private_key=self.private_key(name),
            **said,
        )

    def try_to_join(self, name: str, authority: Path | None = None) -> str:
        """What becomes of a node that should not get in.

        Returns:
            Its exit code, and the reason that it gives.

        Raises:
            InputError: it has not given up in time.
        """
        node = self.start_node(name, authority)
        node.ends(START_SECONDS)
        found = REFUSAL.search(node.text())
        if found is None:
            raise InputError(f"{name} ended without saying why: {node.tail()}")
        return f"exit code {found[1]}, {found[2].strip()}"

    def submit(self, **config: Any) -> Process:
        """Starts a run; its log holds what the server says.

        Args:
            config: of the app, over the defaults in its `pyproject.toml`.
        """
        given = {"roster": str(self.roster), "result": str(self.result), **config}
        settings = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
        return self.start("run", BIN / "flwr", "run", APP, CONNECTION, "--stream", run_config=settings)

    def stop(self) -> None:
        """Ends all that runs, and lets nothing start any more.

        Raises:
            InputError: processes are left over.
        """
        with self.lock:
            self.over = True
        try:
            self.ask_to_end()
        finally:  # a signal may cut the waiting short: then all that is left is killed at once
            self.kill_left_over()

    def ask_to_end(self) -> None:
        """Asks all processes to end, the nodes before the server; kills the one that does not obey."""
        for process in reversed(self.processes):
            if process.handle.poll() is None:
                process.handle.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in reversed(self.processes):
            try:
                process.handle.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def kill_left_over(self) -> None:
        """Kills what still runs, wherever it moved.

        Raises:
            InputError: something outlives it.
        """
        for child in left_over(self.folder):  # Flower detaches some of its children
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: not left_over(self.folder), STOP_SECONDS, lambda: "processes are left over")


@contextmanager
def federation(folder: Path, trace: str, claims: dict[int, str] | None = None) -> Iterator[Loopback]:
    """A server and a client for each letter of a trace, all started; stopped when the block ends.

    Args:
        folder: that does not exist yet, or is empty.
        trace: the clients' levels, such as `cde`.
        claims: what some clients say that their level is.

    Yields:
        It, before any run.

    Raises:
        InputError: something did not start in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = Loopback(folder, make_certificates(folder / "tls"), free_port())
    home = folder / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{HOST}:{here.port}"\n'
        f'root-certificates = "{here.certificates.authority}"\n',
        encoding="utf-8",
    )
    names = [f"client-{number}" for number in range(len(trace))]
    Roster(
        tuple(
            Member(number, level, here.make_key(name))
            for number, (name, level) in enumerate(zip(names, trace, strict=True))
        )
    ).write(here.roster)
    with ThreadPoolExecutor() as operators:  # around the rest, so that what they wait for is stopped first
        try:
            here.start_server()
            list(operators.map(here.register, names))  # side by side, since each takes seconds to start
            for number, name in enumerate(names):
                level = (claims or {}).get(number)
                here.start_node(name, config=f'level="{level}"' if level else "")
            yield here
        finally:
            here.stop()


def environment(folder: Path) -> dict[str, str]:
    """For all processes: Flower's files in this folder, its commands found, nothing sent to anybody."""
    paths = [str(ROOT)] + ([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])
    inherited = {name: value for name, value in os.environ.items() if name not in COLOURS}
    return inherited | {
        "NO_COLOR": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(paths),  # the core, where it is not installed
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def left_over(folder: Path) -> list[int]:
    """Processes that still have this folder as Flower's home: children of ours, wherever they moved."""
    home, found = str(folder / "flower"), []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or is not ours
            if process.environ().get("FLWR_HOME") == home:
                found.append(process.pid)
    return found


def wait_until(done: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Looks again and again.

    Raises:
        InputError: not done after so many seconds; the complaint says what is missing.
    """
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise InputError(f"{complaint()} (waited {seconds:g} s)")
        time.sleep(POLL_SECONDS)
