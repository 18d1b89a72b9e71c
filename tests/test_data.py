"""Data sets: the official pixels, decoded once, and one sentence when they cannot be had."""

import hashlib
import io
import struct
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from heterofl_core import data, folders
from heterofl_core.data import Images, load_data, read_cache, read_parquet, torchvision_datasets
from heterofl_core.errors import InputError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
LABELS = np.array([5, 0, 4])
A_FEW = Images(PICTURES[:, None], LABELS, PICTURES[:1, None], LABELS[:1])


def same(one: Images, other: Images) -> bool:
    """Whether all four arrays agree in type, shape and content."""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(asdict(one).values(), asdict(other).values(), strict=True)
    )


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(path: Path, images: list[Any] | None = None) -> None:
    """A file in Hugging Face's layout, of `PICTURES` unless other images are given."""
    images = images or [{"bytes": png(picture), "path": None} for picture in PICTURES]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"image": images, "label": LABELS}).to_parquet(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("HETEROFL_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts `A_FEW` in MNIST's place; grows by one whenever they are decoded."""
    calls: list[str] = []

    def read() -> Images:
        calls.append("mnist")
        return A_FEW

    monkeypatch.setitem(data.READERS, "mnist", read)
    return calls


# Digits


def test_digits_are_scikit_learns_with_every_fifth_for_testing() -> None:
    digits, original = load_data("digits"), load_digits()
    assert digits.train_inputs.shape == (1437, 1, 16, 16)
    assert digits.test_inputs.shape == (360, 1, 16, 16)
    assert digits.train_inputs.dtype == np.uint8
    assert digits.train_labels.dtype == np.int64
    assert (digits.num_labels, digits.input_shape) == (10, (1, 16, 16))
    assert digits.test_labels.tolist() == original.target[::5].tolist()
    assert digits.train_labels[:5].tolist() == original.target[[1, 2, 3, 4, 6]].tolist()
    for row in (0, 1):  # each pixel became 2×2
        for column in (0, 1):
            assert np.array_equal(digits.test_inputs[:, 0, row::2, column::2], original.images[::5])


@pytest.mark.parametrize(
    "inputs",
    [
        load_data("digits").train_inputs,
        np.random.default_rng(1).integers(0, 256, (50, 3, 5, 7), dtype=np.uint8),
    ],
    ids=["digits", "three channels"],
)
def test_pixel_statistics_are_numpys_in_float64(inputs: np.ndarray) -> None:
    mean, deviation = Images(inputs, LABELS, inputs, LABELS).pixel_statistics()
    exact = inputs.astype(np.float64)
    assert mean.shape == deviation.shape == (inputs.shape[1], 1, 1)
    np.testing.assert_allclose(mean.ravel(), exact.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation.ravel(), exact.std(axis=(0, 2, 3)), rtol=1e-12)


# MNIST from the mirror


@pytest.fixture(scope="module")
def mnist_twice(
    mnist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Images, Images, Path]]:
    """MNIST decoded from the mirror; again after the mirror is gone; and the folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("HETEROFL_DATA", str(folder))
        (folder / "mnist").symlink_to(mnist.resolve())
        first = load_data("mnist")
        (folder / "mnist").unlink()
        yield first, load_data("mnist"), folder


def test_mnist_written_back_as_idx_files_has_the_official_checksums(
    mnist_twice: tuple[Images, Images, Path],
) -> None:
    mnist, _, _ = mnist_twice
    sums = []
    for inputs, labels in (
        (mnist.train_inputs, mnist.train_labels),
        (mnist.test_inputs, mnist.test_labels),
    ):
        count = len(labels)
        sums += [
            hashlib.md5(struct.pack(">4I", 0x803, count, 28, 28) + inputs.tobytes()).hexdigest(),
            hashlib.md5(struct.pack(">2I", 0x801, count) + labels.astype(np.uint8).tobytes()).hexdigest(),
        ]
    assert sums == [
        "6bbc9ace898e44ae57da46a324031adb",  # train-images-idx3-ubyte
        "a25bea736e30d166cdddb491f175f624",  # train-labels-idx1-ubyte
        "2646ac647ad5339dbf082846283269ea",  # t10k-images-idx3-ubyte
        "27ae3e4e09519cfbb04c329615203637",  # t10k-labels-idx1-ubyte
    ]


def test_mnist_has_the_statistics_that_everybody_normalises_by(
    mnist_twice: tuple[Images, Images, Path],
) -> None:
    mean, deviation = mnist_twice[0].pixel_statistics()
    assert (mean.item() / 255, deviation.item() / 255) == pytest.approx((0.1307, 0.3081), abs=5e-5)


def test_the_second_load_needs_no_mirror_and_is_identical(mnist_twice: tuple[Images, Images, Path]) -> None:
    first, second, folder = mnist_twice
    assert same(first, second)
    assert [path.name for path in folder.iterdir()] == ["cache"]
    assert [path.name for path in (folder / "cache").iterdir()] == ["mnist.npz"]


# The cache


def test_data_are_decoded_once(folder: Path, decoded: list[str]) -> None:
    assert same(load_data("mnist"), A_FEW)
    assert same(load_data("mnist"), A_FEW)
    assert decoded == ["mnist"]
    assert (folder / "cache" / "mnist.npz").exists()


def test_a_read_only_mirror_is_not_written_to(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, checkout = folder / "mirror", folder / "checkout"
    mirror.mkdir(mode=0o555)
    monkeypatch.setenv("HETEROFL_DATA", str(mirror))
    monkeypatch.setattr(folders, "ROOT", checkout)
    load_data("mnist")
    assert list(mirror.iterdir()) == []
    assert (checkout / "data" / "cache" / "mnist.npz").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "no archive", "one array", "a pickle"])
def test_a_damaged_cache_is_named_with_what_to_do(folder: Path, decoded: list[str], damage: str) -> None:
    load_data("mnist")
    path = folder / "cache" / "mnist.npz"
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "no archive":
            path.write_bytes(b"0123456789" * 10)
        case "one array":
            np.savez(path, train_inputs=PICTURES)
        case "a pickle":
            np.savez(path, **asdict(A_FEW) | {"test_labels": np.array([{}], dtype=object)})
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    assert str(failure.value).startswith(f"cached data {path} is damaged (")
    assert str(failure.value).endswith("); delete it, and it is made anew")
    assert "\n" not in str(failure.value)
    assert decoded == ["mnist"]


def test_a_cache_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **asdict(A_FEW))
    whole = path.read_bytes()
    assert same(read_cache(path), A_FEW)
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_cache(path)


# Parquet files


def test_a_parquet_file_is_decoded_exactly(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path)
    pixels, labels = read_parquet(path, rows=3)
    assert np.array_equal(pixels, PICTURES[:, None])
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [5, 0, 4]


def test_a_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    (folder / "mnist").mkdir()
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    assert str(failure.value) == (
        f"data file {path} is missing; put it there, or unset HETEROFL_DATA to download"
    )


def test_a_wrong_number_of_rows_is_told(folder: Path) -> None:
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    write_parquet(path)
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    assert str(failure.value) == f"data file {path} has 3 rows; 60000 are expected"
    assert not (folder / "cache").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "truncated",
        "no parquet",
        "half a picture",
        "no picture",
        "sizes differ",
        "other columns",
    ],
)
def test_a_damaged_parquet_file_is_named_in_one_sentence(folder: Path, damage: str) -> None:
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    write_parquet(path)
    picture = png(PICTURES[0])
    one = {"bytes": picture, "path": None}
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-20])
        case "no parquet":
            path.write_bytes(b"0123456789" * 10)
        case "half a picture":
            write_parquet(path, [one, one, {"bytes": picture[:400], "path": None}])
        case "no picture":
            write_parquet(path, [one, one, None])
        case "sizes differ":
            write_parquet(path, [one, one, {"bytes": png(PICTURES[0, :, :27]), "path": None}])
        case "other columns":
            pd.DataFrame({"text": ["a"]}).to_parquet(path)
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    assert str(failure.value).startswith(f"data file {path} is damaged (")
    assert str(failure.value).endswith("); fetch it again")
    assert "\n" not in str(failure.value)
    assert not (folder / "cache").exists()


# MNIST from its official source


def test_torchvisions_data_sets_import_beside_a_cpu_only_torch() -> None:
    datasets = torchvision_datasets()
    assert datasets.MNIST.__module__ == "torchvision.datasets.mnist"
    assert torchvision_datasets() is datasets  # a second call registers nothing twice


def test_downloaded_files_give_the_same_arrays(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for half in ("train", "t10k"):
        (raw / f"{half}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, 3, 28, 28) + PICTURES.tobytes()
        )
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 3) + bytes(LABELS.tolist()))
    expected = Images(PICTURES[:, None], LABELS, PICTURES[:, None], LABELS)
    assert same(load_data("mnist"), expected)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download fails."""

    def download(*_: object, **__: object) -> None:
        raise URLError("no network")

    torchvision_datasets()
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)


@pytest.mark.usefixtures("no_network")
def test_without_mirror_and_network_the_message_says_what_to_put_where(folder: Path) -> None:
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    answer = str(failure.value)
    assert answer.startswith(f"mnist is not in {folder / 'mnist'} and could not be downloaded (")
    assert "no network" in answer
    assert answer.endswith(
        "); put train-00000-of-00001.parquet and test-00000-of-00001.parquet (columns image, label) into "
        "that folder, or set HETEROFL_DATA to the folder that holds mnist/"
    )
    assert not (folder / "cache").exists()


@pytest.mark.usefixtures("no_network", "folder")
def test_without_mirror_and_network_the_message_is_one_line() -> None:
    with pytest.raises(InputError) as failure:
        load_data("mnist")
    assert "\n" not in str(failure.value)
