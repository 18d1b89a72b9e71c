"""What every architecture declares: for each dimension of each tensor an axis, or None."""

from typing import Any

import pytest

from heterofl_core.levels import LEVELS, width_rate
from heterofl_core.models import build_model

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
