"""Federations of bounded work, so that large models are timed within minutes.

Each client takes few steps, and a part of the data is evaluated.
"""

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

from heterofl_core.data import Images, load_images
from heterofl_core.examples import Examples, ImageExamples, TextExamples
from heterofl_core.federation import Federation
from heterofl_core.language import TEST_ROWS
from heterofl_core.params import SEQUENCE_LENGTH, RunParams
from heterofl_core.tasks import ClientShare
from heterofl_core.text import Text, load_text

EVALUATED = 5
"""A fifth of the images is evaluated. On two workers they are balanced as all images are."""
EVALUATED_WINDOWS = 64
"""Windows of the test text that are evaluated: whole jobs, as many on each of two workers."""
ROUND = 1  # always the same one, so that the clients are, too


def with_equal_levels(federation: Federation) -> Federation:
    """The same federation in which the active clients have the levels of the mix in equal numbers."""
    levels, active = federation.mix.levels, federation.active_clients(ROUND)
    fixed = [levels[0]] * federation.params.num_clients
    for position, client in enumerate(active):
        fixed[client] = levels[position * len(levels) // len(active)]
    federation.fixed_levels = fixed
    return federation


def first_steps(examples: Examples, steps: int, batch_size: int) -> Examples:
    """As many of a client's examples as `steps` batches need; a client of text keeps all its words."""
    match examples:
        case ImageExamples():
            some = slice(steps * batch_size)
            return replace(examples, inputs=examples.inputs[some], labels=examples.labels[some])
        case TextExamples():
            return replace(examples, tokens=examples.tokens[:, : steps * SEQUENCE_LENGTH])
    raise TypeError(f"no batches can be taken from {type(examples).__name__}")


def bounded_share(federation: Federation, steps: int) -> Callable[[int], ClientShare]:
    """`share` of the federation's task for clients that take few steps in a local epoch."""
    whole = federation.task.share

    def share(client: int) -> ClientShare:
        own = whole(client)
        return replace(own, examples=first_steps(own.examples, steps, federation.params.batch_size))

    return share


def some_images(dataset: str) -> Images:
    """The part of a data set that is evaluated."""
    data = load_images(dataset)
    train, test = (len(labels) // EVALUATED for labels in (data.train_labels, data.test_labels))
    return Images(
        data.train_inputs[:train], data.train_labels[:train], data.test_inputs[:test], data.test_labels[:test]
    )


def some_text() -> Text:
    """The text with the part of its test half that is evaluated."""
    text = load_text()
    return replace(text, test=text.test[: EVALUATED_WINDOWS * TEST_ROWS * SEQUENCE_LENGTH])


def bounded_federation(params: RunParams) -> Federation:
    """A federation of the data that is evaluated, with as many images a client as all have."""
    if params.dataset != "wikitext2":
        params = params.model_copy(update={"num_clients": params.num_clients // EVALUATED})
    with (
        mock.patch("heterofl_core.classification.load_images", some_images),
        mock.patch("heterofl_core.language.load_text", some_text),
    ):
        return Federation(params)


def evaluated_share(dataset: str) -> float:
    """The share of the whole evaluation that is timed, in (0, 1]."""
    if dataset == "wikitext2":
        return len(some_text().test) / len(load_text().test)
    return 1 / EVALUATED
