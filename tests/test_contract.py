"""What a federation asks of a network: each fault is one sentence, before any work."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heterofl_core import models
from heterofl_core.contract import check_model
from heterofl_core.errors import InputError
from heterofl_core.params import RunParams, run_params
from heterofl_core.selection import LABELS, Axis, scaled_width
from heterofl_core.sliceable import Layout, SliceableModel

EXAMPLE = torch.empty(1, 1, 2, 2, device="meta")
OPTIONS: dict[str, Any] = {"width_rate": 1.0, "num_labels": 3}


class Tiny(SliceableModel):
    """Two linear layers: four pixels, five hidden units, a score for each label."""

    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__()
        width = self.width(width_rate)
        self.hidden, self.scores = nn.Linear(4, width), nn.Linear(width, num_labels)

    def width(self, width_rate: float) -> int:
        return scaled_width(5, width_rate)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.hidden(x.flatten(1)))
        return scores

    def layout(self) -> Layout:
        width = Axis("width", self.hidden.out_features)
        labels = Axis(LABELS, self.scores.out_features, shrinks=False)
        return {"hidden": (width, None), "scores": (labels, width)}


class WithoutOptions(Tiny):
    def __init__(self) -> None:
        super().__init__(1.0, 3)


class Shared(Tiny):
    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__(width_rate, num_labels)
        self.scores.bias = self.hidden.bias

    def width(self, width_rate: float) -> int:
        return 3


class OneTooMany(Tiny):
    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__(width_rate, num_labels + 1)


class WithoutLabels(Tiny):
    def layout(self) -> Layout:
        width = Axis("width", self.hidden.out_features)
        return {"hidden": (width, None), "scores": (None, width)}


class RoundedDown(Tiny):
    def width(self, width_rate: float) -> int:
        return int(5 * width_rate)


class HeldWhole(Tiny):
    def layout(self) -> Layout:
        return {
            "hidden": (None, None),
            "scores": (Axis(LABELS, self.scores.out_features, shrinks=False), None),
        }


class OneNameForTwo(Tiny):
    def layout(self) -> Layout:
        return {
            "hidden": (Axis(LABELS, self.hidden.out_features), None),
            "scores": (Axis(LABELS, self.scores.out_features, shrinks=False), None),
        }


class WithBuffer(Tiny):
    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__(width_rate, num_labels)
        self.register_buffer("offset", torch.ones(1), persistent=False)


class WithDropout(Tiny):
    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__(width_rate, num_labels)
        self.noise_layer = nn.Dropout(0.5)


class WithoutDropout(Tiny):
    def __init__(self, width_rate: float, num_labels: int) -> None:
        super().__init__(width_rate, num_labels)
        self.noise_layer = nn.Dropout(0.0)


class BuiltWithAMistake(Tiny):
    def width(self, width_rate: float) -> int:
        return {1.0: 5}[width_rate]


class LaidOutWithAMistake(Tiny):
    def layout(self) -> Layout:
        return {"hidden": (self.no_such_axis, None)}  # type: ignore[dict-item]


class WithFeatures(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x), x  # type: ignore[return-value]


def checked(kind: type[SliceableModel], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Checks a network as that of a run."""
    monkeypatch.setitem(models.ARCHITECTURES, "cnn", kind)
    params: RunParams = run_params(dataset="mnist", levels="e", **settings)
    check_model(params, EXAMPLE, {"a": OPTIONS, "b": OPTIONS | {"width_rate": 0.5}})


def test_a_network_that_keeps_to_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(Tiny, monkeypatch)
    checked(WithoutDropout, monkeypatch)  # which draws nothing


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (
            WithoutOptions,
            r"arch 'cnn' cannot be built \(.*\); it must take the options width_rate, num_labels",
        ),
        (BuiltWithAMistake, r"arch 'cnn' cannot be built \(KeyError\(0.5\)\); it must take .*, num_labels"),
        (
            LaidOutWithAMistake,
            r"the layout of arch 'cnn' cannot be read \(AttributeError\(.*\)\)",
        ),
        (WithFeatures, r"arch 'cnn' makes a tuple from one example; needed is a tensor"),
        (Shared, r"arch 'cnn' uses the tensor of 'scores.bias' in another layer, too; each .* its own"),
        (
            OneTooMany,
            r"arch 'cnn' makes scores of shape \(1, 4\) from one example; needed are \(1, 3\), .* label",
        ),
        (
            WithoutLabels,
            r"label_restricted True needs an axis named 'labels' in .*; allowed without it is False",
        ),
        (
            RoundedDown,
            r"arch 'cnn' has at level b a tensor 'hidden.weight' of shape \(2, 4\), .* has \(3, 4\); each .*",
        ),
        (
            HeldWhole,
            r"arch 'cnn' has at level b a tensor 'hidden.weight' of shape \(3, 4\), .* has \(5, 4\); .*",
        ),
        (
            OneNameForTwo,
            r"the layout of arch 'cnn' has an axis 'labels' of 5 coordinates and one of 3; each .* its own",
        ),
        (
            WithBuffer,
            r"arch 'cnn' has a buffer 'offset' that no state_dict holds, so it would not travel; .*",
        ),
        (
            WithDropout,
            r"arch 'cnn' has a layer 'noise_layer' of type Dropout, which would draw the same for all .*",
        ),
    ],
)
def test_each_fault_is_one_sentence(
    kind: type[SliceableModel], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=f"^{sentence}$"):
        checked(kind, monkeypatch)


def test_without_rows_of_their_own_labels_need_no_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    checked(WithoutLabels, monkeypatch, label_restricted=False)


def test_an_example_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.ARCHITECTURES, "cnn", Tiny)
    larger = torch.empty(1, 1, 3, 3, device="meta")
    with pytest.raises(InputError, match=r"^arch 'cnn' with norm 'sbn' cannot take .* \(1, 3, 3\) \("):
        check_model(run_params(dataset="mnist", levels="e"), larger, {"e": OPTIONS})
