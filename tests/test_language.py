"""The language task: rows and clients, partial vocabularies, and perplexity in three ways."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofl_core import language, transformer, vectorised
from heterofl_core.clients import ClientUpdate, ModelCopy, client_update
from heterofl_core.engines import PLAIN, Engine
from heterofl_core.errors import InputError
from heterofl_core.estimate import CLIENT_WORDS
from heterofl_core.examples import TextExamples
from heterofl_core.executor import on_one_thread
from heterofl_core.federation import Federation, Weights
from heterofl_core.heterofl import aggregate
from heterofl_core.language import LanguageModelling, PartOfText, losses_of
from heterofl_core.local_step import LocalStep
from heterofl_core.models import build_model
from heterofl_core.params import run_params
from heterofl_core.randomness import generator
from heterofl_core.report import frequencies
from heterofl_core.text import Text, load_text

WORDS = 40  # 39 and the unknown token, which the training text does not have
ROWS, LENGTH = 8, 130  # of the training text; windows of 64, 64 and 2
SETTINGS: dict[str, Any] = {
    "dataset": "wikitext2",
    "levels": "d-e",
    "num_clients": 4,
    "participation": 0.5,
    "batch_size": ROWS,
    "lr": 0.1,
}


def tiny_text() -> Text:
    """Each row of the training text uses ten words of its own choice; the test text is 10 rows of 70."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(rng.choice(WORDS - 1, 10, replace=False), LENGTH) for _ in range(ROWS)]
    return Text(train=np.concatenate(rows), test=rng.integers(0, WORDS, 705), num_tokens=WORDS)


@pytest.fixture(autouse=True)
def text(monkeypatch: pytest.MonkeyPatch) -> Text:
    """In place of WikiText2."""
    tiny = tiny_text()
    monkeypatch.setattr(language, "load_text", lambda: tiny)
    return tiny


@pytest.fixture
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "DROPOUT", 0.0)


@pytest.fixture(params=[0.0, 0.2])
def dropout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """None, and as shipped."""
    assert transformer.DROPOUT == 0.2
    if not request.param:
        monkeypatch.setattr(transformer, "DROPOUT", 0.0)
    return float(request.param)


def task_of(**settings: Any) -> LanguageModelling:
    return LanguageModelling(run_params(**{**SETTINGS, **settings}))


def federation_of(partial: bool = True, **settings: Any) -> Federation:
    """With partial vocabularies, or with whole ones behind the mask of the loss."""
    federation = Federation(run_params(**{**SETTINGS, **settings}))
    assert isinstance(federation.task, LanguageModelling)
    federation.task.partial &= partial
    return federation


def words_of(federation: Federation, client: int) -> list[int]:
    assert isinstance(federation.task, LanguageModelling)
    return sorted(set(federation.task.rows[client].ravel().tolist()))


def examples_of(task: LanguageModelling, client: int) -> TextExamples:
    """A client's text."""
    examples = task.share(client).examples
    assert isinstance(examples, TextExamples)
    return examples


# Rows and clients


def test_more_rows_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"^1040 tokens are too few for 1041 rows of text"):
        task_of(batch_size=ROWS * LENGTH + 1)


def test_every_row_belongs_to_one_client(text: Text) -> None:
    task = task_of()
    assert [rows.shape for rows in task.rows] == [(2, LENGTH)] * 4
    dealt = sorted(map(tuple, np.concatenate(task.rows).tolist()))
    assert dealt == sorted(map(tuple, text.train.reshape(ROWS, LENGTH).tolist()))


def test_rows_are_dealt_by_the_seed() -> None:
    first, again, other = (task_of(seed=seed).rows for seed in (0, 0, 1))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_more_clients_than_rows_are_refused() -> None:
    sentence = "num_clients 9 is more than the 8 rows of text that batch_size asks for; allowed are 1 to 8"
    with pytest.raises(InputError, match=sentence):
        task_of(num_clients=9)


def test_label_counts_are_of_the_most_frequent_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text(np.array([5, 5, 5, 7, 7, 5, 3, 5]), np.array([0]), 8)
    monkeypatch.setattr(language, "load_text", lambda: text)
    task = task_of(num_clients=2, batch_size=2)
    task.rows = [np.array([[5, 5, 5, 7]]), np.array([[7, 5, 3, 5]])]
    counts = task.label_counts()
    assert counts[:, :3].tolist() == [[3, 1, 0], [2, 1, 1]]  # of 5, 7 and 3
    assert not counts[:, 3:].any()


# What a client has


def test_a_client_has_its_rows_numbered_by_its_own_words() -> None:
    task = task_of()
    for client in range(4):
        share, words = task.share(client), sorted(set(task.rows[client].ravel().tolist()))
        examples = examples_of(task, client)
        assert 10 <= len(words) <= 20
        np.testing.assert_array_equal(np.array(words)[examples.tokens], task.rows[client])
        assert examples.num_tokens == len(words)  # the number of [MASK]
        assert share.sizes == {"num_tokens": len(words)}
        assert share.download["labels"].tolist() == words
        assert share.download["tokens"].tolist() == [*words, WORDS]
        assert share.upload["labels"].tolist() == share.upload["tokens"].tolist() == words
        assert share.held.tolist() == [True] * len(words)
        assert share.left_out == WORDS - len(words)


@pytest.mark.parametrize(
    ("settings", "upload"),
    [
        ({"masked_loss": "none"}, {"labels", "tokens"}),
        ({"masked_loss": "detach"}, {"labels", "tokens"}),
        ({"label_restricted": False}, set()),
        ({"method": "fedavg", "levels": "e"}, set()),
    ],
)
def test_where_a_partial_vocabulary_would_change_the_result_a_client_has_all_words(
    settings: dict[str, Any], upload: set[str]
) -> None:
    task = task_of(**settings)
    share, words = task.share(1), np.unique(task.rows[1])
    np.testing.assert_array_equal(examples_of(task, 1).tokens, task.rows[1])
    assert examples_of(task, 1).num_tokens == WORDS
    assert (share.sizes, share.download, share.left_out) == ({"num_tokens": WORDS}, {}, 0)
    assert np.flatnonzero(share.held).tolist() == words.tolist()
    assert {axis: rows.tolist() for axis, rows in share.upload.items()} == dict.fromkeys(
        upload, words.tolist()
    )


def test_a_client_may_send_mask_back_too() -> None:
    for settings in ({}, {"masked_loss": "none"}):
        share = task_of(mask_trained=True, **settings).share(2)
        assert share.upload["tokens"].tolist() == [*share.upload["labels"], WORDS]


@pytest.mark.parametrize("masked_loss", ["zero", "none"])
def test_which_positions_are_learnt_reaches_the_client(masked_loss: str) -> None:
    for predicted in ("all", "masked"):
        assert examples_of(task_of(predicted=predicted, masked_loss=masked_loss), 1).predicted == predicted


def test_a_client_receives_the_rows_of_its_words_and_of_mask() -> None:
    federation = federation_of()
    weights, words = federation.initial_weights(), words_of(federation, 2)
    index = federation.sub_model(1, 2, "e")
    task = federation.client_task(weights, 1, 2, "e", federation.task.share(2), index)
    np.testing.assert_array_equal(
        task.model.parameters["token.weight"], weights.shared["token.weight"][[*words, WORDS], :16]
    )
    np.testing.assert_array_equal(
        task.model.parameters["linear.weight"], weights.shared["linear.weight"][words, :16]
    )
    np.testing.assert_array_equal(task.model.parameters["linear.bias"], weights.shared["linear.bias"][words])
    assert task.upload["tokens"].tolist() == task.upload["labels"].tolist() == list(range(len(words)))


@pytest.fixture
def papers_task(wikitext2: Path, text: Text, monkeypatch: pytest.MonkeyPatch) -> LanguageModelling:
    """WikiText2 among the paper's clients."""
    monkeypatch.setattr(language, "load_text", load_text)
    return LanguageModelling(run_params(dataset="wikitext2", levels="a-e"))


def test_in_the_paper_a_client_has_one_row_of_327_windows_and_about_3000_words(
    papers_task: LanguageModelling,
) -> None:
    assert papers_task.sizes == {"num_tokens": 33_279}
    assert {rows.shape for rows in papers_task.rows} == {(1, 20_886)}  # of 2.09 M tokens
    assert len(list(examples_of(papers_task, 0).epoch(100, np.random.default_rng(0)))) == 327
    assert round(np.mean([len(words) for words in papers_task.words])) == CLIENT_WORDS
    assert max(word for words in papers_task.words for word in words) < 33_278  # never the unknown token


@pytest.mark.usefixtures("wikitext2")
def test_who_knows_word_frequencies_alone_has_a_perplexity_of_about_912() -> None:
    text = load_text()
    share = np.bincount(text.train, minlength=text.num_tokens) / len(text.train)
    assert round(float(np.exp(-np.log(share[text.test]).mean())), 1) == frequencies.OF_ALL_TEXT


def test_frequencies_as_a_words_holders_find_them_have_a_perplexity_of_about_2868(
    papers_task: LanguageModelling,
) -> None:
    """Their logarithms are averaged over the holders, as a bias of the output layer is, and normalised."""
    logarithms, holders = np.zeros((2, 33_278))
    for rows, words in zip(papers_task.rows, papers_task.words, strict=True):
        logarithms[words] += np.log(np.bincount(rows.ravel())[words] / rows.size)
        holders[words] += 1
    logits = logarithms / np.maximum(holders, 1)
    logits[holders == 0] = np.log(1 / 20_886)  # in the few tokens that fill no row
    test = papers_task.text.test
    perplexity = np.exp(np.log(np.exp(logits).sum()) - logits[test].mean())
    assert round(float(perplexity), 1) == frequencies.OF_HOLDERS


# Partial vocabularies are exact


def update_of(federation: Federation, client: int, level: str, **changes: Any) -> ClientUpdate:
    """A client's update from random parameters that are larger than the first ones."""
    torch.manual_seed(1)
    weights = federation.initial_weights()
    for value in weights.shared.values():
        value += 0.1 * torch.randn_like(value)
    index = federation.sub_model(1, client, level)
    task = federation.client_task(weights, 1, client, level, federation.task.share(client), index)
    return on_one_thread(client_update, replace(task, **changes))


@pytest.mark.usefixtures("dropout")
@pytest.mark.parametrize("clip_norm", [0.05, 1e6])
@pytest.mark.parametrize("level", ["d", "e"])
@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf"])
def test_an_update_with_a_partial_vocabulary_is_that_with_the_whole_one(
    masked_loss: str, level: str, clip_norm: float
) -> None:
    """Three epochs of three windows, with dropout and without; the gradient is clipped at each step, or at
    none. A large weight decay moves the rows of absent words, too, which nobody sees.
    """
    changes = {"clip_norm": clip_norm, "weight_decay": 0.05, "local_epochs": 3}
    partial, whole = (
        update_of(federation_of(partial, masked_loss=masked_loss), 1, level, **changes)
        for partial in (True, False)
    )
    assert partial.loss == pytest.approx(whole.loss, rel=1e-6)
    assert list(partial.parameters) == list(whole.parameters)
    for name, value in partial.parameters.items():
        np.testing.assert_allclose(value, whole.parameters[name], rtol=0, atol=5e-6, err_msg=name)


@pytest.mark.usefixtures("no_dropout")
def test_the_two_losses_and_the_bound_of_the_gradient_make_a_difference() -> None:
    """So that the tests above compare what they say they do."""

    def row(**settings: Any) -> np.ndarray:
        changes = {key: settings.pop(key) for key in ("clip_norm",) if key in settings}
        return update_of(federation_of(**settings), 1, "e", **changes).parameters["linear.weight"]

    plain = row(masked_loss="zero")
    for other in (row(masked_loss="neg_inf"), row(masked_loss="zero", clip_norm=0.05)):
        assert np.abs(plain - other).max() > 1e-3


def test_dropout_makes_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """To partial and whole vocabularies, so that the test above sees whether they drop the same units."""
    for partial in (True, False):
        federation = federation_of(partial)
        dropped = update_of(federation, 1, "e")
        other = update_of(federation, 1, "e", seed=1)  # other units and other masked tokens
        with monkeypatch.context() as patch:
            patch.setattr(transformer, "DROPOUT", 0.0)
            kept = update_of(federation, 1, "e")
        for name in ("token.weight", "linear.weight", "layers.0.linear1.weight"):
            assert np.abs(dropped.parameters[name] - kept.parameters[name]).max() > 1e-3, name
            assert np.abs(dropped.parameters[name] - other.parameters[name]).max() > 1e-3, name


@pytest.mark.usefixtures("dropout")
@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf"])
def test_rounds_with_partial_vocabularies_are_those_with_whole_ones(masked_loss: str) -> None:
    partial, whole = (run(federation_of(each, masked_loss=masked_loss), 2) for each in (True, False))
    for name, value in partial.shared.items():
        torch.testing.assert_close(value, whole.shared[name], rtol=0, atol=5e-6)


def run(federation: Federation, rounds: int, workers: int = 1) -> Weights:
    weights = federation.initial_weights()
    for t in range(1, rounds + 1):
        weights, _ = federation.run_round(weights, t, workers)
    return weights


@pytest.mark.parametrize("masked_loss", ["zero", "neg_inf", "detach", "none"])
def test_only_rows_of_words_that_an_active_client_holds_move_and_mask_never_does(masked_loss: str) -> None:
    federation = federation_of(masked_loss=masked_loss)
    before = federation.initial_weights()
    after, _ = federation.run_round(before, 1, workers=1)
    held = {word for client in federation.active_clients(1) for word in words_of(federation, client)}
    assert len(held) < WORDS - 1
    for name in ("token.weight", "linear.weight", "linear.bias"):
        moved = (after.shared[name] != before.shared[name]).reshape(len(after.shared[name]), -1).any(dim=1)
        assert set(moved.nonzero()[:, 0].tolist()) == held


@pytest.mark.parametrize("engine", [PLAIN, Engine("compiled", "cpu")], ids=str)
def test_mask_moves_with_the_words_where_it_is_trained(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectorised, "program_of", LocalStep)  # operation by operation: the same arithmetic
    federation = federation_of(mask_trained=True)
    before = federation.initial_weights()
    after, _ = federation.run_round(before, 1, workers=1, engine=engine)
    held = {word for client in federation.active_clients(1) for word in words_of(federation, client)}
    moved = (after.shared["token.weight"] != before.shared["token.weight"]).any(dim=1)
    assert set(moved.nonzero()[:, 0].tolist()) == {*held, WORDS}


def test_a_client_that_learns_masked_tokens_alone_trains_on_fewer_positions() -> None:
    everything, masked = (
        update_of(federation_of(predicted=predicted), 1, "e") for predicted in ("all", "masked")
    )
    assert masked.loss > everything.loss > 0  # a masked token is harder than one that need only be copied
    assert np.abs(masked.parameters["linear.weight"] - everything.parameters["linear.weight"]).max() > 1e-3


def test_without_the_restriction_every_row_is_averaged_and_mask_moves() -> None:
    federation = federation_of(label_restricted=False)
    before = federation.initial_weights()
    after, _ = federation.run_round(before, 1, workers=1)
    assert bool((after.shared["token.weight"] != before.shared["token.weight"]).any(dim=1).all())


def test_a_word_is_averaged_over_the_clients_that_hold_it() -> None:
    federation = federation_of(levels="e", participation=1.0)
    before = federation.initial_weights()
    after, _ = federation.run_round(before, 1, workers=1)
    rows: dict[int, list[np.ndarray]] = {}
    for client in range(4):
        share = federation.task.share(client)
        task = federation.client_task(before, 1, client, "e", share, federation.sub_model(1, client, "e"))
        update = on_one_thread(client_update, task).parameters["token.weight"]
        for word, row in zip(words_of(federation, client), update, strict=True):
            rows.setdefault(word, []).append(row.astype(np.float64))
    assert {len(each) for each in rows.values()} >= {1, 2, 3}
    for word, each in rows.items():
        mean = np.mean(each, axis=0).astype(np.float32)
        np.testing.assert_array_equal(after.shared["token.weight"][word], mean)


def test_clients_of_one_level_with_equally_many_words_each_receive_the_rows_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their models have one shape, which cannot tell what they receive apart. Both hold words 2 and 3."""
    first, second = (np.resize(words, LENGTH) for words in ([0, 1, 2, 3], [2, 3, 4, 5]))
    text = Text(np.concatenate([first, second]), np.array([0]), num_tokens=7)
    monkeypatch.setattr(language, "load_text", lambda: text)
    federation = federation_of(levels="e", num_clients=2, participation=1.0, batch_size=2)
    assert sorted(words_of(federation, client) for client in range(2)) == [[0, 1, 2, 3], [2, 3, 4, 5]]
    before, index = federation.initial_weights(), federation.sub_model(1, 0, "e")
    updates = []
    for client in range(2):
        share = federation.task.share(client)
        task = federation.client_task(before, 1, client, "e", share, index)
        sent = on_one_thread(client_update, task).parameters
        tensors = {name: torch.from_numpy(value) for name, value in sent.items()}
        updates.append(({**index, **share.upload}, tensors))
    after, _ = federation.run_round(before, 1, workers=1)
    for name, value in aggregate(before.shared, federation.axes, updates).items():
        assert torch.equal(after.shared[name], value), name


def test_partial_vocabularies_save_exactly_the_absent_rows_on_the_way() -> None:
    """Each of embedding (16 at level e), output and bias; [MASK] is received but not sent back."""
    federation, whole = (federation_of(each, levels="e") for each in (True, False))
    _, summary = federation.run_round(federation.initial_weights(), 1, workers=1)
    _, of_whole = whole.run_round(whole.initial_weights(), 1, workers=1)
    absent = sum(WORDS - len(words_of(federation, client)) for client in federation.active_clients(1))
    assert of_whole.bytes_down == 2 * 2**20 * whole.mean_cost().space_mb  # of two active clients
    assert of_whole.bytes_down - summary.bytes_down == 4 * absent * (16 + 16 + 1)
    assert summary.bytes_down - summary.bytes_up == 4 * 2 * 16
    assert summary.bytes_up == of_whole.bytes_up


def test_the_number_of_workers_does_not_change_the_result() -> None:
    """Dropout included, over two rounds with two levels."""
    federation = federation_of()
    here, elsewhere = (run(federation, 2, workers) for workers in (1, 2))
    for name, value in here.shared.items():
        assert torch.equal(value, elsewhere.shared[name]), name


# Perplexity


def initial(num_tokens: int = WORDS) -> ModelCopy:
    options: dict[str, Any] = {"width_rate": 1 / 16, "num_tokens": num_tokens}
    torch.manual_seed(0)
    return copy_of(build_model("transformer", **options).state_dict(), options)


def copy_of(parameters: dict[str, Tensor], options: dict[str, Any]) -> ModelCopy:
    return ModelCopy("transformer", options, {name: value.numpy() for name, value in parameters.items()})


def test_perplexities_of_a_model_that_knows_word_frequencies_only(text: Text) -> None:
    """Its logits are biases, so a token t costs log Σ exp(b) - b_t nats wherever it stands. Windows of 64
    and 6 tokens of ten rows each; the paper's number is the mean of their exp(mean loss).
    """
    task, model = task_of(seed=3), initial()
    biases = np.linspace(-2, 2, WORDS).astype(np.float32)
    model.parameters["linear.weight"][:] = 0
    model.parameters["linear.bias"][:] = biases
    found = task.evaluate(model, workers=1)
    tokens = text.test[:700].reshape(10, 70)
    nats = math.log(np.exp(biases.astype(np.float64)).sum()) - biases[tokens].astype(np.float64)
    masked = generator(3, "test masks").random((10, 70)) < 0.15
    assert 0.1 < masked.mean() < 0.2
    assert found == {
        "perplexity": pytest.approx((np.exp(nats[:, :64].mean()) + np.exp(nats[:, 64:].mean())) / 2),
        "masked_perplexity": pytest.approx(np.exp(nats[masked].mean())),
        "visible_perplexity": pytest.approx(np.exp(nats[~masked].mean())),
    }
    assert len({round(value, 6) for value in found.values()}) == 3


def test_a_model_that_is_sure_of_nothing_has_the_vocabularys_size_as_perplexity() -> None:
    model = initial()
    for name in ("linear.weight", "linear.bias"):
        model.parameters[name][:] = 0
    assert task_of().evaluate(model, workers=1) == pytest.approx(
        {"perplexity": WORDS, "masked_perplexity": WORDS, "visible_perplexity": WORDS}
    )


def test_losses_are_those_of_the_text_with_mask_in_place_of_masked_tokens() -> None:
    """For each window alone, without dropout."""
    copy = initial()
    model = copy.build().eval()
    rng = np.random.default_rng(0)
    tokens, masked = rng.integers(0, WORDS, (3, 100)), rng.random((3, 100)) < 0.15
    losses = losses_of(PartOfText(copy, tokens, masked))
    assert [window.shape for window in losses] == [(3, 64), (3, 36)]
    seen = np.where(masked, WORDS, tokens)
    for first, window in zip((0, 64), losses, strict=True):
        inside = slice(first, first + 64)
        with torch.no_grad():
            logs = model(torch.from_numpy(seen[:, inside])).double().log_softmax(dim=-1).numpy()
        for row in range(3):
            for place, token in enumerate(tokens[row, inside]):
                assert window[row, place] == pytest.approx(-logs[row, place, token], rel=1e-5)


def test_the_same_tokens_are_masked_in_every_evaluation_of_a_seed() -> None:
    model = initial()
    first, again, other = (task_of(seed=seed).evaluate(model, workers=1) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_neither_workers_nor_parts_change_the_perplexities(monkeypatch: pytest.MonkeyPatch) -> None:
    task, model = task_of(), initial()
    whole = task.evaluate(model, workers=1)
    monkeypatch.setattr(language, "PART", 1)
    assert task.evaluate(model, workers=1) == whole
    assert task.evaluate(model, workers=2) == whole


def test_sub_models_are_judged_by_their_perplexities() -> None:
    federation = federation_of()
    found = federation.evaluate_sub_models(federation.initial_weights(), workers=1)
    assert list(found) == ["e"]
    assert set(found["e"]) == {"perplexity", "masked_perplexity", "visible_perplexity"}


def test_a_federation_is_judged_by_its_perplexities() -> None:
    federation = federation_of(levels="e")
    weights = run(federation, 1)
    model = copy_of(weights.shared, federation.model_options("e", federation.task.sizes))
    assert federation.evaluate(weights, workers=1) == federation.task.evaluate(model, workers=1)
