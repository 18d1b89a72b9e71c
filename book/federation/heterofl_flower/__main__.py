"""`make federation`: a federation on this machine, from its keys to the comparison with the simulation."""

import argparse
import re
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from heterofl_core.errors import InputError, MismatchError
from heterofl_flower.credentials import make_certificates
from heterofl_flower.loopback import POLL_SECONDS, Loopback, Process, federation
from heterofl_flower.simulation import largest_difference, read_result, simulate

OVERHEAD_SECONDS = 60.0  # of a run, beside its rounds: processes start, files are written
TOLERANCE = 1e-6
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `kill`, a closed terminal
REASON = re.compile(r"^[\w.]*InputError: (.*)$", re.MULTILINE)  # the last line of a traceback
WIDTH = 100  # characters of a line


class Report:
    """Prints what happens, with the seconds since the beginning."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def say(self, sentence: str) -> None:
        """One line."""
        line = f"{time.monotonic() - self.start:4.0f} s  {sentence}"
        print(textwrap.fill(line, WIDTH, subsequent_indent=" " * 8), flush=True)

    def follow(self, run: Process, seconds: float) -> None:
        """Passes on what the server says, until the run has ended.

        Raises:
            InputError: it has not after so many seconds.
        """
        end, said = time.monotonic() + seconds, 0
        while True:
            over = run.handle.poll() is not None
            lines = [line for line in run.text().splitlines() if line.startswith("server: ")]
            for line in lines[said:]:
                self.say(line)
            said = len(lines)
            if over:
                return
            if time.monotonic() > end:
                raise InputError(f"the run did not end within {seconds:g} s: {run.tail()}")
            time.sleep(POLL_SECONDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Shows a federation."""
    parser = argparse.ArgumentParser(prog="python -m heterofl_flower", description=main.__doc__)
    parser.add_argument("--levels", default="cde", help="a letter for each client, such as cde")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--deadline", type=float, default=90.0, help="seconds for each round")
    parser.add_argument("--kill", type=int, default=1, help="the client that is killed; -1 for none")
    parser.add_argument("--kill-in", type=int, default=2, help="the round in which it is")
    given = parser.parse_args(arguments)
    clean_up_after_signals()
    with tempfile.TemporaryDirectory(prefix="federation-") as folder:
        try:
            show(Path(folder), given.levels, given.rounds, given.deadline, given.kill, given.kill_in)
        except InputError as error:
            print(f"heterofl_flower: {error}", file=sys.stderr)
            raise SystemExit(error.status) from error


def clean_up_after_signals() -> None:
    """Makes the signals that end this process raise SystemExit, so that each `finally` runs.

    Otherwise `kill` would end this process alone. The others, in sessions of their own, would go on, and the
    folder with the private keys would stay.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)  # a second Ctrl-C would cut short what cleans up
        raise SystemExit(128 + number)  # as a shell says it

    for ending in ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # `nohup` lets SIGHUP be ignored
            signal.signal(ending, end)


def show(folder: Path, trace: str, rounds: int, deadline: float, kill: int, kill_in: int) -> None:
    """A run, with two nodes that are refused and a client that dies.

    Args:
        folder: for all files.
        trace: the clients' levels.
        rounds: of the run.
        deadline: of each round, in seconds.
        kill: the client that dies, -1 for none.
        kill_in: the round in which it does.

    Raises:
        InputError: there are no clients, no rounds, or no such ones, a step took too long, or there is no
            result, or one that is not the simulation's.
    """
    if not trace:
        raise InputError("--levels '' is not allowed; it needs a letter for each client, such as cde")
    if rounds < 1:
        raise InputError(f"--rounds {rounds} is not allowed; it must be 1 or more")
    if not -1 <= kill < len(trace):
        raise InputError(f"--kill {kill} is not allowed; clients are 0 to {len(trace) - 1}, and -1 is nobody")
    if kill >= 0 and not 1 <= kill_in <= rounds:
        raise InputError(f"--kill-in {kill_in} is not allowed; rounds are 1 to {rounds}")
    report = Report()
    report.say("a certificate authority, a server's certificate and a key for each client are made")
    # If this is interrupted, the federation is stopped before `disturb`, which waits for it, is waited for.
    with ThreadPoolExecutor() as aside, federation(folder, trace) as here:
        report.say(f"a server and {len(trace)} clients run, each a process of its own")
        run = here.submit(rounds=rounds, deadline_seconds=deadline)
        disturbed = aside.submit(disturb, here, run, kill, kill_in, report)
        report.follow(run, (rounds + 1) * deadline + OVERHEAD_SECONDS)  # it also waits for clients to join
        disturbed.result()
        if not here.result.exists():
            raise InputError(reason(run))
    report.say("all processes have ended")
    compare(here.result, report)


def disturb(here: Loopback, run: Process, kill: int, kill_in: int, report: Report) -> None:
    """Kills a client as soon as it has begun to work on a round. While the others wait for it, two nodes try
    to join that should not: one whose key nobody registered, and one that trusts another authority.
    """
    if kill >= 0:
        node = next(process for process in here.processes if process.name == f"client-{kill}")
        while f"round {kill_in} begins" not in node.text():
            if run.handle.poll() is not None:
                return  # there is nothing left to disturb
            time.sleep(POLL_SECONDS)
        node.kill()
        report.say(f"client {kill} is killed in the middle of round {kill_in}")
    here.make_key("unregistered")
    report.say(f"a node with an unregistered key is refused: {here.try_to_join('unregistered')}")
    here.make_key("astray")
    here.register("astray")
    other = make_certificates(here.folder / "other-tls")
    refusal = here.try_to_join("astray", other.authority)
    report.say(f"a node that trusts another authority turns away from the server: {refusal}")


def reason(run: Process) -> str:
    """Why a run has no result: the sentence with which the server's app ended, or else the end of the log."""
    sentences = REASON.findall(run.text())
    return sentences[-1] if sentences else f"the run ended without a result: {run.tail()}"


def compare(path: Path, report: Report) -> None:
    """How far the result is from the simulation's.

    Raises:
        MismatchError: further than the tolerance.
    """
    weights, params, participants = read_result(path)
    for number, clients in enumerate(participants, start=1):
        report.say(f"in the mean of round {number}: clients {clients}")
    difference = largest_difference(weights, simulate(params, participants).shared)
    elements = sum(value.numel() for value in weights.values())
    report.say(
        f"largest difference from the simulation with the same participants, over {elements:,} parameters: "
        f"{difference:g}"
    )
    if difference > TOLERANCE:
        raise MismatchError(
            f"the federation and the simulation differ by {difference:g}, more than {TOLERANCE:g}"
        )


if __name__ == "__main__":
    main()
