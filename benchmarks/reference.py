"""Common practice: how published implementations of HeteroFL and its relatives execute a round.

The models, the data and who holds what are ours, so that only the execution differs. One torch process with
torch's default number of threads trains one client after the other: a deep copy of the sliced state
dictionary is loaded into a new model; a `DataLoader` turns images into tensors one at a time, through PIL,
and collates dictionaries; the loss becomes a number at every step. The Transformer has the whole vocabulary,
with the logits of absent words set to zero. After every round the sBN statistics are collected over the whole
training set in batches of 10, and all test images pass twice, once for the Global accuracy and once, client
by client, for the Local one.

`bench.py` times this beside ours; nothing else uses it.
"""

import copy
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from heterofl_core.classification import Classification
from heterofl_core.examples import MASK_RATE, PADDING
from heterofl_core.federation import Federation
from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.language import TEST_ROWS, LanguageModelling
from heterofl_core.models import build_model
from heterofl_core.params import SEQUENCE_LENGTH, RunParams
from heterofl_core.selection import LABELS, TOKENS
from heterofl_core.sliceable import SliceableModel
from heterofl_core.text import in_rows
from heterofl_core.transformer import DROPOUT

STATISTICS_BATCH = 10  # images
TEST_BATCH = 50  # images

Example = dict[str, Tensor]
"""What a `DataLoader` gives out: `inputs` and `targets`."""

State = dict[str, Tensor]


class TransformedImages(Dataset[Example]):
    """Images that become tensors one at a time, when they are asked for.

    Args:
        inputs: bytes of shape (images, channels, height, width).
        labels: shape (images,).
        mean, deviation: of the pixels in byte units, each of shape (channels, 1, 1).
        augmented: whether an image is cropped and flipped at random each time.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        deviation: np.ndarray,
        augmented: bool,
    ) -> None:
        self.pixels = np.ascontiguousarray(np.moveaxis(inputs, 1, -1))  # (images, height, width, channels)
        self.labels = labels
        self.mean, self.deviation = (torch.tensor(value / 255).float() for value in (mean, deviation))
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Example:
        pixels = self.pixels[number]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        if self.augmented:
            image = flipped(cropped(image))
        inputs = (as_tensor(image) - self.mean) / self.deviation
        return {"inputs": inputs, "targets": torch.tensor(self.labels[number])}


def cropped(image: Image.Image) -> Image.Image:
    """A random part of the image with a black margin, as large as the image."""
    left, top = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
    width, height = image.size
    return ImageOps.expand(image, PADDING).crop((left, top, left + width, top + height))


def flipped(image: Image.Image) -> Image.Image:
    """The image, or its mirror image, each as likely."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def as_tensor(image: Image.Image) -> Tensor:
    """Floats in [0, 1] of shape (channels, height, width)."""
    pixels = torch.from_numpy(np.array(image))
    channels_first = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return channels_first.contiguous().float().div(255)


@dataclass(frozen=True)
class Windows:
    """The windows along rows of text, each with masks drawn when it is asked for.

    Attributes:
        tokens: shape (rows, length).
        num_tokens: the number that stands for [MASK].
    """

    tokens: Tensor
    num_tokens: int

    def __len__(self) -> int:
        return math.ceil(self.tokens.shape[1] / SEQUENCE_LENGTH)

    def __iter__(self) -> Iterator[Example]:
        for targets in self.tokens.split(SEQUENCE_LENGTH, dim=1):
            masked = torch.bernoulli(torch.full(targets.shape, MASK_RATE)).bool()
            yield {"inputs": targets.masked_fill(masked, self.num_tokens), "targets": targets}


def add_dropout(model: nn.Module) -> None:
    """Gives a Transformer what `nn.Dropout` does in training; ours takes draws as inputs or does nothing."""

    def after(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, DROPOUT, layer.training)

    def before(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return F.dropout(inputs[0], DROPOUT, layer.training)

    model.get_submodule("norm").register_forward_hook(after)
    for layer in model.get_submodule("layers").children():
        layer.get_submodule("attention").register_forward_hook(after)
        layer.get_submodule("linear2").register_forward_pre_hook(before)
        layer.get_submodule("linear2").register_forward_hook(after)


def local_update(
    model: nn.Module, batches: Iterable[Example], held: Tensor, params: RunParams, lr: float
) -> float:
    """Trains a client's model where it stands.

    Args:
        batches: of one local epoch; gone through anew in each.
        held: labels in the client's data, shape (labels,), boolean.
        params: momentum, weight decay, clipping and local epochs.
        lr: of this round.

    Returns:
        Mean loss over all steps, in nats.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=params.momentum, weight_decay=params.weight_decay
    )
    model.train()
    losses = []
    for _ in range(params.local_epochs):
        for batch in batches:
            optimizer.zero_grad()
            logits = model(batch["inputs"]).masked_fill(~held, 0)
            loss = F.cross_entropy(logits.flatten(0, -2), batch["targets"].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


class Reference:
    """Rounds and evaluations of a federation, executed as is common.

    Args:
        federation: ours, for its data, its clients and their levels.
        steps: of a client in a local epoch, at most; None for all. Where a whole round would take minutes,
            a part of it is timed.
    """

    def __init__(self, federation: Federation, steps: int | None = None) -> None:
        self.federation = federation
        self.params = federation.params
        self.task = federation.task
        self.steps = steps
        if isinstance(self.task, Classification):
            data, common = self.task.data, (self.task.mean, self.task.deviation)
            self.train = TransformedImages(
                data.train_inputs, data.train_labels, *common, self.params.augmented
            )
            self.test = TransformedImages(data.test_inputs, data.test_labels, *common, augmented=False)

    def run_round(self, weights: Mapping[str, Tensor], round: int) -> State:
        """The global parameters after a round, one client after the other."""
        axes, updates = self.federation.axes, []
        for client in self.federation.active_clients(round):
            level = self.federation.level(round, client)
            index = self.federation.sub_model(round, client, level)
            held = self.held(client)
            local = copy.deepcopy(slice_parameters(weights, axes, index))
            model = self.local_model(level, local)
            local_update(model, self.batches(client), held, self.params, self.federation.learning_rate(round))
            rows = self.uploaded_rows(held)
            after = slice_parameters(copy.deepcopy(model.state_dict()), model.axes(), rows)
            updates.append(({**index, **rows}, after))
        return aggregate(weights, axes, updates)

    def local_model(self, level: str, parameters: Mapping[str, Tensor]) -> SliceableModel:
        """A new model of a level with these parameters and the whole vocabulary."""
        model = build_model(self.params.arch, **self.federation.model_options(level, self.task.sizes))
        model.load_state_dict(parameters)
        if self.params.arch == "transformer":
            add_dropout(model)
        return model

    def held(self, client: int) -> Tensor:
        """Labels in the client's data, shape (labels,), boolean."""
        if isinstance(self.task, Classification):
            return torch.from_numpy(self.task.partition.held[client])
        assert isinstance(self.task, LanguageModelling)
        held = torch.zeros(self.task.text.num_tokens, dtype=torch.bool)
        held[torch.from_numpy(self.task.words[client])] = True
        return held

    def uploaded_rows(self, held: Tensor) -> dict[str, np.ndarray]:
        """The rows of the classifier, and of a token embedding, that are averaged."""
        rows = torch.nonzero(held).flatten().numpy()
        return {LABELS: rows} if isinstance(self.task, Classification) else {LABELS: rows, TOKENS: rows}

    def batches(self, client: int) -> Iterable[Example]:
        """A client's training data, a batch at a time."""
        size = self.params.batch_size
        if isinstance(self.task, Classification):
            own = self.task.partition.train[client]
            chosen = own[: None if self.steps is None else self.steps * size].tolist()
            return DataLoader(Subset(self.train, chosen), batch_size=size, shuffle=True)
        assert isinstance(self.task, LanguageModelling)
        length = None if self.steps is None else self.steps * SEQUENCE_LENGTH
        return Windows(torch.tensor(self.task.rows[client][:, :length]), self.task.text.num_tokens)

    def evaluate(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics of the global model: accuracies in percent, or the perplexity."""
        if isinstance(self.task, LanguageModelling):
            return {"perplexity": self.perplexity(weights, self.task)}
        model = self.model_with_statistics(weights)
        return {"global_accuracy": self.global_accuracy(model), "local_accuracy": self.local_accuracy(model)}

    @torch.no_grad()
    def model_with_statistics(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The global model with ordinary batch normalisation, whose running estimates become the mean over
        the batches of one pass over all training images.
        """
        options = self.federation.model_options(self.federation.mix.largest, self.task.sizes)
        model = build_model(self.params.arch, **{**options, "norm": "bn"})
        model.load_state_dict(weights, strict=False)  # all but the running estimates
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
        model.train()
        for batch in DataLoader(self.train, batch_size=STATISTICS_BATCH):
            model(batch["inputs"])
        return model.eval()

    @torch.no_grad()
    def global_accuracy(self, model: nn.Module) -> float:
        """Of all test images, without a label mask, in percent."""
        return self.percent(
            (model(batch["inputs"]), batch["targets"])
            for batch in DataLoader(self.test, batch_size=TEST_BATCH)
        )

    @torch.no_grad()
    def local_accuracy(self, model: nn.Module) -> float:
        """Of each client's test images with its label mask, in percent."""
        assert isinstance(self.task, Classification)
        return self.percent(
            (model(batch["inputs"]).masked_fill(~self.held(client), 0), batch["targets"])
            for client, own in enumerate(self.task.partition.test)
            for batch in DataLoader(Subset(self.test, own.tolist()), batch_size=TEST_BATCH)
        )

    def percent(self, answers: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Accuracy in percent from the logits and labels of each batch; a number leaves torch at each."""
        correct = total = 0
        for logits, labels in answers:
            correct += int((logits.argmax(dim=1) == labels).sum().item())
            total += len(labels)
        return 100 * correct / total

    @torch.no_grad()
    def perplexity(self, weights: Mapping[str, Tensor], task: LanguageModelling) -> float:
        """The mean over windows of exp(cross-entropy of all positions) on the test text."""
        model = self.local_model(self.federation.mix.largest, weights).eval()
        tokens = torch.tensor(in_rows(task.text.test, TEST_ROWS))
        found = []
        for batch in Windows(tokens, task.text.num_tokens):
            logits = model(batch["inputs"])
            found.append(math.exp(F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).item()))
        return float(np.mean(found))
