"""The layers that the paper adds: Scaler, static batch normalisation, masked cross-entropy.

Equation (4), a hidden layer of HeteroFL: y = φ(sBN(Scaler(X W + b))).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.errors import InputError

GROUPS = 4  # of GroupNorm, as in the authors' code
UNASKED = -100
"""The target of a position whose label is not to be predicted; PyTorch's own default."""


class Scaler(nn.Module):
    """Divides by the client's width rate during training, as inverted dropout does (Section 3).

    A model that sees only a share s of the hidden units would otherwise learn to produce in s what the
    global model produces with all of them. In evaluation nothing is scaled.

    Args:
        scale: width rate of the client's model relative to the global model's, in (0, 1].
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Scales `x` of any shape in training, and returns it as it is in evaluation."""
        return x / self.scale if self.training and self.scale != 1 else x


def dropout(x: Tensor, rate: float, noise: Tensor | None) -> Tensor:
    """Inverted dropout (Srivastava et al., 2014) whose draws are given, so that whoever executes a model
    decides where they come from.

    Args:
        x: of any shape.
        rate: share of the elements that are dropped, in [0, 1).
        noise: uniform draws from [0, 1), in the shape of `x`; None for no dropout, as in evaluation.
    """
    return x if noise is None else x * (noise >= rate) / (1 - rate)


class StaticBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation without running estimates: sBN (Section 3); takes what `nn.BatchNorm2d` takes.

    In training it normalises each batch by its own statistics and remembers nothing, so clients have
    nothing to upload that describes their data. In evaluation it uses statistics that
    `statistics.collect_statistics` sets once after training.

    Attributes:
        mean, variance: shape (channels,), or None before they were collected.
        batch_mean, batch_variance: where each batch leaves its own statistics in training (the variance
            unbiased), shape (channels,); None to leave none.
    """

    mean: Tensor | None
    variance: Tensor | None
    batch_mean: Tensor | None = None
    batch_variance: Tensor | None = None

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("variance", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises `x` of shape (batch, channels, height, width), in the precision of the parameters.

        Raises:
            RuntimeError: in evaluation, before statistics were collected.
        """
        x = x.to(self.weight.dtype)
        if self.training:
            own = self.batch_mean, self.batch_variance
            return F.batch_norm(x, *own, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        if self.mean is None or self.variance is None:
            raise RuntimeError("sBN has no statistics yet: call collect_statistics after training")
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=self.eps)


def norm_layer(norm: str, channels: int) -> nn.Module:
    """The normalisation behind a convolution: the paper's sBN or one that it compares with.

    `bn` is ordinary batch normalisation, whose running estimates are averaged like parameters.
    Instance and layer normalisation are group normalisation with one channel a group and with one
    group.

    Raises:
        InputError: `norm` is unknown, or the channels cannot be cut into the groups of `gn`.
    """
    match norm:
        case "sbn":
            return StaticBatchNorm2d(channels)
        case "bn":
            return nn.BatchNorm2d(channels)
        case "in":
            return nn.GroupNorm(channels, channels)
        case "ln":
            return nn.GroupNorm(1, channels)
        case "gn":
            if channels % GROUPS:
                raise InputError(f"norm 'gn' needs a multiple of {GROUPS} channels, not {channels}")
            return nn.GroupNorm(GROUPS, channels)
        case "none":
            return nn.Identity()
    raise InputError(f"norm {norm!r} is unknown; allowed are sbn, bn, in, gn, ln, none")


def mask_logits(logits: Tensor, held: Tensor, masked_loss: str) -> Tensor:
    """What the masked cross-entropy does to the logits of labels that the client does not hold.

    Args:
        logits: shape (..., labels).
        held: shape (labels,) or that of the logits, true for labels in the client's data.
        masked_loss: `zero` sets absent logits to 0, so that their classes stay in the softmax as
            constants (the paper's choice); `neg_inf` takes them out of it; `detach` keeps their
            values and stops their gradient; `none` changes nothing.

    Raises:
        InputError: `masked_loss` is unknown.
    """
    match masked_loss:
        case "zero":
            return logits.masked_fill(~held, 0.0)
        case "neg_inf":
            return logits.masked_fill(~held, -torch.inf)
        case "detach":
            return torch.where(held, logits, logits.detach())
        case "none":
            return logits
    raise InputError(f"masked_loss {masked_loss!r} is unknown; allowed are zero, neg_inf, detach, none")


def masked_cross_entropy(
    logits: Tensor, targets: Tensor, held: Tensor, masked_loss: str, left_out: int = 0
) -> Tensor:
    """The masked cross-entropy, in nats (Section 4): a mean over all positions that are to be predicted, and
    0 if there is none.

    Args:
        logits: shape (batch, labels), or (batch, length, labels) for text.
        targets: shape (batch,) or (batch, length); `UNASKED` where nothing is to be predicted.
        held, masked_loss: see `mask_logits`.
        left_out: labels that the client's model leaves out because the client does not hold them. With
            `zero` each would add exp(0) to the softmax's denominator: together they are one more class with
            the constant logit log(left_out), and the loss and its gradients are exactly the same.
    """
    logits = mask_logits(logits, held, masked_loss).flatten(0, -2)
    if left_out and masked_loss == "zero":
        logits = F.pad(logits, (0, 1), value=math.log(left_out))
    asked = (targets != UNASKED).sum().clamp(min=1)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=UNASKED, reduction="sum") / asked
