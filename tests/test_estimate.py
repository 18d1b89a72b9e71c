"""The work of a run, and its time on this machine."""

import pytest

from heterofl_core.data import load_images
from heterofl_core.estimate import SIZES, estimate
from heterofl_core.folders import data_folder
from heterofl_core.params import run_params
from heterofl_core.text import load_text


def macs(**values: object) -> float:
    return estimate(run_params(**{"dataset": "digits", "levels": "e", "protocol": "smoke", **values})).macs


def test_macs_by_hand() -> None:
    """MNIST, level e: 200 rounds of 10 clients with 600 images, 5 epochs, forward and backward; 40 passes
    over 70,000 images."""
    forward = 182_912
    work = estimate(run_params(dataset="mnist", levels="e"))
    assert work.macs == forward * (200 * 10 * 5 * 600 * 3 + 40 * 70_000)


def test_a_norm_without_statistics_saves_the_pass_over_the_training_data() -> None:
    saved = macs() - macs(norm="gn")
    assert saved == pytest.approx(2 * SIZES["digits"].train * macs_of_one_image(), rel=1e-12)


def macs_of_one_image() -> float:
    """A run of two rounds evaluates twice; digits have 360 test images."""
    one, two = (macs(norm="gn", rounds=rounds, eval_every=1, milestones=[]) for rounds in (1, 2))
    training = 10 * SIZES["digits"].train / 100 * 3
    return (two - one) / (training + SIZES["digits"].test)


def test_time_is_positive_and_grows_with_the_rounds() -> None:
    short, long = (estimate(run_params(dataset="digits", levels="e", rounds=n)).seconds for n in (2, 200))
    assert 0 < short < long


def test_sizes_are_those_of_the_data() -> None:
    images = load_images("digits")
    assert SIZES["digits"].shape == images.input_shape
    assert (SIZES["digits"].train, SIZES["digits"].test) == (
        len(images.train_labels),
        len(images.test_labels),
    )


def test_sizes_of_text_are_those_of_the_data() -> None:
    if not (data_folder() / "wikitext2").is_dir():
        pytest.skip(f"WikiText2 is not in {data_folder()}; HETEROFL_DATA names another mirror")
    text = load_text()
    assert (SIZES["wikitext2"].train, SIZES["wikitext2"].test) == (
        len(text.train) // 64,
        len(text.test) // 64,
    )
