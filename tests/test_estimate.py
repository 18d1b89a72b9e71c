"""The work of a run by hand, and its time from what one step takes on this machine."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heterofl_core import estimate
from heterofl_core.data import load_images
from heterofl_core.estimate import (
    SIZES,
    Timing,
    Work,
    keep_timings,
    kept_timings,
    seconds_of,
    timing_name,
    timings_path,
    work_of,
)
from heterofl_core.folders import ROOT
from heterofl_core.params import RunParams, run_params
from heterofl_core.text import load_text

TIMINGS = {"cnn sbn mnist a 10": Timing(0.3, 0.01), "cnn sbn mnist e 10": Timing(0.1, 0.002)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


# Work


@pytest.mark.parametrize(
    ("values", "work"),
    [
        pytest.param(
            {"dataset": "mnist", "levels": "e"},
            # 200 rounds of 10 clients with 600 images, 5 epochs of 60 steps; 40 passes over 70,000 images
            Work(200 * 10 * 5 * 60, 10, 200 * 10 * 5 * 600, 40 * 70_000),
            id="statistics need the training data",
        ),
        pytest.param(
            {"dataset": "mnist", "levels": "e", "norm": "gn"},
            Work(200 * 10 * 5 * 60, 10, 200 * 10 * 5 * 600, 40 * 10_000),
            id="another norm does not",
        ),
        pytest.param(
            {"dataset": "digits", "levels": "a-e", "protocol": "smoke"},
            # 2 rounds of 10 clients with 14.37 images, one epoch of 3 steps; 2 passes, and one of e's slice
            Work(2 * 10 * 3, 5, 2 * 10 * 14.37, 3 * (360 + 1437)),
            id="the last batch may be smaller",
        ),
        pytest.param(
            {"dataset": "wikitext2", "levels": "e"},
            # 100 rounds of 10 clients with a row of 326.34 windows; rounds 2, 4 … 100 and milestone 25
            Work(100 * 10 * 327, 1, 100 * 10 * 326.34, 51 * 3_837),
            id="text",
        ),
        pytest.param(
            {"dataset": "digits", "levels": "e", "protocol": "smoke", "method": "lg-fedavg", "arch": "mlp"},
            Work(2 * 10 * 3, 5, 2 * 10 * 14.37, 2 * 100 * 360),
            id="each client has a model of its own",
        ),
        pytest.param(
            {"dataset": "digits", "levels": "e", "protocol": "smoke", "method": "lg-fedavg"},
            Work(2 * 10 * 3, 5, 2 * 10 * 14.37, 2 * (100 * 360 + 1437)),
            id="and the shared part has one pass for statistics",
        ),
    ],
)
def test_work_by_hand(values: dict[str, Any], work: Work) -> None:
    assert work_of(run_params(**values)) == work


def test_sizes_are_those_of_the_data() -> None:
    images = load_images("digits")
    assert SIZES["digits"].shape == images.input_shape
    assert (SIZES["digits"].train, SIZES["digits"].test) == (
        len(images.train_labels),
        len(images.test_labels),
    )


@pytest.mark.usefixtures("wikitext2")
def test_sizes_of_text_are_those_of_the_data() -> None:
    text = load_text()
    assert (SIZES["wikitext2"].train, SIZES["wikitext2"].test) == (
        len(text.train) // 64,
        len(text.test) // 64,
    )


# Time


def mnist(**values: Any) -> RunParams:
    return run_params(**{"dataset": "mnist", "levels": "a-e", **values})


@pytest.mark.parametrize(
    ("params", "level", "name"),
    [
        (mnist(), "a", "cnn sbn mnist a 10"),
        (mnist(norm="gn", batch_size=7), "e", "cnn gn mnist e 7"),
        (run_params(dataset="wikitext2", levels="e"), "e", "transformer ln wikitext2 e 1"),
        (
            run_params(dataset="cifar10", levels="b", method="standalone", arch="mlp"),
            "b",
            "mlp none cifar10 augmented b 10",
        ),
    ],
)
def test_a_timing_is_that_of_one_model_on_one_data_set(params: RunParams, level: str, name: str) -> None:
    assert timing_name(params, level) == name


def test_time_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """600,000 steps, half of them at each level, and 41 times 70,000 forward passes of the larger one: of its
    40 models, and of the last one's slice; 4 cores.
    """
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    seconds = seconds_of(mnist(), TIMINGS)
    assert seconds == pytest.approx((600_000 * (0.3 + 0.1) / 2 + 2_870_000 * 0.01) / 4, rel=1e-12)
    uneven = seconds_of(mnist(levels="a1-e9"), TIMINGS)
    assert uneven == pytest.approx((600_000 * (0.03 + 0.09) + 2_870_000 * 0.01) / 4, rel=1e-12)


def test_more_cores_than_clients_of_a_round_help_evaluation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten clients a round on 40 cores."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 40)
    seconds = seconds_of(mnist(), TIMINGS)
    assert seconds == pytest.approx(600_000 * (0.3 + 0.1) / 2 / 10 + 2_870_000 * 0.01 / 40, rel=1e-12)


@pytest.mark.parametrize(("workers", "used"), [(1, 1), (3, 3), (None, 4), (9, 4)])
def test_a_run_may_have_fewer_processes_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, used: int
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    seconds = seconds_of(mnist(), TIMINGS, workers)
    assert seconds == pytest.approx((600_000 * (0.3 + 0.1) / 2 + 2_870_000 * 0.01) / used, rel=1e-12)


@pytest.mark.parametrize("missing", TIMINGS)
def test_time_is_unknown_unless_every_level_was_timed(missing: str) -> None:
    assert seconds_of(mnist(), {name: one for name, one in TIMINGS.items() if name != missing}) is None


# What is kept


def test_timings_are_kept_for_the_next_process(data: Path) -> None:
    assert kept_timings() == {}
    assert not data.exists()
    keep_timings(TIMINGS)
    assert kept_timings() == TIMINGS
    assert [path for path in data.rglob("*") if path.is_file()] == [data / "cache" / "timings.json"]


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", ["processor", "code_hash"])
def test_timings_of_another_machine_or_of_other_code_are_not_used(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(estimate, name, lambda: "another")
        keep_timings(TIMINGS)
        assert kept_timings() == TIMINGS
    assert kept_timings() == {}


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"null", b"\xff", b"{}", b'{"machine": {}}'])
def test_timings_that_cannot_be_read_are_measured_anew(content: bytes) -> None:
    keep_timings(TIMINGS)
    timings_path().write_bytes(content)
    assert kept_timings() == {}


@pytest.mark.usefixtures("data")
def test_timings_of_another_layout_are_measured_anew() -> None:
    keep_timings(TIMINGS)
    kept = json.loads(timings_path().read_text())
    kept["timings"]["cnn sbn mnist a 10"]["a_field_of_tomorrow"] = 1
    timings_path().write_text(json.dumps(kept))
    assert kept_timings() == {}


# Without what a run needs

TRAINING = ("torch", "torchvision", "sklearn", "PIL", "pyarrow", "tqdm")
READING = (
    *("estimate", "status", "pipeline", "locks", "records", "studies", "settings", "pages"),
    "report.badges",
)


def used_by_the_book() -> set[str]:
    """The modules that its pages and its extensions import."""
    book = ROOT / "book"
    pages = [*book.glob("*.md"), *book.glob("report/*.md"), *book.glob("_ext/*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    found = set()
    for package, names in re.findall(r"^from heterofl_core(\.report)? import (.+)$", text, re.MULTILINE):
        found |= {f"{package}.{name}".removeprefix(".") for name in names.split(", ")}
    return found | set(re.findall(r"^from heterofl_core\.((?:report\.)?\w+) import", text, re.MULTILINE))


def test_what_reads_records_works_where_nothing_for_training_is_installed() -> None:
    """Such as on a cluster's login node, or where the book is built."""
    modules = used_by_the_book()
    assert {"report.exhibits", "report.ledger", "report.closely", "report.run_pages"} < modules
    imports = "; ".join(f"import heterofl_core.{module}" for module in sorted(modules.union(READING)))
    missing = [name for name in TRAINING if name != "PIL"]  # which comes with matplotlib
    program = f"import sys; sys.modules |= dict.fromkeys({missing}); {imports}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_needs_nothing_of_what_only_the_book_needs() -> None:
    packages = ("IPython", "jinja2", "myst_nb", "nbformat", "papermill", "plotly", "seaborn")
    program = f"import sys; sys.modules |= dict.fromkeys({packages}); import heterofl_core.runs"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_status_works_there_too(outputs: Path) -> None:
    program = (
        f"import sys; sys.modules |= dict.fromkeys({TRAINING}); from heterofl_core.__main__ import main; "
        "sys.exit(main(['status', 'table5']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("table5 (Combinations of levels on MNIST): 62 runs: 62 missing; ")
    assert not outputs.exists()


def test_timings_of_augmented_images_are_other_timings() -> None:
    names = {
        timing_name(run_params(dataset="mnist", levels="e", augmented=augmented), "e")
        for augmented in (False, True)
    }
    assert names == {"cnn sbn mnist e 10", "cnn sbn mnist augmented e 10"}


def test_timings_of_other_blocks_are_other_timings() -> None:
    few, many = (run_params(dataset="cifar10", levels="e", blocks=blocks) for blocks in (None, [2, 2, 2, 2]))
    assert timing_name(few, "e") != timing_name(many, "e")
