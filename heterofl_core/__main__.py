"""The command line: `python -m heterofl_core COMMAND`.

run       one run, without Jupyter
study     all runs of a study that are not done yet, one after the other
notebook  one run through its papermill notebook, which then is a page of the book
collect   all records into outputs/results.csv
pages     executed notebooks into the book
list      the runs of a study, or of all, with their work and time
cost      what each mix costs a client, as in Tables 5 to 7
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from heterofl_core.errors import InputError
from heterofl_core.settings import read_yaml


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; wrong input ends with one sentence and exit status 2."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except InputError as error:
        print(f"heterofl_core: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # a reader such as `head` left early; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        one.add_argument("-f", "--file", type=Path, help="YAML file with lines of the form 'name: value'")
        one.add_argument(
            "-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="wins over the file"
        )
        one.add_argument("--force", action="store_true", help="redo a run that is finished")
        one.set_defaults(command=command)
    for name, command in (("collect", collect), ("pages", pages)):
        commands.add_parser(name, help=command.__doc__).set_defaults(command=command)
    one = commands.add_parser("list", help=list_runs.__doc__)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("study", nargs="?", help="a name in params/studies/, or a YAML file")
    which.add_argument("--all", action="store_true", help="every run of every study, each once")
    one.add_argument("--ids", action="store_true", help="one run id a line and nothing else")
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


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The file's values, then those of the command line."""
    values = read_yaml(options.file) if options.file else {}
    for text in options.param:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"-p {text!r} is not of the form NAME=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"-p {text!r} has a value that is not YAML") from error
    return values | ({"force": True} if options.force else {})


def run(options: argparse.Namespace) -> None:
    """one run, without Jupyter"""
    from heterofl_core.federation import Federation
    from heterofl_core.records import record_path
    from heterofl_core.runs import execute
    from heterofl_core.settings import split_settings

    params, execution = split_settings(settings(options))
    record = execute(Federation(params), execution)
    print(f"{record['run_id']}: {record['seconds']} s on {record['device']}")
    for name, value in record["metrics"].items():
        print(f"  {name}: {value:.2f}" if isinstance(value, float) else f"  {name}: {value}")
    print(record_path(params.run_id))


def study(options: argparse.Namespace) -> None:
    """all runs of a study that are not done yet"""
    from heterofl_core.federation import Federation
    from heterofl_core.runs import execute, is_done
    from heterofl_core.settings import split_changes
    from heterofl_core.studies import read_study

    changes, execution = split_changes(settings(options))
    runs = read_study(options.study, **changes).runs
    open_runs = [params for params in runs if execution.force or not is_done(params)]
    print(f"{options.study}: {len(runs)} runs, {len(runs) - len(open_runs)} of them done")
    for params in open_runs:
        print(params.run_id)
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


def pages(options: argparse.Namespace) -> None:
    """executed notebooks into the book"""
    from heterofl_core.pages import copy_pages

    for page in copy_pages():
        print(page)


def list_runs(options: argparse.Namespace) -> None:
    """the runs of a study, or of all, with their work and time"""
    from heterofl_core.studies import all_runs, read_study

    runs = all_runs().values() if options.all else read_study(options.study).runs
    if options.ids:
        print(*(params.run_id for params in runs), sep="\n")
        return
    from heterofl_core.estimate import estimate

    width = max(len(params.run_id) for params in runs)
    print(f"{'run':{width}}  {'10^12 MACs':>10}  {'hours here':>10}")
    hours = 0.0
    for params in runs:
        work = estimate(params)
        hours += work.seconds / 3600
        print(f"{params.run_id:{width}}  {work.macs / 1e12:10.1f}  {work.seconds / 3600:10.2f}")
    print(f"{len(runs)} runs, {hours:.0f} hours on this machine")


def cost(options: argparse.Namespace) -> None:
    """what each mix costs a client, as in Tables 5 to 7"""
    from heterofl_core.cost import cost_table

    print(cost_table(options.arch).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
