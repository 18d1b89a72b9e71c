"""The command line: `python -m heterofl_core COMMAND`.

run       one run, without Jupyter
notebook  one run through its papermill notebook, which then is a page of the book
collect   all records into outputs/results.csv
pages     executed notebooks into the book
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
from heterofl_core.params import read_yaml


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
    for name, command in (("run", run), ("notebook", notebook)):
        one = commands.add_parser(name, help=command.__doc__)
        one.add_argument("-f", "--file", type=Path, help="YAML file with lines of the form 'name: value'")
        one.add_argument(
            "-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="wins over the file"
        )
        one.add_argument("--force", action="store_true", help="redo a run that is finished")
        one.set_defaults(command=command)
    for name, command in (("collect", collect), ("pages", pages), ("cost", cost)):
        commands.add_parser(name, help=command.__doc__).set_defaults(command=command)
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
    from heterofl_core.params import split_settings
    from heterofl_core.records import record_path
    from heterofl_core.runs import execute

    params, execution = split_settings(settings(options))
    record = execute(Federation(params), execution)
    print(f"{record['run_id']}: {record['seconds']} s on {record['device']}")
    for name, value in record["metrics"].items():
        print(f"  {name}: {value:.2f}" if isinstance(value, float) else f"  {name}: {value}")
    print(record_path(params.run_id))


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


def cost(options: argparse.Namespace) -> None:
    """what each mix costs a client, as in Tables 5 to 7"""
    from heterofl_core.cost import cost_table

    print(cost_table().to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
