"""Data sets as arrays in memory, decoded once and then read from a cache."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from heterofl_core.errors import InputError
from heterofl_core.files import atomic
from heterofl_core.folders import cache_folder, data_folder


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
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in channels]
        share = np.array([count / count.sum() for count in counts])  # (channels, 256)
        mean = share @ np.arange(256)
        deviation = np.sqrt(share @ np.arange(256) ** 2 - mean**2)
        return mean[:, None, None], deviation[:, None, None]


def load_data(dataset: str) -> Images:
    """Loads a data set: from the cache, else from the mirror, else from its official source.

    Args:
        dataset: `digits` (embedded in scikit-learn) or `mnist`.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is damaged; the message says
            exactly what to put where.
    """
    if dataset == "digits":
        return load_digits()
    cache = cache_folder() / f"{dataset}.npz"
    if cache.exists():
        return read_cache(cache)
    images = READERS[dataset]()
    with atomic(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, **asdict(images))
    return images


def read_cache(path: Path) -> Images:
    """Reads arrays that `load_data` decoded before; never a pickle."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Images(**arrays)
    except (OSError, ValueError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cached data {path} is damaged ({error}); delete it, and it is made anew"
        ) from error


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
        train = read_parquet(folder / "train-00000-of-00001.parquet", rows=60_000)
        test = read_parquet(folder / "test-00000-of-00001.parquet", rows=10_000)
        return Images(*train, *test)
    mnist = torchvision_datasets().MNIST
    try:
        halves = [mnist(str(data_folder()), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"mnist is not in {folder} and could not be downloaded ({error}); put "
            "train-00000-of-00001.parquet and test-00000-of-00001.parquet (columns image, label) into "
            "that folder, or set HETEROFL_DATA to the folder that holds mnist/"
        ) from error
    train, test = ((half.data.numpy()[:, None], half.targets.numpy()) for half in halves)
    return Images(*train, *test)


READERS: dict[str, Callable[[], Images]] = {"mnist": read_mnist}


def read_parquet(path: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images and labels from one Parquet file in Hugging Face's layout.

    Returns:
        Pixels of shape (rows, 1, height, width) and labels of shape (rows,).

    Raises:
        InputError: the file is missing, damaged, or has another number of rows.
    """
    import pandas as pd
    from PIL import Image

    if not path.exists():
        raise InputError(f"data file {path} is missing; put it there, or unset HETEROFL_DATA to download")
    try:
        table = pd.read_parquet(path, columns=["image", "label"])
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]])
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's and Pillow's errors are these
        raise InputError(f"data file {path} is damaged ({error}); fetch it again") from error
    if len(table) != rows:
        raise InputError(f"data file {path} has {len(table)} rows; {rows} are expected")
    return pixels[:, None], table["label"].to_numpy(np.int64)


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
