"""The architectures by name."""

from heterofl_core import models, params, preresnet


def test_what_parameters_know_of_the_models_without_torch_is_so() -> None:
    assert tuple(models.ARCHITECTURES) == params.ARCHITECTURES
    assert preresnet.BLOCKS == params.PAPER_BLOCKS
