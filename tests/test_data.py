"""Data sets: the official pixels, decoded once, and one sentence when they cannot be had."""

import hashlib
import io
import pickle
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from heterofl_core import data, folders
from heterofl_core import decoded as decoded_module
from heterofl_core.data import (
    Images,
    load_images,
    read_images,
    torchvision_datasets,
)
from heterofl_core.decoded import CODE, read_cache, write_cache
from heterofl_core.errors import InputError

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
LABELS = np.array([5, 0, 4])
A_FEW = Images(PICTURES[:, None], LABELS, PICTURES[:1, None], LABELS[:1])
CACHED = ["test_inputs.npy", "test_labels.npy", "train_inputs.npy", "train_labels.npy"]
"""The files of a cache, by name."""
Twice = tuple[Images, Images, Path]
COLOURED = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
COLOURED_LABELS = np.array([6, 9, 9, 4, 1])


def same(one: Images, other: Images) -> bool:
    """Whether all four arrays agree in type, shape and content."""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(asdict(one).values(), asdict(other).values(), strict=True)
    )


def encoded(pixels: np.ndarray, **options: Any) -> dict[str, Any]:
    """A picture as it stands in a Parquet file; a PNG unless told otherwise."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **{"format": "PNG", **options})
    return {"bytes": file.getvalue(), "path": None}


def write_parquet(path: Path, images: list[Any] | None = None) -> None:
    """A file in Hugging Face's layout, of `PICTURES` unless other images are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = images or [encoded(picture) for picture in PICTURES]
    pd.DataFrame({"image": images, "label": LABELS}).to_parquet(path)


def write_coloured(folder: Path) -> list[Path]:
    """CIFAR10's three files in lossless WebP; the training files have three and two of `COLOURED`, the test
    file has the last one. Gives their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    paths = [folder / f"{name}.parquet" for name in names]
    for path, part in zip(paths, (slice(3), slice(3, 5), slice(4, 5)), strict=True):
        images = [encoded(picture, format="WEBP", lossless=True) for picture in COLOURED[part]]
        pd.DataFrame({"img": images, "label": COLOURED_LABELS[part]}).to_parquet(path)
    return paths


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
    digits, original = load_images("digits"), load_digits()
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
        load_images("digits").train_inputs,
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


# MNIST and CIFAR10 from the mirror


def twice(mirror: Path, data: Path) -> Twice:
    """A data set decoded from the mirror; again after the mirror is gone; and the data folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFL_DATA", str(data))
        (data / mirror.name).symlink_to(mirror.resolve())
        first = load_images(mirror.name)
        (data / mirror.name).unlink()
        return first, load_images(mirror.name), data


@pytest.fixture(scope="module")
def mnist_twice(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Twice:
    return twice(mnist, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cifar10_twice(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> Twice:
    return twice(cifar10, tmp_path_factory.mktemp("data"))


def test_mnist_written_back_as_idx_files_has_the_official_checksums(mnist_twice: Twice) -> None:
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


def test_mnist_has_the_statistics_that_everybody_normalises_by(mnist_twice: Twice) -> None:
    mean, deviation = mnist_twice[0].pixel_statistics()
    assert (mean.item() / 255, deviation.item() / 255) == pytest.approx((0.1307, 0.3081), abs=5e-5)


def test_cifar10_has_its_known_shapes_and_labels(cifar10_twice: Twice) -> None:
    cifar10, _, _ = cifar10_twice
    assert (cifar10.num_labels, cifar10.input_shape) == (10, (3, 32, 32))
    assert cifar10.train_inputs.shape == (50_000, 3, 32, 32)
    assert cifar10.test_inputs.shape == (10_000, 3, 32, 32)
    assert cifar10.train_inputs.dtype == np.uint8
    assert cifar10.train_labels.dtype == np.int64
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10


def test_cifar10_has_its_known_statistics_to_five_digits(cifar10_twice: Twice) -> None:
    mean, deviation = cifar10_twice[0].pixel_statistics()
    assert (mean.ravel() / 255).round(5).tolist() == [0.49140, 0.48216, 0.44653]
    assert (deviation.ravel() / 255).round(5).tolist() == [0.24703, 0.24349, 0.26159]


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_second_load_needs_no_mirror_and_is_identical(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    first, second, folder = request.getfixturevalue(f"{dataset}_twice")
    assert same(first, second)
    assert [path.name for path in folder.iterdir()] == ["cache"]
    assert sorted(path.relative_to(folder / "cache") for path in (folder / "cache").rglob("*.*")) == [
        Path(f"{dataset}_{CODE}") / name for name in CACHED
    ]


# The cache


def test_data_are_decoded_once(folder: Path, decoded: list[str]) -> None:
    assert same(load_images("mnist"), A_FEW)
    assert same(load_images("mnist"), A_FEW)
    assert decoded == ["mnist"]
    assert sorted(path.name for path in (folder / "cache" / f"mnist_{CODE}").iterdir()) == CACHED


@pytest.mark.usefixtures("folder")
def test_what_other_code_decoded_is_not_used(decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load_images("mnist")
    monkeypatch.setattr(decoded_module, "CODE", "a hash of other modules")
    load_images("mnist")
    assert decoded == ["mnist", "mnist"]


@pytest.mark.usefixtures("folder")
def test_cached_data_are_mapped_into_memory_and_cannot_be_written_to(decoded: list[str]) -> None:
    """All processes of a machine then share one copy."""
    load_images("mnist")
    for array in arrays_of(load_images("mnist")):
        assert isinstance(array, np.memmap)
        assert array.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert decoded == ["mnist"]


def arrays_of(images: Images) -> list[np.ndarray]:
    """The four arrays themselves; `asdict` would copy them."""
    return list(vars(images).values())


@pytest.mark.parametrize("lacking", CACHED)
def test_a_cache_that_lacks_a_file_is_made_anew(folder: Path, decoded: list[str], lacking: str) -> None:
    """As one whose writer was killed between two files."""
    load_images("mnist")
    (folder / "cache" / f"mnist_{CODE}" / lacking).unlink()
    assert read_cache(folder / "cache" / f"mnist_{CODE}", Images) is None
    assert same(load_images("mnist"), A_FEW)
    assert decoded == ["mnist", "mnist"]
    assert sorted(path.name for path in (folder / "cache" / f"mnist_{CODE}").iterdir()) == CACHED


def test_a_read_only_mirror_is_not_written_to(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, checkout = folder / "mirror", folder / "checkout"
    mirror.mkdir(mode=0o555)
    monkeypatch.setenv("HETEROFL_DATA", str(mirror))
    monkeypatch.setattr(folders, "ROOT", checkout)
    load_images("mnist")
    assert list(mirror.iterdir()) == []
    assert sorted(path.name for path in (checkout / "data" / "cache" / f"mnist_{CODE}").iterdir()) == CACHED


@pytest.mark.usefixtures("folder")
def test_somebody_elses_mirror_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert folders.cache_folder() == folders.ROOT / "data" / "cache"


@pytest.mark.parametrize("name", CACHED)
@pytest.mark.parametrize("damage", ["empty", "truncated", "no array", "a pickle", "pickled objects"])
def test_a_damaged_cache_is_named_with_what_to_do(
    folder: Path, decoded: list[str], name: str, damage: str
) -> None:
    load_images("mnist")
    path = folder / "cache" / f"mnist_{CODE}" / name
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1])
        case "no array":
            path.write_bytes(b"0123456789" * 10)
        case "a pickle":
            path.write_bytes(pickle.dumps(LABELS))
        case "pickled objects":
            np.save(path, np.array([{}], dtype=object))
    damaged = path.read_bytes()
    with pytest.raises(InputError) as failure:
        load_images("mnist")
    assert str(failure.value).startswith(f"cached data {path} is damaged (")
    assert str(failure.value).endswith("); delete it, and it is made anew")
    assert "\n" not in str(failure.value)
    assert decoded == ["mnist"]
    assert path.read_bytes() == damaged


def test_a_cached_array_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    write_cache(tmp_path, asdict(A_FEW))
    path = tmp_path / "train_labels.npy"
    whole = path.read_bytes()
    assert len(whole) == 128 + 3 * 8  # NumPy's header and three labels
    kept = read_cache(tmp_path, Images)
    assert kept is not None
    assert same(Images(**kept), A_FEW)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_cache(tmp_path, Images)


def test_a_cache_is_read_by_the_fields_of_its_dataclass(tmp_path: Path) -> None:
    @dataclass
    class Halves:
        train: np.ndarray
        test: np.ndarray

    write_cache(tmp_path, {"train": PICTURES, "test": LABELS, "another": LABELS})
    arrays = read_cache(tmp_path, Halves)
    assert arrays is not None
    assert list(arrays) == ["train", "test"]
    assert np.array_equal(arrays["train"], PICTURES)
    assert np.array_equal(arrays["test"], LABELS)
    assert read_cache(tmp_path, Images) is None
    assert read_cache(tmp_path / "nowhere", Images) is None


# Parquet files


def test_a_parquet_file_is_decoded_exactly(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path)
    pixels, labels = read_images([path], "image", rows=3)
    assert np.array_equal(pixels, PICTURES[:, None])
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [5, 0, 4]


def test_files_in_colour_are_decoded_one_after_the_other_with_channels_first(tmp_path: Path) -> None:
    pixels, labels = read_images(write_coloured(tmp_path)[:2], "img", rows=5)
    assert pixels.shape == (5, 3, 32, 32)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    for channel in range(3):
        assert np.array_equal(pixels[:, channel], COLOURED[..., channel])
    assert labels.tolist() == [6, 9, 9, 4, 1]


def test_cifar10_is_read_from_its_three_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, test = write_coloured(folder / "cifar10")
    asked: list[tuple[list[Path], str, int]] = []

    def read(paths: list[Path], column: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((paths, column, rows))
        return read_images(paths, column, rows={50_000: 5, 10_000: 1}[rows])

    monkeypatch.setattr(data, "read_images", read)
    pixels = COLOURED.transpose(0, 3, 1, 2)
    assert same(load_images("cifar10"), Images(pixels, COLOURED_LABELS, pixels[4:], COLOURED_LABELS[4:]))
    assert asked == [([first, second], "img", 50_000), ([test], "img", 10_000)]
    assert sorted(path.name for path in (folder / "cache" / f"cifar10_{CODE}").iterdir()) == CACHED


def test_the_rows_of_both_files_are_counted_together(folder: Path) -> None:
    first, second, _ = write_coloured(folder / "cifar10")
    with pytest.raises(InputError) as failure:
        load_images("cifar10")
    assert str(failure.value) == f"data file {first} with {second} has 5 rows; 50000 are expected"
    assert not (folder / "cache").exists()


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "truncated", "a grey picture", "other columns"])
def test_the_one_of_both_files_that_is_damaged_is_named(folder: Path, part: int, damage: str) -> None:
    path = write_coloured(folder / "cifar10")[part]
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:-20])
        case "a grey picture":
            images = [encoded(COLOURED[0]), encoded(COLOURED[0, :, :, 0])]
            pd.DataFrame({"img": images, "label": [0, 1]}).to_parquet(path)
        case "other columns":
            write_parquet(path)  # MNIST's
    with pytest.raises(InputError) as failure:
        load_images("cifar10")
    answer = str(failure.value)
    if damage == "missing":
        assert answer == f"data file {path} is missing; put it there"
    elif damage == "a grey picture":
        shapes = COLOURED[0, :, :, 0].shape, COLOURED[0].shape
        assert answer == (
            f"data file {path} has images of shape {shapes[0]} and of shape {shapes[1]}; they must be alike"
        )
    else:
        assert answer.startswith(f"data file {path} is damaged (")
        assert answer.endswith("); fetch it again")
    assert "\n" not in answer
    assert not (folder / "cache").exists()


def test_a_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    (folder / "mnist").mkdir()
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    with pytest.raises(InputError) as failure:
        load_images("mnist")
    assert str(failure.value) == (f"data file {path} is missing; put it there")


def test_a_wrong_number_of_rows_is_told(folder: Path) -> None:
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    write_parquet(path)
    with pytest.raises(InputError) as failure:
        load_images("mnist")
    assert str(failure.value) == f"data file {path} has 3 rows; 60000 are expected"
    assert not (folder / "cache").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "empty",
        "truncated",
        "no parquet",
        "half a picture",
        "a flipped bit",
        "no picture",
        "other columns",
    ],
)
def test_a_damaged_parquet_file_is_named_in_one_sentence(folder: Path, damage: str) -> None:
    path = folder / "mnist" / "train-00000-of-00001.parquet"
    write_parquet(path)
    one = encoded(PICTURES[0])
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-20])
        case "no parquet":
            path.write_bytes(b"0123456789" * 10)
        case "half a picture":
            write_parquet(path, [one, one, {**one, "bytes": one["bytes"][:400]}])
        case "a flipped bit":  # in the length of a chunk: a SyntaxError to Pillow
            broken = bytearray(one["bytes"])
            broken[one["bytes"].index(b"IDAT") - 2] ^= 1
            write_parquet(path, [one, one, {**one, "bytes": bytes(broken)}])
        case "no picture":
            write_parquet(path, [one, one, None])
        case "other columns":
            pd.DataFrame({"text": ["a"]}).to_parquet(path)
    with pytest.raises(InputError) as failure:
        load_images("mnist")
    assert str(failure.value).startswith(f"data file {path} is damaged (")
    assert str(failure.value).endswith("); fetch it again")
    assert "\n" not in str(failure.value)
    assert not (folder / "cache").exists()


# MNIST from its official source, CIFAR10 never


def test_torchvisions_data_sets_import_beside_a_cpu_only_torch() -> None:
    datasets = torchvision_datasets()
    assert datasets.MNIST.__module__ == "torchvision.datasets.mnist"
    assert datasets.CIFAR10.__module__ == "torchvision.datasets.cifar"
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
    assert same(load_images("mnist"), expected)


@pytest.mark.parametrize("pickles", [True, False], ids=["with its official files", "without them"])
def test_cifar10_is_never_downloaded_nor_unpickled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pickles: bool
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("asked torchvision or a pickle")

    monkeypatch.setattr(data, "torchvision_datasets", never)
    monkeypatch.setattr("pickle.load", never)
    monkeypatch.setattr("pickle.loads", never)
    if pickles:
        (folder / "cifar-10-batches-py").mkdir()
        (folder / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x04N.")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError) as failure:
        load_images("cifar10")
    assert str(failure.value) == (
        f"cifar10 is not in {folder / 'cifar10'}; put train-00000-of-00002.parquet, "
        "train-00001-of-00002.parquet and test-00000-of-00001.parquet (columns img, label) into that folder, "
        "or set HETEROFL_DATA to the folder that holds cifar10/"
    )
    assert sorted(folder.rglob("*")) == before


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
        load_images("mnist")
    answer = str(failure.value)
    assert answer.startswith(f"mnist is not in {folder / 'mnist'} and could not be downloaded (")
    assert "no network" in answer
    assert answer.endswith(
        "); put train-00000-of-00001.parquet and test-00000-of-00001.parquet (columns image, label) into "
        "that folder, or set HETEROFL_DATA to the folder that holds mnist/"
    )
    assert "\n" not in answer
    assert not (folder / "cache").exists()
