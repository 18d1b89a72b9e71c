"""Bring your own: a folder of images as a data set, a class that Python can import as a model."""

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from heterofl_core.data import load_images
from heterofl_core.equivalence import is_current
from heterofl_core.errors import InputError
from heterofl_core.estimate import Sizes, sizes_of, timing_name
from heterofl_core.federation import Federation
from heterofl_core.models import build_model
from heterofl_core.own import changed_files, is_own_dataset, is_own_model, of_model
from heterofl_core.params import Execution, run_params
from heterofl_core.runs import execute

PICTURES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
MODEL = """
from heterofl_core.cnn import CNN


class Mine(CNN):
    pass


class NotSliceable:
    pass
"""


def encoded(picture: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set `own-mine`, still empty."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    folder = tmp_path / "own-mine"
    folder.mkdir()
    return folder


def write(folder: Path, half: str, labels: list[Any], pictures: np.ndarray = PICTURES) -> None:
    images = [encoded(picture) for picture in pictures[: len(labels)]]
    pd.DataFrame({"image": images, "label": labels}).to_parquet(folder / f"{half}.parquet")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that has the models above, and that workers find, too."""
    get_reusable_executor().shutdown()  # those of an earlier test would not look into this folder
    (tmp_path / "own_models.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)  # an earlier test's lay in another folder
    return "own_models"


@pytest.mark.parametrize("name", ["own-mine", "own-fashion-mnist", "own-2"])
def test_names_of_own_data_sets(name: str) -> None:
    assert is_own_dataset(name)


@pytest.mark.parametrize("name", ["own", "own-", "own--a", "own-../mnist", "own-A", "mnist", "own-a/b"])
def test_names_that_are_no_folder_of_ones_own(name: str) -> None:
    assert not is_own_dataset(name)


@pytest.mark.parametrize(("arch", "own"), [("a.b:C", True), ("a:b.C", False), ("cnn", False), (":C", False)])
def test_names_of_own_models(arch: str, own: bool) -> None:
    assert is_own_model(arch) == own


def test_own_images_are_read_as_they_are(folder: Path) -> None:
    write(folder, "train", [0, 1, 2, 1])
    write(folder, "test", [2, 0])
    images = load_images("own-mine")
    assert np.array_equal(images.train_inputs, PICTURES[:4, None])
    assert images.train_labels.tolist() == [0, 1, 2, 1]
    assert np.array_equal(images.test_inputs, PICTURES[:2, None])
    assert images.num_labels == 3
    assert sizes_of("own-mine") == Sizes((1, 16, 16), train=4, test=2)


def test_own_images_that_changed_are_read_anew(folder: Path) -> None:
    for labels in ([0, 1], [1, 0]):
        write(folder, "train", labels)
        write(folder, "test", [0])
        assert load_images("own-mine").train_labels.tolist() == labels


def test_a_missing_half_is_named_with_what_to_put_where(folder: Path) -> None:
    write(folder, "train", [0, 1])
    with pytest.raises(
        InputError, match=rf"^dataset 'own-mine' is not in {folder}; put train.parquet and test"
    ):
        load_images("own-mine")


@pytest.mark.parametrize(("train", "test"), [([0, 2], [0]), ([1, 2], [1]), ([0, 1], [2]), ([-1, 0], [0])])
def test_labels_with_a_gap_or_unknown_ones_are_refused(
    folder: Path, train: list[int], test: list[int]
) -> None:
    write(folder, "train", train)
    write(folder, "test", test)
    with pytest.raises(InputError, match=r"^dataset 'own-mine' has the training labels .* without a gap"):
        load_images("own-mine")


@pytest.mark.parametrize(
    ("labels", "kind"), [([0.0, 1.5], "float64"), ([0, None], "float64"), (["0", "1"], r"\w+")]
)
def test_labels_that_are_no_whole_numbers_are_refused(folder: Path, labels: list[Any], kind: str) -> None:
    """Fractions would be cut off, and a missing one would become the smallest integer."""
    write(folder, "train", labels)
    write(folder, "test", [0])
    sentence = rf"^data file {folder / 'train.parquet'} has labels of type {kind}; allowed are integers, none"
    with pytest.raises(InputError, match=sentence):
        load_images("own-mine")


def test_a_single_label_is_refused(folder: Path) -> None:
    """Whatever a model says of it would be right."""
    write(folder, "train", [0, 0])
    write(folder, "test", [0])
    with pytest.raises(
        InputError, match=r"^dataset 'own-mine' has the training label 0 only; two or more are"
    ):
        load_images("own-mine")


def test_halves_of_different_sizes_are_refused(folder: Path) -> None:
    write(folder, "train", [0, 1])
    write(folder, "test", [0], PICTURES[:, :8])
    with pytest.raises(InputError, match=r"shape \(1, 16, 16\) and test images of shape \(1, 8, 16\)"):
        load_images("own-mine")


@pytest.mark.parametrize("mode", ["I;16", "P", "1", "RGBA"])
def test_images_that_are_neither_gray_nor_rgb_in_bytes_are_refused(folder: Path, mode: str) -> None:
    """A palette's numbers are no brightness, and 16 bits would be cut."""
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, "PNG")
    images = [encoded(PICTURES[0]), {"bytes": file.getvalue(), "path": None}]
    pd.DataFrame({"image": images, "label": [0, 1]}).to_parquet(folder / "train.parquet")
    write(folder, "test", [0])
    with pytest.raises(InputError) as failure:
        load_images("own-mine")
    assert str(failure.value) == (
        f"data file {folder / 'train.parquet'} has an image of Pillow's mode {mode!r}; allowed are 'L' "
        "(gray) and 'RGB', a byte for each channel"
    )


@pytest.mark.parametrize("other", [PICTURES[0, :8], np.stack([PICTURES[0]] * 3, axis=-1)])
def test_images_that_are_not_alike_in_size_and_channels_are_refused(folder: Path, other: np.ndarray) -> None:
    images = [encoded(PICTURES[0]), encoded(other)]
    pd.DataFrame({"image": images, "label": [0, 1]}).to_parquet(folder / "train.parquet")
    write(folder, "test", [0])
    with pytest.raises(InputError) as failure:
        load_images("own-mine")
    first, second = sorted([PICTURES[0].shape, other.shape])
    assert str(failure.value) == (
        f"data file {folder / 'train.parquet'} has images of shape {first} and of shape {second}; "
        "they must be alike"
    )


def test_a_channel_that_is_the_same_everywhere_is_refused(folder: Path) -> None:
    """Its standard deviation is zero."""
    coloured = np.stack([PICTURES, PICTURES, np.full_like(PICTURES, 7)], axis=-1)
    write(folder, "train", [0, 1], coloured)
    write(folder, "test", [0], coloured)
    with pytest.raises(
        InputError, match=r"^dataset 'own-mine' has the same value everywhere in channel 2 of"
    ):
        load_images("own-mine")


def test_images_that_are_too_small_for_the_network_are_refused_before_any_work(folder: Path) -> None:
    write(folder, "train", [0, 1] * 6, PICTURES[:, :4, :4])
    write(folder, "test", [0, 1, 0], PICTURES[:, :4, :4])
    with pytest.raises(InputError, match=r"^arch 'cnn' with norm 'sbn' cannot take .* \(1, 4, 4\) \("):
        Federation(run_params(dataset="own-mine", levels="d-e", num_clients=3))


def test_an_own_model_is_built_by_its_address(module: str) -> None:
    model = build_model(f"{module}:Mine", width_rate=0.5, input_shape=(1, 16, 16))
    assert type(model).__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own_models:Other", "arch 'own_models:Other' cannot be imported"),
        ("nowhere:Mine", "arch 'nowhere:Mine' cannot be imported"),
        (
            "own_models:NotSliceable",
            "arch 'own_models:NotSliceable' is not a class that extends SliceableModel",
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_told_in_one_sentence(module: str, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^{sentence}"):
        build_model(name)


def test_a_run_on_ones_own_records_what_it_used(
    folder: Path, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(tmp_path / "outputs"))
    write(folder, "train", [0, 1, 2] * 4)
    write(folder, "test", [2, 0, 1])
    params = run_params(
        dataset="own-mine", levels="d-e", arch=f"{module}:Mine", num_clients=3, participation=1.0, rounds=1
    )
    record = execute(Federation(params), Execution(workers=2))  # the workers import the model, too
    files = [folder / "train.parquet", folder / "test.parquet", tmp_path / "own_models.py"]
    assert record["own"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert record["engine"] == "plain"


def test_a_run_whose_files_changed_is_no_longer_current(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HETEROFL_OUTPUTS", str(tmp_path / "outputs"))
    for half in ("train", "test"):
        write(folder, half, [0, 1, 0, 1, 0, 1])
    params = run_params(dataset="own-mine", levels="e", arch="mlp", num_clients=3, rounds=1)
    federation = Federation(params)
    write(folder, "test", [1, 0, 1, 0])  # after it was read, and before the run begins
    record = execute(federation, Execution(workers=1))
    assert changed_files(record) == ["test.parquet"]
    assert not is_current(record)
    write(folder, "test", [0, 1, 0, 1, 0, 1])
    assert is_current(record)
    write(folder, "train", [1, 0, 1, 0])
    capsys.readouterr()
    execute(Federation(params), Execution(workers=1))
    assert "is done already, with another train.parquet; force=True" in capsys.readouterr().out
    (folder / "train.parquet").unlink()
    assert is_current(record)  # on a machine without the data nothing is known of them


def test_a_changed_model_is_noticed_where_the_data_are_not(module: str, folder: Path, tmp_path: Path) -> None:
    params = run_params(dataset="own-mine", levels="e", arch=f"{module}:Mine", num_clients=3)
    own = {"train.parquet": "0123", "own_models.py": "4567"}
    assert changed_files({"params": params.model_dump(mode="json"), "own": own}) == ["own_models.py"]


@pytest.mark.parametrize(("package", "cannot"), [("nosuch", "imported"), ("broken", "built")])
def test_a_model_of_a_package_that_cannot_be_imported_is_told_and_its_records_stay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, cannot: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("not Python\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(folder, "train", [0, 1] * 6)
    write(folder, "test", [0, 1, 0])
    params = run_params(dataset="own-mine", levels="e", arch=f"{package}.mod:Net", num_clients=3)
    with pytest.raises(InputError, match=rf"^arch '{package}\.mod:Net' cannot be {cannot}"):
        Federation(params)
    record = {"params": params.model_dump(mode="json"), "own": {"mod.py": "0123"}}
    assert changed_files(record) == []


@pytest.mark.parametrize("arch", ["mixers:Mixer", "mixers.mlp:Mixer"])
def test_a_model_of_a_package_is_all_of_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    """Its class may stand in any of them, and need what the others hold; none is imported to know."""
    (tmp_path / "mixers").mkdir()
    (tmp_path / "mixers" / "__init__.py").write_text("raise RuntimeError\n")
    (tmp_path / "mixers" / "mlp.py").write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = of_model(arch)
    assert list(before) == ["mixers/__init__.py", "mixers/mlp.py"]
    (tmp_path / "mixers" / "mlp.py").write_text("WIDTH = 32\n")
    assert [name for name, now in of_model(arch).items() if now != before[name]] == ["mixers/mlp.py"]


def test_a_module_without_a_file_has_no_digest() -> None:
    assert of_model("sys:Mixer") == {}


def test_a_timing_of_ones_own_model_is_one_of_what_its_file_holds(
    module: str, folder: Path, tmp_path: Path
) -> None:
    params = run_params(dataset="own-mine", levels="e", arch=f"{module}:Mine", num_clients=3)
    write(folder, "train", [0, 1] * 6)
    write(folder, "test", [0, 1, 0])
    before = timing_name(params, "e")
    assert timing_name(params, "e") == before
    (tmp_path / "own_models.py").write_text(f"{MODEL}\nLARGER = True\n", encoding="utf-8")
    assert timing_name(params, "e") != before


def test_a_program_of_an_own_model_is_refused(module: str, folder: Path) -> None:
    write(folder, "train", [0, 1] * 6)
    write(folder, "test", [0, 1, 0])
    params = run_params(dataset="own-mine", levels="e", arch=f"{module}:Mine", num_clients=3)
    with pytest.raises(InputError, match=r"^engine 'compiled' is not possible with arch 'own_models:Mine'"):
        execute(Federation(params), Execution(engine="compiled"))


@pytest.mark.parametrize("content", [b"no Parquet", b""])
def test_a_damaged_file_is_named_before_any_work_is_estimated(folder: Path, content: bytes) -> None:
    for half in ("train", "test"):
        (folder / f"{half}.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"^data files .*train\.parquet and .* cannot be read \(Arrow"):
        sizes_of("own-mine")
