"""What a client's model costs: the Ratio, Parameters, FLOPs and Space columns of Tables 5 to 7.

The paper's FLOPs are those of the authors' counter, which works on one example and adds a layer's count
once for each of its parameter tensors, so most layers count twice. A layer's count is its
multiply-accumulates, plus one for each output of a convolution with bias; a norm's is twice its
elements. True multiply-accumulates (MACs) stand beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from heterofl_core.estimate import CLIENT_WORDS
from heterofl_core.levels import LEVELS, Mix, all_mixes, width_rate
from heterofl_core.models import build_model
from heterofl_core.params import SEQUENCE_LENGTH
from heterofl_core.printing import magnitude
from heterofl_core.transformer import Attention

BYTES = 4  # of a parameter in float32


@dataclass(frozen=True)
class Cost:
    """The cost of a model, or the mean cost of a mix.

    Attributes:
        parameters: trainable scalars.
        paper_flops: the paper's count for one example.
        macs: multiply-accumulates of convolutions and linear layers for one example (for text, one sequence).
        attention_macs: those of the products of queries, keys and values, which the authors' counter leaves
            out.
        space_mb: parameters × 4 bytes / 2^20. A client receives as much in a round where whole models travel:
            less with a partial vocabulary, `lg-fedavg` or `standalone`, more with the buffers of norm `bn`.
        ratio: parameters divided by those of the largest level of the mix.
    """

    parameters: float
    paper_flops: float
    macs: float
    attention_macs: float
    space_mb: float
    ratio: float = 1.0


def model_cost(arch: str, example: Tensor, **model_options: Any) -> Cost:
    """Counts the layers of a model while one example passes through it; nothing is computed.

    Args:
        arch, model_options: for `build_model`.
        example: on the meta device, such as one of shape (1, 1, 28, 28).
    """
    with torch.device("meta"):
        model = build_model(arch, **model_options)
    counts: list[tuple[int, int, int]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: counts.append(layer_count(layer, output)))
        for layer in model.modules()
    ]
    model(example)
    for hook in hooks:
        hook.remove()
    parameters = sum(value.numel() for value in model.parameters())
    paper_flops, macs, attention_macs = (sum(column) for column in zip(*counts, strict=True))
    return Cost(parameters, paper_flops, macs, attention_macs, parameters * BYTES / 2**20)


def layer_count(layer: nn.Module, output: Tensor) -> tuple[int, int, int]:
    """The paper's count, MACs and attention products of one layer for one example."""
    tensors = len(list(layer.parameters(recurse=False)))
    match layer:
        case nn.Conv2d():
            macs = output.numel() * layer.weight[0].numel()
            return tensors * (macs + (output.numel() if layer.bias is not None else 0)), macs, 0
        case nn.Linear():
            macs = output.numel() * layer.in_features
            return tensors * macs, macs, 0
        case nn.BatchNorm2d() | nn.GroupNorm() | nn.LayerNorm():
            return tensors * 2 * output.numel(), 0, 0
        case Attention():
            length = output.shape[1]
            return 0, 0, 2 * length * length * layer.value.out_features  # Q·K and the weighted sum of V
    return 0, 0, 0


def mix_cost(mix: Mix, cost_of_level: Callable[[str], Cost]) -> Cost:
    """The mean cost over a mix: what a client costs on average, as in the paper's tables."""
    costs = [cost_of_level(level) for level in mix.levels]

    def mean(name: str) -> float:
        return float(sum(share * getattr(cost, name) for share, cost in zip(mix.shares, costs, strict=True)))

    return Cost(
        parameters=mean("parameters"),
        paper_flops=mean("paper_flops"),
        macs=mean("macs"),
        attention_macs=mean("attention_macs"),
        space_mb=mean("space_mb"),
        ratio=mean("parameters") / costs[0].parameters,
    )


EXAMPLES = {
    "cnn": torch.empty(1, 1, 28, 28, device="meta"),
    "preresnet18": torch.empty(1, 3, 32, 32, device="meta"),
    "transformer": torch.empty(1, SEQUENCE_LENGTH, dtype=torch.int64, device="meta"),
}
"""For each of the paper's architectures an example of its data set: MNIST, CIFAR10, WikiText2."""


def client_sizes(arch: str) -> dict[str, int]:
    """Options of `build_model` for what a client has less of than the server: a Transformer's words."""
    return {"num_tokens": CLIENT_WORDS} if arch == "transformer" else {}


def cost_table(arch: str) -> pd.DataFrame:
    """The cost columns of Tables 5 to 7 for all 31 mixes: as the paper prints them, then exact counts.

    `whole_mb` is what a client receives in a round, and sends back, if whole models travel; `own_mb` if a
    Transformer has only the client's own words (`language.LanguageModelling`), as it does here.

    Args:
        arch: `cnn` for Table 5, `preresnet18` for Table 6, `transformer` for Table 7.
    """

    def of_level(level: str, **options: int) -> Cost:
        return model_cost(arch, EXAMPLES[arch], width_rate=width_rate(level), **options)

    whole = {level: of_level(level) for level in LEVELS}
    own = {level: of_level(level, **client_sizes(arch)) for level in LEVELS}
    rows = []
    for mix in all_mixes():
        cost = mix_cost(mix, whole.__getitem__)
        rows.append(
            {
                "Model": str(mix),
                "Ratio": f"{cost.ratio:.2f}",
                "Parameters": magnitude(cost.parameters),
                "FLOPs": magnitude(cost.paper_flops),
                "Space (MB)": f"{cost.space_mb:.2f}",
                "parameters": round(cost.parameters),
                "paper_flops": round(cost.paper_flops),
                "macs": round(cost.macs),
                "attention_macs": round(cost.attention_macs),
                "whole_mb": round(cost.space_mb, 3),
                "own_mb": round(mix_cost(mix, own.__getitem__).space_mb, 3),
            }
        )
    return pd.DataFrame(rows)
