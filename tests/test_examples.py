"""What a client trains on, and how it becomes batches."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heterofl_core.examples import ImageExamples, TextExamples, augment, normalise
from heterofl_core.layers import UNASKED


class Draws:
    """In place of a generator: corners that were chosen by hand."""

    def __init__(self, corners: list[list[int]], flips: list[float]) -> None:
        self.corners, self.flips = np.array(corners), np.array(flips)

    def integers(self, low: int, high: int, shape: tuple[int, int]) -> np.ndarray:
        assert (low, high, shape) == (0, 9, self.corners.shape)
        return self.corners

    def random(self, size: int) -> np.ndarray:
        assert size == len(self.flips)
        return self.flips


# Images


def image_examples(number: int = 13, augmented: bool = False) -> ImageExamples:
    """Images of one pixel that tells them apart, labelled by ten times its value."""
    inputs = np.arange(number, dtype=np.uint8)[:, None, None, None]
    mean, deviation = np.zeros((1, 1, 1)), np.ones((1, 1, 1))
    return ImageExamples(inputs, np.arange(number) * 10, mean, deviation, augmented)


def test_pixels_are_normalised_by_channel() -> None:
    inputs = np.array([[[[0, 10]], [[20, 255]]]], dtype=np.uint8)  # (1, 2, 1, 2)
    mean, deviation = np.array([10.0, 20.0])[:, None, None], np.array([5.0, 47.0])[:, None, None]
    result = normalise(inputs, mean, deviation)
    assert result.tolist() == [[[[-2, 0]], [[0, 5]]]]
    assert result.dtype == torch.float32


def test_each_epoch_sees_every_image_once_with_its_label_in_another_order() -> None:
    examples, rng = image_examples(), np.random.default_rng(0)
    orders = []
    for _ in range(4):
        batches = list(examples.epoch(5, rng))
        assert [tuple(images.shape) for images, _ in batches] == [(5, 1, 1, 1), (5, 1, 1, 1), (3, 1, 1, 1)]
        pixels = list(itertools.chain(*(images.flatten().tolist() for images, _ in batches)))
        labels = list(itertools.chain(*(labels.tolist() for _, labels in batches)))
        assert sorted(pixels) == list(range(13))
        assert labels == [10 * pixel for pixel in pixels]
        orders.append(tuple(pixels))
    assert len(set(orders)) == 4


def test_an_epoch_is_augmented_before_it_is_shuffled_and_normalised() -> None:
    """With the generator's draws in this order."""
    inputs = np.random.default_rng(1).integers(0, 256, (6, 2, 5, 5), dtype=np.uint8)
    mean, deviation = np.array([100.0, 50.0])[:, None, None], np.array([2.0, 4.0])[:, None, None]
    examples = ImageExamples(inputs, np.arange(6), mean, deviation, augmented=True)
    rng = np.random.default_rng(0)
    expected = normalise(augment(inputs, rng), mean, deviation)
    order = rng.permutation(6)
    images, labels = (
        torch.cat(parts) for parts in zip(*examples.epoch(4, np.random.default_rng(0)), strict=True)
    )
    assert labels.tolist() == order.tolist()
    assert torch.equal(images, expected[order])


def test_an_epoch_of_images_begins_with_as_many_whole_batches_as_fit() -> None:
    inputs = np.zeros((13, 3, 4, 5), dtype=np.uint8)
    examples = ImageExamples(inputs, np.arange(13), np.zeros((3, 1, 1)), np.ones((3, 1, 1)), False)
    assert examples.batch_shape(5) == (5, 3, 4, 5)
    assert [examples.whole_batches(size) for size in (1, 5, 13, 14)] == [13, 2, 1, 0]
    shapes = [tuple(images.shape) for images, _ in examples.epoch(5, np.random.default_rng(0))]
    assert shapes == [(5, 3, 4, 5), (5, 3, 4, 5), (3, 3, 4, 5)]


# Augmentation


def slow_augment(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image, and one pixel, at a time."""
    number, channels, height, width = inputs.shape
    tops, lefts = rng.integers(0, 9, (2, number))
    flips = np.less(rng.random(number), 0.5).tolist()
    result = np.zeros_like(inputs)
    for image, (top, left, flip) in enumerate(zip(tops, lefts, flips, strict=True)):
        for channel, row, column in itertools.product(range(channels), range(height), range(width)):
            to = width - 1 - column if flip else column
            source_row, source_column = row + top - 4, column + left - 4
            if 0 <= source_row < height and 0 <= source_column < width:
                result[image, channel, row, to] = inputs[image, channel, source_row, source_column]
    return result


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_augmenting_crops_and_flips_each_image_on_its_own(
    number: int, channels: int, height: int, width: int, seed: int
) -> None:
    inputs = np.random.default_rng(seed + 1).integers(
        1, 256, (number, channels, height, width), dtype=np.uint8
    )
    before = inputs.copy()
    result = augment(inputs, np.random.default_rng(seed))
    np.testing.assert_array_equal(result, slow_augment(inputs, np.random.default_rng(seed)))
    np.testing.assert_array_equal(inputs, before)
    assert result.dtype == np.uint8


@pytest.mark.parametrize(
    ("top", "left", "flip", "expected"),
    [
        (4, 4, 0.9, [[1, 2], [3, 4]]),
        (4, 4, 0.1, [[2, 1], [4, 3]]),
        (5, 4, 0.9, [[3, 4], [0, 0]]),
        (4, 5, 0.9, [[2, 0], [4, 0]]),
        (3, 3, 0.9, [[0, 0], [0, 1]]),
        (3, 3, 0.1, [[0, 0], [1, 0]]),
        (0, 8, 0.9, [[0, 0], [0, 0]]),
    ],
)
def test_the_margin_is_black(top: int, left: int, flip: float, expected: list[list[int]]) -> None:
    """The crop's corner is at (4, 4) where the image itself begins."""
    image = np.array([[[[1, 2], [3, 4]]]], dtype=np.uint8)
    draws = Draws([[top], [left]], [flip])
    assert augment(image, draws)[0, 0].tolist() == expected  # type: ignore[arg-type]


def test_every_crop_and_both_directions_are_equally_likely() -> None:
    """Of one bright pixel in the middle of nine by nine: where it goes, in 81 places of 0 to 8."""
    number = 16_200
    inputs = np.zeros((number, 1, 9, 9), dtype=np.uint8)
    inputs[:, 0, 4, 4] = 1
    places = augment(inputs, np.random.default_rng(0)).sum(axis=0)[0]
    assert np.abs(places - 200.0).max() < 4.5 * np.sqrt(200)
    inputs[:, 0] = np.arange(1, 10)  # brighter from left to right
    rows = augment(inputs, np.random.default_rng(0))[:, 0, 4].astype(int)  # at least five columns are seen
    rising = (np.sign(np.diff(rows, axis=1)) * (rows[:, 1:] > 0) * (rows[:, :-1] > 0)).sum(axis=1) > 0
    assert abs(rising.mean() - 0.5) < 4 * np.sqrt(0.25 / number)


# Text


def text_examples(rows: int = 3, length: int = 150, num_tokens: int = 1000) -> TextExamples:
    """Rows of numbers in sequence, so that each position has a token of its own."""
    return TextExamples(np.arange(rows * length).reshape(rows, length), num_tokens)


def test_an_epoch_of_text_covers_every_token_once_in_windows_of_64_in_order() -> None:
    batches = list(text_examples().epoch(3, np.random.default_rng(0)))
    assert [tuple(targets.shape) for _, targets in batches] == [(3, 64), (3, 64), (3, 22)]
    together = torch.cat([targets for _, targets in batches], dim=1)
    assert torch.equal(together, torch.arange(450).reshape(3, 150))


def test_a_batch_has_the_same_window_of_as_many_rows_as_asked_for() -> None:
    batches = [targets for _, targets in text_examples(length=70).epoch(2, np.random.default_rng(0))]
    assert [tuple(targets.shape) for targets in batches] == [(2, 64), (2, 6), (1, 64), (1, 6)]
    assert torch.cat([torch.cat(batches[:2], dim=1), torch.cat(batches[2:], dim=1)]).tolist() == [
        list(range(70)),
        list(range(70, 140)),
        list(range(140, 210)),
    ]


@given(st.integers(1, 7), st.integers(1, 200), st.integers(1, 7))
def test_an_epoch_of_text_begins_with_the_whole_windows_of_its_first_rows(
    rows: int, length: int, batch_size: int
) -> None:
    examples = text_examples(rows, length)
    shapes = [tuple(inputs.shape) for inputs, _ in examples.epoch(batch_size, np.random.default_rng(0))]
    whole = examples.whole_batches(batch_size)
    assert whole == length // 64
    assert (
        shapes[:whole] == [examples.batch_shape(batch_size)] * whole == [(min(rows, batch_size), 64)] * whole
    )


def test_the_masks_of_rows_are_drawn_at_once() -> None:
    """A row at a time from left to right, not a window at a time: one array of draws for two rows, then one
    for the third.
    """
    rng = np.random.default_rng(0)
    expected = np.concatenate([rng.random((2, 150)), rng.random((1, 150))]) < 0.15
    batches = [inputs for inputs, _ in text_examples().epoch(2, np.random.default_rng(0))]
    masked = torch.cat([torch.cat(batches[:3], dim=1), torch.cat(batches[3:], dim=1)]) == 1000
    np.testing.assert_array_equal(masked.numpy(), expected)


def test_about_15_percent_of_the_tokens_become_mask_and_the_others_stay() -> None:
    examples = text_examples(rows=10, length=6400, num_tokens=70_000)
    batches = list(examples.epoch(10, np.random.default_rng(0)))
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    masked = inputs == 70_000
    assert torch.equal(inputs[~masked], targets[~masked])
    assert abs(masked.double().mean().item() - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 64_000)
    by_row, by_place = masked.double().mean(dim=1), masked[:, :6400].reshape(10, 100, 64).double()
    assert (by_row - 0.15).abs().max() < 5 * np.sqrt(0.15 * 0.85 / 6400)
    assert (by_place.mean(dim=(0, 1)) - 0.15).abs().max() < 5 * np.sqrt(0.15 * 0.85 / 1000)


def test_where_masked_tokens_alone_are_to_be_predicted_nothing_else_changes() -> None:
    everything, examples = text_examples(), replace(text_examples(), predicted="masked")
    batches, plain = (list(each.epoch(2, np.random.default_rng(0))) for each in (examples, everything))
    for (inputs, targets), (same, tokens) in zip(batches, plain, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(targets, torch.where(inputs == 1000, tokens, UNASKED))
    assert any((targets != UNASKED).any() for _, targets in batches)


def test_each_epoch_masks_other_tokens() -> None:
    examples, rng = text_examples(), np.random.default_rng(0)
    first, second = (torch.cat([inputs for inputs, _ in examples.epoch(3, rng)], dim=1) for _ in range(2))
    assert not torch.equal(first, second)


def test_an_epoch_leaves_the_text_as_it_was() -> None:
    examples = text_examples()
    before = examples.tokens.copy()
    list(examples.epoch(2, np.random.default_rng(0)))
    np.testing.assert_array_equal(examples.tokens, before)
