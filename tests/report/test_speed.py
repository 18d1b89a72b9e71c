"""The tables of what the benchmark has measured."""

import json
from pathlib import Path

import pandas as pd
import pytest

from heterofl_core.provenance import code_hash
from heterofl_core.report import speed


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of results."""
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(tmp_path))
    (tmp_path / "bench").mkdir()
    return tmp_path / "bench"


@pytest.mark.usefixtures("bench")
def test_what_was_not_measured_is_shown_as_missing() -> None:
    tables = (speed.rounds("mnist"), speed.ways(), speed.roofline("compiled fp32"), speed.peaks())
    for table in (*tables, speed.vocabularies(), speed.targets()):
        assert "make bench" in table.to_html()
    assert speed.measured_on("rounds") == "Not measured here yet."


def test_rounds_stand_side_by_side_with_their_ratios(bench: Path) -> None:
    """In the order of the file, for one data set."""
    rows = [
        ("mnist", "e", "training", "reference", 8.0, 1.0),
        ("mnist", "e", "training", "plain fp32", 4.0, 2.0),
        ("mnist", "a", "training", "reference", 50.0, 1.0),
        ("mnist", "a", "training", "plain fp32", 40.0, 1.25),
        ("cifar10", "e", "training", "reference", 9.0, 1.0),
    ]
    columns = ["dataset", "levels", "phase", "execution", "seconds", "ratio"]
    pd.DataFrame(rows, columns=columns).to_csv(bench / "rounds.csv", index=False)
    table = speed.rounds("mnist").data  # type: ignore[attr-defined]
    assert table.to_dict("list") == {
        "levels": ["e", "a"],
        "phase": ["training", "training"],
        "reference": ["8 s", "50 s"],
        "plain fp32": ["4 s (×2.0)", "40 s (×1.2)"],
    }


def test_targets_are_compared_with_the_fastest_way_of_their_precision(bench: Path) -> None:
    rows = [
        ("mnist", "e", "training", "plain fp32", 5.0),
        ("mnist", "e", "training", "compiled fp32", 3.9),
        ("mnist", "e", "round", "compiled fp32", 7.9),
        ("mnist", "a", "round", "compiled fp32", 9.0),
        ("mnist", "a", "round", "compiled bf16", 2.0),
    ]
    columns = ["dataset", "levels", "phase", "execution", "ratio"]
    pd.DataFrame(rows, columns=columns).to_csv(bench / "rounds.csv", index=False)
    table = speed.targets().data.set_index(["dataset", "levels", "phase", "precision"])  # type: ignore[attr-defined]
    assert table.loc[("mnist", "e", "training", "fp32")].tolist() == [4, 5.0, "yes"]
    assert table.loc[("mnist", "e", "round", "fp32")].tolist() == [8, 7.9, "no"]
    assert table.loc[("mnist", "a", "round", "fp32")].tolist() == [1.6, 9.0, "yes"]
    assert table.loc[("mnist", "a", "round", "bf16")].tolist() == [2.5, 2.0, "no"]
    assert table.loc[("mnist", "c", "round", "fp32"), "reached"] == "–"


def test_peaks_stand_with_their_units_and_processes(bench: Path) -> None:
    peaks = [
        {"processes": 1, "gflops": {"fp32": 100.0}, "gbytes": {"L1": 50.0}},
        {"processes": 2, "gflops": {"fp32": 190.0}, "gbytes": {"L1": 90.0}},
    ]
    (bench / "machine.json").write_text(json.dumps({"roofline": {"peaks": peaks}}))
    assert speed.peaks().data.to_dict("list") == {  # type: ignore[attr-defined]
        "peak of": ["fp32 (GFLOP/s)", "copies in L1 (GB/s)"],
        "1 process": [100.0, 50.0],
        "2 processes": [190.0, 90.0],
    }


def test_the_roofline_shows_the_share_of_the_floor(bench: Path) -> None:
    row = {
        "arch": "cnn",
        "level": "a",
        "execution": "compiled fp32",
        "mflop": 2400.0,
        "moved_mb": 80.0,
        "home": "L3",
        "compute_ms": 12.0,
        "memory_ms": 3.0,
        "measured_ms": 24.0,
        "fraction": 0.5,
    }
    others = {**row, "execution": "plain fp32"}
    pd.DataFrame([row, others]).to_csv(bench / "roofline.csv", index=False)
    table = speed.roofline("compiled fp32").data  # type: ignore[attr-defined]
    assert table["of the floor (%)"].tolist() == [50.0]


@pytest.mark.parametrize(("code", "stale"), [(code_hash(), ""), ("other", "; the code has changed since")])
def test_where_and_when_it_was_measured(bench: Path, code: str, stale: str) -> None:
    found = {
        "code_hash": code,
        "device": "a processor",
        "versions": {"torch": "2.13.0"},
        "date": "2026-11-21T10:00:00+00:00",
        "git_commit": "0123456789abcdef",
        "git_dirty": True,
    }
    (bench / "machine.json").write_text(json.dumps({"rounds": found}), encoding="utf-8")
    assert speed.measured_on("rounds") == (
        "Measured on a processor with torch 2.13.0, 2026-11-21, commit 0123456789ab with uncommitted changes"
        f"{stale}."
    )
