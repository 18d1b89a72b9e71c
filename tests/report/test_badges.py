"""The badges of the README: what they say, to everybody, and always in the same bytes."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest

from heterofl_core.folders import ROOT
from heterofl_core.params import RunParams, run_params
from heterofl_core.provenance import code_hash
from heterofl_core.records import write_run
from heterofl_core.report import badges, coverage
from heterofl_core.studies import all_runs

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ["runs.svg", "paper-schedule.svg", "machine-hours.svg"]


def write_record(params: RunParams, seconds: float) -> None:
    """A record with as little as the badges need."""
    record = {
        "run_id": params.run_id,
        "params": params.model_dump(mode="json"),
        "code_hash": code_hash(),
        "git_dirty": False,
        "seconds": seconds,
    }
    write_run(record, pd.DataFrame({"round": [1]}))


def texts(path: Path) -> list[str | None]:
    """The two texts of a badge."""
    return [text.text for text in ET.parse(path).getroot().iter(f"{SVG}text")]


def test_badges_tell_how_far_the_study_is(outputs: Path) -> None:
    write_record(run_params(dataset="mnist", levels="a"), 5400.0)
    write_record(run_params(dataset="mnist", levels="e", rounds=20), 3600.0)
    write_record(run_params(dataset="digits", levels="e"), 3600.0)  # no result of the study
    write_record(run_params(dataset="wikitext2", levels="e", rounds=200, milestones=[50, 100]), 0.0)
    paths = badges.write_badges()
    assert paths == [outputs / "badges" / name for name in NAMES]
    runs = [params.protocol for params in all_runs().values()]
    assert [texts(path) for path in paths] == [
        # mnist a and e, and wikitext2 e: with 100 rounds, which it was not run for, and with 200
        ["runs, any schedule", f"4 of {len(runs)}"],
        ["runs, paper schedule", f"1 of {runs.count('paper')}"],
        ["machine hours", "2.5"],
    ]


def test_badges_need_no_record(outputs: Path) -> None:
    assert [texts(path)[1] for path in badges.write_badges()] == [
        f"0 of {len(all_runs())}",
        f"0 of {sum(params.protocol == 'paper' for params in all_runs().values())}",
        "0.0",
    ]


def test_the_badges_of_the_readme_are_of_today() -> None:
    for name, (label, value) in badges.figures(coverage.study_records()).items():
        committed = (ROOT / "outputs" / "badges" / f"{name}.svg").read_text(encoding="utf-8")
        assert committed == badges.badge(label, value), "run `make book`, and commit outputs/badges"


def test_a_badge_tells_screen_readers_what_it_shows() -> None:
    root = ET.fromstring(badges.badge("machine hours", "12.5"))
    title = root.find(f"{SVG}title")
    assert (root.get("role"), root.get("aria-label")) == ("img", "machine hours: 12.5")
    assert title is not None
    assert title.text == "machine hours: 12.5"


def test_texts_keep_their_margins() -> None:
    """`e` is a wide character and `,` a narrow one: 7 and 4 pixels, with margins of 6."""
    root = ET.fromstring(badges.badge("ee,", "e"))
    label, value = root.iter(f"{SVG}text")
    assert (label.get("x"), label.get("textLength")) == ("6", "18")
    assert (value.get("x"), value.get("textLength")) == ("36", "7")  # 6 + 18 + 6, and 6
    assert root.get("width") == "49"


def luminance(colour: str) -> float:
    """Relative luminance of a colour such as #00588a (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [badges.LABEL_COLOUR, badges.VALUE_COLOUR])
def test_white_text_has_the_contrast_that_small_text_needs(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5
