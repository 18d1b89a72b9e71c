"""The paper's Transformer encoder for masked-token prediction (Vaswani et al., 2017; Table 4)."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.errors import InputError
from heterofl_core.layers import Scaler, dropout
from heterofl_core.params import SEQUENCE_LENGTH
from heterofl_core.selection import LABELS, TOKENS, Axis, scaled_width
from heterofl_core.sliceable import Layout, SliceableModel

EMBEDDING_SIZE = 256
HIDDEN_SIZE = 512
HEADS = 8
LAYERS = 4
DROPOUT = 0.2


class Attention(nn.Module):
    """Multi-head self-attention; all heads stay at every level, and each becomes narrower.

    The temperature is the root of the head's own width.

    Args:
        embedding: width of what comes in and goes out.
        head_width: of each of the `HEADS` heads.
        scale: see `layers.Scaler`.
    """

    def __init__(self, embedding: int, head_width: int, scale: float) -> None:
        super().__init__()
        self.head_width = head_width
        width = HEADS * head_width
        self.query = nn.Linear(embedding, width)
        self.key = nn.Linear(embedding, width)
        self.value = nn.Linear(embedding, width)
        self.output = nn.Linear(width, embedding)
        self.scaler = Scaler(scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, embedding) to (B, T, embedding)."""
        query, key, value = (
            self.scaler(linear(x)).unflatten(-1, (HEADS, self.head_width)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )  # each (B, heads, T, head_width)
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.head_width)  # (B, heads, T, T)
        mixed = scores.softmax(dim=-1) @ value  # (B, heads, T, head_width)
        return self.scaler(self.output(mixed.transpose(1, 2).flatten(-2)))


class EncoderLayer(nn.Module):
    """Attention and two linear layers, each followed by dropout, a residual sum and layer normalisation.

    Args:
        embedding: width of what comes in and goes out.
        hidden: width between the two linear layers.
        head_width, scale: see `Attention`.
    """

    def __init__(self, embedding: int, hidden: int, head_width: int, scale: float) -> None:
        super().__init__()
        self.attention = Attention(embedding, head_width, scale)
        self.norm1 = nn.LayerNorm(embedding)
        self.linear1 = nn.Linear(embedding, hidden)
        self.linear2 = nn.Linear(hidden, embedding)
        self.norm2 = nn.LayerNorm(embedding)
        self.scaler = Scaler(scale)
        for linear in (self.linear1, self.linear2):
            nn.init.normal_(linear.weight, std=0.02)

    def forward(self, x: Tensor, noise: Iterator[Tensor | None]) -> Tensor:
        """(B, T, embedding) to (B, T, embedding); takes three draws of dropout from `noise`."""
        x = self.norm1(x + dropout(self.attention(x), DROPOUT, next(noise)))
        hidden = dropout(F.gelu(self.scaler(self.linear1(x))), DROPOUT, next(noise))  # (B, T, hidden)
        return self.norm2(x + dropout(self.scaler(self.linear2(hidden)), DROPOUT, next(noise)))


class Transformer(SliceableModel):
    """Embeds tokens and positions, encodes, and predicts the token at every position.

    The last row of the token embedding is [MASK], so it has one row more than there are tokens. The norm is
    always layer normalisation.

    Args:
        width_rate: share of the full widths: 256 of the embedding, 512 hidden, 32 of each of 8 heads.
        norm: `ln`.
        scale: of the Scaler; 1 turns it off.
        num_tokens: in the vocabulary, or in a client's part of it.

    Raises:
        InputError: another norm.
    """

    def __init__(
        self, width_rate: float = 1.0, norm: str = "ln", scale: float = 1.0, num_tokens: int = 33_279
    ) -> None:
        super().__init__()
        if norm != "ln":
            raise InputError(f"norm {norm!r} is not possible with arch 'transformer'; allowed is ln")
        self.embedding = scaled_width(EMBEDDING_SIZE, width_rate)
        self.hidden = scaled_width(HIDDEN_SIZE, width_rate)
        self.head_width = scaled_width(EMBEDDING_SIZE // HEADS, width_rate)
        self.num_tokens = num_tokens
        self.token = nn.Embedding(num_tokens + 1, self.embedding)
        self.position = nn.Embedding(SEQUENCE_LENGTH, self.embedding)
        self.norm = nn.LayerNorm(self.embedding)
        self.scaler = Scaler(scale)
        self.layers = nn.ModuleList(
            EncoderLayer(self.embedding, self.hidden, self.head_width, scale) for _ in range(LAYERS)
        )
        self.decoder = nn.Linear(self.embedding, self.embedding)
        self.decoder_norm = nn.LayerNorm(self.embedding)
        self.linear = nn.Linear(self.embedding, num_tokens)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def noise_sizes(self) -> list[int]:
        """Draws of each dropout for one position: behind the embedding, and three in each layer."""
        return [self.embedding, *len(self.layers) * (self.embedding, self.hidden, self.embedding)]

    def noise(self, inputs: Tensor, source: torch.Generator) -> tuple[Tensor, ...]:
        """The draws of all dropouts, shape (B, T, sum of `noise_sizes`), for tokens of shape (B, T)."""
        shape = (*inputs.shape, sum(self.noise_sizes))
        return (torch.rand(shape, generator=source, device=source.device),)

    def forward(self, tokens: Tensor, noise: Tensor | None = None) -> Tensor:
        """Logits of shape (B, T, num_tokens) for tokens of shape (B, T); `num_tokens` stands for [MASK].

        Args:
            noise: see the method; None for no dropout.
        """
        drops = itertools.repeat(None) if noise is None else iter(noise.split(self.noise_sizes, dim=-1))
        positions = self.position(torch.arange(tokens.shape[1], device=tokens.device))  # (T, embedding)
        x = self.scaler(self.token(tokens)) + self.scaler(positions)  # (B, T, embedding)
        x = dropout(self.norm(x), DROPOUT, next(drops))
        for layer in self.layers:
            x = layer(x, drops)
        return self.linear(self.decoder_norm(F.gelu(self.scaler(self.decoder(x)))))

    def layout(self) -> Layout:
        """The residual stream is one axis; each layer has its heads and its hidden units inside."""
        embedding = Axis("embedding", self.embedding)
        layout: dict[str, tuple[Axis | None, Axis | None]] = {
            "token": (Axis(TOKENS, self.num_tokens + 1, shrinks=False), embedding),
            "position": (None, embedding),
            "norm": (embedding, None),
        }
        for number in range(len(self.layers)):
            name = f"layers.{number}"
            heads = Axis(f"heads{number}", HEADS * self.head_width, groups=HEADS)
            hidden = Axis(f"hidden{number}", self.hidden)
            for projection in ("query", "key", "value"):
                layout[f"{name}.attention.{projection}"] = (heads, embedding)
            layout[f"{name}.attention.output"] = (embedding, heads)
            layout[f"{name}.norm1"] = (embedding, None)
            layout[f"{name}.linear1"] = (hidden, embedding)
            layout[f"{name}.linear2"] = (embedding, hidden)
            layout[f"{name}.norm2"] = (embedding, None)
        decoder = Axis("decoder", self.embedding)
        layout["decoder"] = (decoder, embedding)
        layout["decoder_norm"] = (decoder, None)
        layout["linear"] = (Axis(LABELS, self.num_tokens, shrinks=False), decoder)
        return layout
