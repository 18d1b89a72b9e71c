"""Badges for the README: how far the study is, as small SVG files. Nothing here needs torch.

The same figures give the same bytes, so that a build changes a badge only when the study has moved on.
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from heterofl_core.files import write_text
from heterofl_core.folders import outputs_folder
from heterofl_core.records import Record
from heterofl_core.report.coverage import coverage, hours, study_records
from heterofl_core.studies import all_runs

LABEL_COLOUR = "#444444"
VALUE_COLOUR = "#00588a"
"""The blue of level a, darker, so that white text on it is easy to read."""

NARROW = " ,.fijlt"
NARROW_WIDTH, WIDTH = 4, 7
"""Of a character, in pixels; `textLength` then fits the text to its box in whatever font there is."""
MARGIN = 6

BADGE = Template("""\
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="20" role="img" aria-label="$label: $value">
  <title>$label: $value</title>
  <rect width="$width" height="20" rx="3" fill="$value_colour"/>
  <path d="M3 0H${split}V20H3A3 3 0 0 1 0 17V3A3 3 0 0 1 3 0Z" fill="$label_colour"/>
  <g fill="#ffffff" font-family="DejaVu Sans,Verdana,Geneva,sans-serif" font-size="11">
    <text x="$margin" y="14" textLength="$label_width">$label</text>
    <text x="$value_x" y="14" textLength="$value_width">$value</text>
  </g>
</svg>
""")


def badge(label: str, value: str) -> str:
    """A badge as SVG: a label, and its value on a blue ground."""
    label_width, value_width = text_width(label), text_width(value)
    split = MARGIN + label_width + MARGIN
    return BADGE.substitute(
        label=label,
        value=value,
        label_width=label_width,
        value_width=value_width,
        margin=MARGIN,
        split=split,
        value_x=split + MARGIN,
        width=split + MARGIN + value_width + MARGIN,
        label_colour=LABEL_COLOUR,
        value_colour=VALUE_COLOUR,
    )


def text_width(text: str) -> int:
    """Roughly what a text takes at 11 pixels, in pixels."""
    return sum(NARROW_WIDTH if character in NARROW else WIDTH for character in text)


def figures(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Label and value of each badge, by the name of its file."""
    found, runs = coverage(records), all_runs()
    of_paper = [found[run_id] for run_id, params in runs.items() if params.protocol == "paper"]
    run = sum(how in ("done", "other schedule") for how in found.values())
    return {
        "runs": ("runs, any schedule", f"{run} of {len(found)}"),
        "paper-schedule": ("runs, paper schedule", f"{of_paper.count('done')} of {len(of_paper)}"),
        "machine-hours": ("machine hours", f"{hours(records):.1f}"),
    }


def write_badges() -> list[Path]:
    """Writes the badges into `outputs/badges/` from all records of the study, and returns their paths.

    Raises:
        InputError: a record is damaged.
    """
    paths = []
    for name, (label, value) in figures(study_records()).items():
        paths.append(outputs_folder() / "badges" / f"{name}.svg")
        write_text(paths[-1], badge(label, value))
    return paths
