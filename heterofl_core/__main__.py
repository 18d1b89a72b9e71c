"""The command line: `python -m heterofl_core COMMAND`.

run         one run, without Jupyter
notebook    one run through its papermill notebook, which then is a page of the book
study       all runs of a study that are not done yet, one after the other, without Jupyter
pipeline    whole studies through Snakemake, here or on a cluster, and the book with them
results     runs of a plan, the most telling first, for some hours; may be stopped at any moment
status      how far studies are: done, running, failed, missing, and the time left
verify      the first rounds of a finished run again, compared with its record; with --stale, of a few runs
            that other code made, whose records all count as today's if no digit differs
confusions  which labels a finished run on images takes for one another; executes it again
ensembles   how good the models of a finished run are together where clients have their own; executes it again
collect     all records into outputs/results.csv
course      the course's notebooks, and each chapter executed whose code changed since it ran
book        the book, from all records
list        the runs of a study, or of all, with their work and time
cost        what each mix costs a client, as in Tables 5 to 7
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from heterofl_core.errors import InputError, MismatchError
from heterofl_core.folders import fix_folders
from heterofl_core.settings import from_texts, read_yaml

EXTRAS = {
    **dict.fromkeys(("PIL", "pyarrow", "sklearn", "torch", "torchvision", "tqdm"), "train"),
    **dict.fromkeys(("IPython", "myst_nb", "nbformat", "papermill", "plotly"), "book"),
    "snakemake": "pipeline",
}
"""By a package that not every command needs, the extra of this project that brings it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit status: 2 for wrong input, of which one sentence tells, 1 for results that differ, 130 for
        Ctrl-C, 141 if the reader of its output left early.
    """
    options = parser().parse_args(arguments)
    fix_folders()
    try:
        options.command(options)
        sys.stdout.flush()  # here, where a reader that left is expected
    except InputError as error:
        print(f"heterofl_core: {error}", file=sys.stderr)
        return error.status
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"heterofl_core: {package} is not installed; install '.[{EXTRAS[package]}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("heterofl_core: stopped; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # a reader such as `head` left early; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says it of who is ended by that
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    parser = argparse.ArgumentParser(
        "python -m heterofl_core", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in (("run", run), ("study", study), ("notebook", notebook)):
        one = commands.add_parser(name, help=command.__doc__)
        if command is study:
            one.add_argument("study", help="a name in params/studies/, or a YAML file")
        add_settings(one)
        one.add_argument("--force", action="store_true", help="redo a run that is finished")
        one.set_defaults(command=command)
    one = commands.add_parser("pipeline", help=pipeline.__doc__)
    one.add_argument("studies", nargs="*", help="names in params/studies/, or YAML files")
    add_settings(one)
    one.add_argument("--redo-stale", action="store_true", help="redo the runs that other code made")
    one.add_argument("--profile", help="slurm, kubernetes, or a folder with a profile of your own")
    one.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    one.add_argument("--snakemake", default="", help="more options for Snakemake, such as '--until results'")
    one.set_defaults(command=pipeline)
    one = commands.add_parser("results", help=results.__doc__)
    one.add_argument("--plan", default="cpu", help="a name in params/plans/, or a YAML file")
    one.add_argument("--hours", type=float, default=1.0, help="of this machine; 1 unless given")
    add_settings(one)
    one.set_defaults(command=results)
    one = commands.add_parser("status", help=status.__doc__)
    one.add_argument("studies", nargs="*", help="names in params/studies/, or YAML files; all unless given")
    add_settings(one)
    one.set_defaults(command=status)
    one = commands.add_parser("verify", help=verify.__doc__)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?", help="its id")
    which.add_argument("--stale", action="store_true", help="a few of the runs that other code made")
    one.add_argument("--rounds", type=int, help="to execute; up to the first evaluated one unless given")
    one.set_defaults(command=verify)
    one = commands.add_parser("confusions", help=confusions.__doc__)
    one.add_argument("run", help="id of a finished run")
    one.set_defaults(command=confusions)
    one = commands.add_parser("ensembles", help=ensembles.__doc__)
    one.add_argument("run", help="id of a finished run")
    one.set_defaults(command=ensembles)
    one = commands.add_parser("course", help=course.__doc__)
    one.add_argument("--again", action="store_true", help="execute all chapters")
    one.add_argument("--mnist", action="store_true", help="time with MNIST those that can run with it")
    one.set_defaults(command=course)
    commands.add_parser("collect", help=collect.__doc__).set_defaults(command=collect)
    one = commands.add_parser("book", help=book.__doc__)
    one.add_argument("--without-solutions", action="store_true", help="of the course's exercises")
    one.set_defaults(command=book)
    one = commands.add_parser("list", help=list_runs.__doc__)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("study", nargs="?", help="a name in params/studies/, or a YAML file")
    which.add_argument("--all", action="store_true", help="every run of every study, each once")
    one.add_argument("--ids", action="store_true", help="one run id a line and nothing else")
    add_settings(one)
    one.set_defaults(command=list_runs)
    one = commands.add_parser("cost", help=cost.__doc__)
    one.add_argument(
        "arch",
        nargs="?",
        default="cnn",
        choices=("cnn", "preresnet18", "transformer"),
        help="of Table 5, 6 or 7",
    )
    one.set_defaults(command=cost)
    return parser


def add_settings(command: argparse.ArgumentParser) -> None:
    """The options that `settings` reads."""
    command.add_argument("-f", "--file", type=Path, help="YAML file with lines of the form 'name: value'")
    command.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="wins over the file"
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The file's values, then those of the command line."""
    values = read_yaml(options.file) if options.file else {}
    values |= from_texts(options.param)
    return values | ({"force": True} if getattr(options, "force", False) else {})


def run(options: argparse.Namespace) -> None:
    """one run, without Jupyter"""
    from heterofl_core.federation import Federation
    from heterofl_core.records import record_path
    from heterofl_core.runs import execute
    from heterofl_core.settings import split_settings, warn_if_slow

    params, execution = split_settings(settings(options))
    warn_if_slow(params, execution)
    record = execute(Federation(params), execution)
    print(f"{record['run_id']}: {record['seconds']} s on {record['device']}")
    for name, value in record["metrics"].items():
        print(f"  {name}: {value:.2f}" if isinstance(value, float) else f"  {name}: {value}")
    print(record_path(params.run_id))


def study(options: argparse.Namespace) -> None:
    """all runs of a study that are not done yet"""
    from heterofl_core.federation import Federation
    from heterofl_core.locks import is_locked
    from heterofl_core.runs import execute, is_done
    from heterofl_core.settings import split_changes, warn_if_slow
    from heterofl_core.studies import read_study

    changes, execution = split_changes(settings(options))
    runs = read_study(options.study, **changes).runs
    open_runs = [params for params in runs if execution.force or not is_done(params)]
    print(f"{options.study}: {len(runs)} runs, {len(runs) - len(open_runs)} of them done")
    while open_runs:
        free = (params for params in open_runs if not is_locked(params.run_id))
        params = next(free, open_runs[0])  # others' runs last
        open_runs.remove(params)
        if is_done(params) and not execution.force:  # by another process
            continue
        print(params.run_id)
        warn_if_slow(params, execution)
        execute(Federation(params), execution)


def notebook(options: argparse.Namespace) -> None:
    """one run through its papermill notebook"""
    from heterofl_core.notebooks import run_notebook

    path = run_notebook(settings(options))
    if path:
        print(path)


def collect(options: argparse.Namespace) -> None:
    """all records into outputs/results.csv"""
    from heterofl_core.records import collect

    print(collect())


def course(options: argparse.Namespace) -> None:
    """the course's notebooks, and each chapter executed whose code changed since it ran"""
    from heterofl_core.course import INSTRUCTORS, STUDENTS, bring_up_to_date

    bring_up_to_date(options.again, options.mnist)
    print(f"To complete: {STUDENTS}\nWith solutions: {INSTRUCTORS}")


def book(options: argparse.Namespace) -> None:
    """the book, from all records"""
    from heterofl_core.pages import build_book

    print(f"The book: {build_book(not options.without_solutions)}")


def pipeline(options: argparse.Namespace) -> None:
    """whole studies through Snakemake, and the book with them"""
    from heterofl_core.pipeline import fetch, snakemake_command, workload
    from heterofl_core.settings import to_texts
    from heterofl_core.timings import timings_for

    if find_spec("snakemake") is None:  # said before anything is fetched or timed
        raise ModuleNotFoundError(name="snakemake")
    given = to_texts(settings(options))
    more = options_of_snakemake(options.snakemake)
    todo = workload(options.studies, given, options.redo_stale)
    command = snakemake_command(options.studies, given, options.redo_stale, options.profile)
    if options.dry_run:
        command += ["--dry-run", "--forcerun=run"]  # whatever old markers say
    else:
        undone = [todo.runs[run_id] for run_id in todo.open]
        if not options.profile:  # a cluster has a speed, and may have data, of its own
            fetch(undone)
            timings_for(undone)
        todo.remove_old_markers()
    status(options)
    sys.stdout.flush()
    os.execv(command[0], [*command, *more])


def options_of_snakemake(text: str) -> list[str]:
    """The options that a text holds, as a shell would read it.

    Raises:
        InputError: a quotation has no end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"--snakemake {text!r} cannot be split into options: {error}") from error


def results(options: argparse.Namespace) -> None:
    """runs of a plan, the most telling first, for some hours"""
    from heterofl_core.results import work_off
    from heterofl_core.settings import split_changes

    changes, execution = split_changes(settings(options))
    done, failed = work_off(options.plan, options.hours, execution, **changes)
    print(f"{len(done)} runs done")
    if failed:
        raise InputError(f"{len(failed)} runs failed, the first of them {failed[0]}; above stands why")


def status(options: argparse.Namespace) -> None:
    """how far studies are, and the time left"""
    from heterofl_core.estimate import kept_timings
    from heterofl_core.settings import split_changes
    from heterofl_core.status import status_of, summary
    from heterofl_core.studies import read_study, study_names

    changes, _ = split_changes(settings(options))
    timings = kept_timings()
    for name in options.studies or study_names():
        study = read_study(name, **changes)
        statuses = list(map(status_of, study.runs))
        print(summary(f"{name} ({study.title})", statuses, timings))
        for one in statuses:
            if one.state in ("running", "failed", "stopped", "damaged"):
                print(f"  {one.state} {one.params.run_id}: {one.detail}")


def verify(options: argparse.Namespace) -> None:
    """the first rounds of a finished run again, compared with its record"""
    if not options.stale:
        verify_one(options.run, options.rounds)
    elif options.rounds is None:
        verify_older()
    else:
        raise InputError(f"--rounds {options.rounds} is for one run, not for --stale")


def verify_one(run_id: str, rounds: int | None) -> None:
    """Executes the first rounds of a run again, up to the first evaluated one unless given."""
    from heterofl_core.params import Execution
    from heterofl_core.verify import verify

    found = verify(run_id, rounds, Execution())
    print(found.curve.to_string(index=False))
    for name, (then, now) in found.changed.items():
        print(f"{name} was {then}, is {now}")
    if len(found.differences):
        raise MismatchError(f"{run_id} differs in {len(found.differences)} of {len(found.curve)} values")
    print(f"{run_id}: {found.rounds} rounds are identical in all {len(found.curve)} values")


def verify_older() -> None:
    """Executes a few of the runs again that other code made."""
    from heterofl_core.params import Execution
    from heterofl_core.verify import left_stale, verify_stale

    found = []
    for one in verify_stale(Execution()):
        what = one.hindrance or f"{one.rounds} rounds, {one.differences or 'no'} numbers differ"
        print(f"{one.run_id}: {what}", flush=True)
        found.append(one)
    for machine, number in left_stale().items():
        print(f"{number} records of {machine} stay stale; this one, or its versions, give other digits")
    if other := [one.run_id for one in found if one.differences]:
        raise MismatchError(
            f"today's code does not give the same as before in {other[0]}; its like stay stale"
        )
    if hindered := [one.run_id for one in found if one.hindrance]:
        raise InputError(f"{hindered[0]} could not be executed; its like stay stale")
    print("today's code gives the same as all code whose records could be compared here")


def confusions(options: argparse.Namespace) -> None:
    """which labels a finished run takes for one another; executes it again"""
    from heterofl_core.confusions import write_confusions
    from heterofl_core.params import Execution

    print(write_confusions(options.run, Execution()))


def ensembles(options: argparse.Namespace) -> None:
    """how good the clients' own models of a finished run are together; executes it again"""
    from heterofl_core.ensembles import write_ensembles
    from heterofl_core.params import Execution

    print(write_ensembles(options.run, Execution()))


def list_runs(options: argparse.Namespace) -> None:
    """the runs of a study, or of all, with their work and time"""
    from heterofl_core.settings import split_changes
    from heterofl_core.studies import all_runs, read_study

    changes, _ = split_changes(settings(options))
    runs = all_runs(**changes).values() if options.all else read_study(options.study, **changes).runs
    if options.ids:
        print(*(params.run_id for params in runs), sep="\n")
        return
    from heterofl_core.estimate import seconds_of
    from heterofl_core.timings import macs_of, timings_for

    timings = timings_for(runs)
    width = max(len(params.run_id) for params in runs)
    print(f"{'run':{width}}  {'10^12 MACs':>10}  {'hours here':>10}")
    total = 0.0
    for params in runs:
        hours = (seconds_of(params, timings) or 0.0) / 3600
        total += hours
        print(f"{params.run_id:{width}}  {macs_of(params) / 1e12:10.1f}  {hours:10.2f}")
    print(f"{len(runs)} runs, {total:.0f} hours on this machine")


def cost(options: argparse.Namespace) -> None:
    """what each mix costs a client, as in Tables 5 to 7"""
    from heterofl_core.cost import cost_table

    print(cost_table(options.arch).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
