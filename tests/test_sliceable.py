"""What every architecture declares: for each dimension of each tensor an axis, or None."""

from typing import Any

import pytest
from torch import Tensor, nn

from heterofl_core.errors import InputError
from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.models import build_model
from heterofl_core.selection import Axis
from heterofl_core.sliceable import Layout, SliceableModel

NORMS = ("sbn", "none", "in", "gn", "ln", "bn")
MODELS: list[tuple[str, dict[str, Any]]] = [
    *(("cnn", {"norm": norm}) for norm in NORMS),
    *(
        ("preresnet18", {"width_rate": 1 / 4, "norm": norm, "blocks": blocks})
        for norm in NORMS
        for blocks in ((1, 1, 1, 2), (2, 2, 2, 2))
    ),
    *(("transformer", {"width_rate": width_rate(level), "num_tokens": 50}) for level in LEVELS),
    ("mlp", {}),
]


@pytest.mark.parametrize(("arch", "options"), MODELS)
def test_every_tensor_declares_axes_that_fit_its_shape(arch: str, options: dict[str, Any]) -> None:
    model = build_model(arch, **options)
    axes = model.axes()
    assert set(axes) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert len(axes[name]) == value.dim(), name
        for axis, size in zip(axes[name], value.shape, strict=True):
            assert axis is None or axis.size == size, name


class OneLayer(SliceableModel):
    """A linear layer of 2 outputs and 3 inputs, with any layout."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.claimed = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def layout(self) -> Layout:
        return self.claimed


def test_a_layer_that_a_layout_forgets_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^the layout of OneLayer has no entry for the layer of 'linear.weight'$"
    ):
        OneLayer({}).axes()


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^the layout of OneLayer has an entry for 'other', and no such layer$"
    ):
        OneLayer({"linear": (None, None), "other": (None, None)}).axes()


def test_an_axis_of_the_wrong_size_is_named() -> None:
    sentence = (
        "^the layout of OneLayer puts dimension 1 of 'linear.weight', which has 3 coordinates, on the axis "
        "'inputs', which has 4$"
    )
    with pytest.raises(InputError, match=sentence):
        OneLayer({"linear": (Axis("outputs", 2), Axis("inputs", 4))}).axes()
