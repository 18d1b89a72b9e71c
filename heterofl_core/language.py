"""The language task: masked-token prediction on rows of text, and perplexity in three ways."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from heterofl_core.clients import ModelCopy
from heterofl_core.errors import InputError
from heterofl_core.examples import MASK_RATE, TextExamples
from heterofl_core.executor import side_by_side
from heterofl_core.params import SEQUENCE_LENGTH, RunParams
from heterofl_core.partition import deal
from heterofl_core.randomness import generator
from heterofl_core.selection import LABELS, TOKENS
from heterofl_core.tasks import ClientShare, Task
from heterofl_core.text import in_rows, load_text

TEST_ROWS = 10  # rows that the test text is cut into, as in the authors' code
PART = 32  # windows a job


class LanguageModelling(Task):
    """WikiText2, cut into rows of running text that are shared among clients.

    With `label_restricted` and the loss masks `zero` or `neg_inf`, a client's model has only the client's own
    words and [MASK]. That changes nothing: absent words have constant logits, no gradient, and are not
    aggregated.

    Args:
        params: of the run.

    Raises:
        InputError: the data cannot be had, or there are fewer rows than clients.
    """

    def __init__(self, params: RunParams) -> None:
        self.text = load_text()
        rows = in_rows(self.text.train, params.batch_size)
        if params.num_clients > len(rows):
            raise InputError(
                f"num_clients {params.num_clients} is more than the {len(rows)} rows of text that batch_size "
                f"asks for; allowed are 1 to {len(rows)}"
            )
        order = deal(len(rows), params.num_clients, generator(params.seed, "partition"))
        self.rows = [rows[own] for own in order]
        self.words = [np.unique(own) for own in self.rows]
        self.params = params
        self.partial = params.label_restricted and params.masked_loss in ("zero", "neg_inf")
        self.sizes = {"num_tokens": self.text.num_tokens}
        self.example = torch.empty(1, SEQUENCE_LENGTH, dtype=torch.int64, device="meta")

    def share(self, client: int) -> ClientShare:
        """A client's rows, and its words: those of its embedding and output that it trains.

        Nobody holds [MASK] as a label: unless `mask_trained` says otherwise, it keeps its initial embedding.
        """
        words, num_tokens, predicted = self.words[client], self.text.num_tokens, self.params.predicted
        embedded = np.append(words, num_tokens)  # the last is [MASK]
        trained = embedded if self.params.mask_trained else words
        upload = {LABELS: words, TOKENS: trained} if self.params.label_restricted else {}
        if not self.partial:
            held = np.zeros(num_tokens, dtype=bool)
            held[words] = True
            examples = TextExamples(self.rows[client], num_tokens, predicted)
            return ClientShare(examples, self.sizes, {}, upload, held, 0)
        return ClientShare(
            examples=TextExamples(np.searchsorted(words, self.rows[client]), len(words), predicted),
            sizes={"num_tokens": len(words)},
            download={LABELS: words, TOKENS: embedded},
            upload=upload,
            held=np.ones(len(words), dtype=bool),
            left_out=num_tokens - len(words),
        )

    def label_counts(self) -> np.ndarray:
        """Tokens of each client among the twenty most frequent, shape (clients, 20)."""
        frequent = np.argsort(-np.bincount(self.text.train), kind="stable")[:20]
        return np.stack(
            [np.bincount(own.ravel(), minlength=self.text.num_tokens)[frequent] for own in self.rows]
        )

    def evaluate(self, model: ModelCopy, workers: int) -> dict[str, float]:
        """Perplexity of the global model on the test text, without a label mask.

        The same tokens are masked in every evaluation, 15 % of them, as in training.

        Returns:
            `perplexity`: the paper's, the mean over windows of exp(cross-entropy of all positions).
            `masked_perplexity` and `visible_perplexity`: exp(cross-entropy) of the masked and of the visible
            positions alone. A visible token needs only be copied.
        """
        tokens = in_rows(self.text.test, TEST_ROWS)
        masked = generator(self.params.seed, "test masks").random(tokens.shape) < MASK_RATE
        step = PART * SEQUENCE_LENGTH
        jobs = [
            PartOfText(model, tokens[:, start : start + step], masked[:, start : start + step])
            for start in range(0, tokens.shape[1], step)
        ]
        losses = [window for part in side_by_side(losses_of, jobs, workers) for window in part]
        nats = np.concatenate(losses, axis=1)  # (rows, length)
        return {
            "perplexity": float(np.mean([np.exp(window.mean()) for window in losses])),
            "masked_perplexity": float(np.exp(nats[masked].mean())),
            "visible_perplexity": float(np.exp(nats[~masked].mean())),
        }


@dataclass(frozen=True)
class PartOfText:
    """Text that one job passes through a model.

    Attributes:
        model: what it passes through.
        tokens, masked: shape (rows, length), a multiple of the window but at the end.
    """

    model: ModelCopy
    tokens: np.ndarray
    masked: np.ndarray

    def windows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens and masks of each window, shape (rows, window)."""
        device = self.model.device
        tokens, masked = torch.tensor(self.tokens, device=device), torch.tensor(self.masked, device=device)
        yield from zip(tokens.split(SEQUENCE_LENGTH, 1), masked.split(SEQUENCE_LENGTH, 1), strict=True)


@torch.no_grad()
def losses_of(part: PartOfText) -> list[np.ndarray]:
    """For each window the cross-entropy of each position, shape (rows, window), in nats."""
    model = part.model.build().eval()
    mask = part.model.options["num_tokens"]
    losses = []
    for tokens, masked in part.windows():
        logits = model(tokens.masked_fill(masked, mask))  # (rows, window, tokens)
        nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        losses.append(nats.view_as(tokens).cpu().numpy())
    return losses
