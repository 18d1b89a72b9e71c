"""Image data sets as arrays."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from heterofl_core.decoded import decoded
from heterofl_core.errors import InputError
from heterofl_core.folders import data_folder
from heterofl_core.own import is_own_dataset, parquet_files
from heterofl_core.parquet import read_parquet


@dataclass(frozen=True)
class Images:
    """A classification data set of images.

    Attributes:
        train_inputs, test_inputs: unsigned bytes, shape (examples, channels, height, width).
        train_labels, test_labels: 64-bit integers, shape (examples,).
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray

    @property
    def num_labels(self) -> int:
        """Labels are 0 to num_labels - 1."""
        return int(self.train_labels.max()) + 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""
        return self.train_inputs.shape[1:]

    def pixel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over the training images, in byte units; each
        of shape (channels, 1, 1).
        """
        channels = np.moveaxis(self.train_inputs, 1, 0)
        parts = [np.array_split(channel, 100) for channel in channels]  # counting makes large copies
        counts = [np.sum([np.bincount(part.ravel(), minlength=256) for part in own], axis=0) for own in parts]
        share = np.array([count / count.sum() for count in counts])  # (channels, 256)
        mean = share @ np.arange(256)
        deviation = np.sqrt(share @ np.arange(256) ** 2 - mean**2)
        return mean[:, None, None], deviation[:, None, None]


def load_images(dataset: str) -> Images:
    """Loads a data set: from the cache, else from the mirror, else (MNIST) from its official source.

    Args:
        dataset: `digits` (embedded in scikit-learn), `mnist`, `cifar10`, or `own-NAME`, which is
            decoded each time, since it may have changed.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is damaged; the message says
            exactly what to put where.
    """
    if dataset == "digits":
        return load_digits()
    if is_own_dataset(dataset):
        return read_own(dataset)
    return Images(**decoded(dataset, Images, lambda: asdict(READERS[dataset]())))


def load_digits() -> Images:
    """The 1,797 handwritten digits that scikit-learn carries, every fifth one for testing.

    Each of the 8×8 pixels is doubled to 2×2: the CNN's three poolings then leave 2×2, so that every
    norm, instance normalisation included, has something to average over.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    inputs = digits.images.astype(np.uint8)[:, None].repeat(2, axis=2).repeat(2, axis=3)
    labels = digits.target.astype(np.int64)
    test = np.arange(len(labels)) % 5 == 0
    return Images(inputs[~test], labels[~test], inputs[test], labels[test])


def read_mnist() -> Images:
    """MNIST from the mirror if it is there, else downloaded through torchvision and its checksums."""
    folder = data_folder() / "mnist"
    if folder.is_dir():
        return Images(
            *read_images([folder / "train-00000-of-00001.parquet"], "image", rows=60_000),
            *read_images([folder / "test-00000-of-00001.parquet"], "image", rows=10_000),
        )
    train, test = download_mnist(folder)
    return Images(
        train.data.numpy()[:, None], train.targets.numpy(), test.data.numpy()[:, None], test.targets.numpy()
    )


def read_cifar10() -> Images:
    """CIFAR10 from the mirror. Its official files are pickles, which are never read here."""
    folder = data_folder() / "cifar10"
    if not folder.is_dir():
        raise InputError(
            f"cifar10 is not in {folder}; put train-00000-of-00002.parquet, train-00001-of-00002.parquet and "
            "test-00000-of-00001.parquet (columns img, label) into that folder, or set HETEROFL_DATA to the "
            "folder that holds cifar10/"
        )
    train_files = [folder / f"train-0000{part}-of-00002.parquet" for part in (0, 1)]
    return Images(
        *read_images(train_files, "img", rows=50_000),
        *read_images([folder / "test-00000-of-00001.parquet"], "img", rows=10_000),
    )


def read_own(dataset: str) -> Images:
    """Somebody's own data set; see `own`.

    Raises:
        InputError: a file is missing or damaged, the halves differ in the images' size, a channel is the same
            everywhere, there is one label only, or the test half has one that the training half lacks.
    """
    train, test = (read_images([file], "image") for file in parquet_files(dataset))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            f"dataset {dataset!r} has training images of shape {train[0].shape[1:]} and test images of shape "
            f"{test[0].shape[1:]}; they must be alike"
        )
    flat = [number for number, channel in enumerate(np.moveaxis(train[0], 1, 0)) if np.ptp(channel) == 0]
    if flat:
        raise InputError(
            f"dataset {dataset!r} has the same value everywhere in channel {flat[0]} of its training images, "
            "which cannot be normalised; leave that channel out"
        )
    labels = np.unique(train[1])
    if len(labels) == 1:
        raise InputError(
            f"dataset {dataset!r} has the training label {labels[0]} only; two or more are needed"
        )
    if labels[0] != 0 or labels[-1] != len(labels) - 1 or not np.isin(test[1], labels).all():
        raise InputError(
            f"dataset {dataset!r} has the training labels {labels.tolist()} and the test labels "
            f"{np.unique(test[1]).tolist()}; the first must be 0, 1, 2, ... without a gap, and the second "
            "among them"
        )
    return Images(*train, *test)


DAMAGED = (OSError, ValueError, IndexError, KeyError, TypeError, SyntaxError)
"""What Pillow and NumPy raise for images that they cannot read; a broken PNG is a SyntaxError to Pillow."""

READERS: dict[str, Callable[[], Images]] = {"mnist": read_mnist, "cifar10": read_cifar10}


def read_images(paths: Sequence[Path], column: str, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images and labels from Parquet files in Hugging Face's layout.

    Args:
        column: that holds the encoded images.
        rows: that all the files together must have; None for any number.

    Returns:
        Pixels of shape (rows, channels, height, width) and labels of shape (rows,).

    Raises:
        InputError: a file is missing or damaged, its images are neither gray nor RGB in bytes or are not
            alike, its labels are no integers, or there is another number of rows.
    """
    pixels, labels = [], []
    for path in paths:
        table = read_parquet(path, [column, "label"])
        try:
            images = [decode(image["bytes"], path) for image in table[column]]
            check_shapes(images, path)
            pixels.append(np.stack(images).reshape(len(images), *images[0].shape[:2], -1))
            labels.append(whole_numbers(table["label"], path))
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"data file {path} is damaged ({error}); fetch it again") from error
    found = sum(map(len, labels))
    if found != (rows or found):
        raise InputError(f"data file {' with '.join(map(str, paths))} has {found} rows; {rows} are expected")
    return np.ascontiguousarray(np.concatenate(pixels).transpose(0, 3, 1, 2)), np.concatenate(labels)


def whole_numbers(labels: pd.Series, path: Path) -> np.ndarray:
    """Labels as 64-bit integers, shape (rows,).

    Raises:
        InputError: they are no integers; fractions would be cut off, and missing ones made up.
    """
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"data file {path} has labels of type {labels.dtype}; allowed are integers, none of them missing"
        )
    return labels.to_numpy(np.int64)


def decode(encoded: bytes, path: Path) -> np.ndarray:
    """The pixels of one image, shape (height, width) or (height, width, channels).

    Args:
        path: of the file that it comes from.

    Raises:
        InputError: the image is neither gray nor RGB in bytes.
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode not in ("L", "RGB"):
            raise InputError(
                f"data file {path} has an image of Pillow's mode {image.mode!r}; allowed are 'L' (gray) and "
                "'RGB', a byte for each channel"
            )
        return np.asarray(image)


def check_shapes(images: Sequence[np.ndarray], path: Path) -> None:
    """Raises an `InputError` unless all images of a file are alike in size and channels."""
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise InputError(
            f"data file {path} has images of shape {shapes[0]} and of shape {shapes[1]}; they must be alike"
        )


def download_mnist(folder: Path) -> tuple[Any, Any]:
    """Training and test half of torchvision's MNIST, fetched with its checksums.

    Args:
        folder: where a mirror was looked for.

    Raises:
        InputError: it could not be downloaded; the message says what to put where.
    """
    mnist = torchvision_datasets().MNIST
    try:
        train, test = (mnist(str(data_folder()), train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"mnist is not in {folder} and could not be downloaded ({error}); put "
            "train-00000-of-00001.parquet and test-00000-of-00001.parquet (columns image, label) into "
            "that folder, or set HETEROFL_DATA to the folder that holds mnist/"
        ) from error
    return train, test


def torchvision_datasets() -> ModuleType:
    """Torchvision's data sets, which need none of its compiled operators.

    Beside a CPU-only torch, the registry's torchvision finds its operators missing and refuses to
    load; registering their names is enough for what is used here.

    Raises:
        InputError: torchvision cannot be imported.
    """
    import torch

    try:
        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "DEF")
            library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
            library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
            TORCHVISION_PLACEHOLDERS.append(library)
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise InputError(f"torchvision cannot be imported ({error}); reinstall it beside torch") from error
    return datasets


TORCHVISION_PLACEHOLDERS: list[object] = []
"""Keeps the registered names alive for as long as the process lives."""
