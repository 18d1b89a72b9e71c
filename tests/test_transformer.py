"""The paper's Transformer: its counts, its interleaved heads, and its forward pass written out by hand."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterofl_core.errors import InputError
from heterofl_core.heterofl import aggregate, slice_parameters
from heterofl_core.layers import Scaler
from heterofl_core.levels import width_rate
from heterofl_core.models import build_model
from heterofl_core.selection import static_index
from heterofl_core.sliceable import SliceableModel
from heterofl_core.transformer import Attention

LEVELS = list("abcde")
WORDS = 50


@pytest.mark.parametrize(
    ("level", "parameters"),
    [("a", 19_263_999), ("b", 9_107_967), ("c", 4_435_455), ("d", 2_200_575), ("e", 1_108_479)],
)
def test_parameter_counts_are_those_behind_table_7(level: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model("transformer", width_rate(level))
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_layers_have_the_shapes_of_table_4() -> None:
    model = build_model("transformer", num_tokens=WORDS)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    expected: dict[str, tuple[int, ...]] = {
        "token.weight": (WORDS + 1, 256),  # one row more: [MASK]
        "position.weight": (64, 256),
        "linear.weight": (WORDS, 256),
        "linear.bias": (WORDS,),
    }
    linear: dict[str, tuple[int, int]] = {"decoder": (256, 256)}
    norms = ["norm", "decoder_norm"]
    for layer in range(4):
        for projection in ("query", "key", "value", "output"):
            linear[f"layers.{layer}.attention.{projection}"] = (256, 256)
        linear |= {f"layers.{layer}.linear1": (512, 256), f"layers.{layer}.linear2": (256, 512)}
        norms += [f"layers.{layer}.norm1", f"layers.{layer}.norm2"]
    for name, shape in linear.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        expected |= {f"{name}.weight": (256,), f"{name}.bias": (256,)}
    assert shapes == expected


def test_the_residual_stream_is_one_axis_and_each_layer_has_its_own_heads_and_hidden_units() -> None:
    axes = build_model("transformer", num_tokens=WORDS).axes()
    tokens, embedding = axes["token.weight"]
    labels, decoder = axes["linear.weight"]
    assert tokens is not None
    assert labels is not None
    assert (tokens.name, tokens.size, tokens.shrinks) == ("tokens", WORDS + 1, False)
    assert (labels.name, labels.size, labels.shrinks) == ("labels", WORDS, False)
    assert axes["linear.bias"] == (labels,)
    assert axes["position.weight"] == (None, embedding)
    assert axes["decoder.weight"] == (decoder, embedding)
    assert axes["decoder_norm.weight"] == axes["decoder.bias"] == (decoder,)
    seen = {embedding, decoder}
    for layer in range(4):
        heads = axes[f"layers.{layer}.attention.query.weight"][0]
        hidden = axes[f"layers.{layer}.linear1.weight"][0]
        assert heads is not None
        assert (heads.size, heads.groups) == (256, 8)
        for projection in ("query", "key", "value"):
            assert axes[f"layers.{layer}.attention.{projection}.weight"] == (heads, embedding)
            assert axes[f"layers.{layer}.attention.{projection}.bias"] == (heads,)
        assert axes[f"layers.{layer}.attention.output.weight"] == (embedding, heads)
        assert axes[f"layers.{layer}.linear1.weight"] == (hidden, embedding)
        assert axes[f"layers.{layer}.linear2.weight"] == (embedding, hidden)
        for norm in ("norm1", "norm2"):
            assert axes[f"layers.{layer}.{norm}.weight"] == (embedding,)
        assert not {heads, hidden} & seen
        seen |= {heads, hidden}


@pytest.mark.parametrize("level", LEVELS)
def test_a_slice_of_the_global_model_is_the_state_of_the_levels_model(level: str) -> None:
    model = build_model("transformer", num_tokens=WORDS)
    client = build_model("transformer", width_rate(level), num_tokens=WORDS)
    local = slice_parameters(model.state_dict(), model.axes(), static_index(model.axes(), width_rate(level)))
    assert {name: value.shape for name, value in local.items()} == {
        name: value.shape for name, value in client.state_dict().items()
    }
    client.load_state_dict(local, strict=True)


def test_level_e_holds_and_moves_the_first_two_features_of_each_head() -> None:
    """In what q, k and v put out, and in what the output projection takes in; elsewhere a prefix."""
    model = build_model("transformer", num_tokens=WORDS)
    parameters, axes = model.state_dict(), model.axes()
    index = static_index(axes, 1 / 16)
    local = slice_parameters(parameters, axes, index)
    moved = aggregate(parameters, axes, [(index, {name: value + 1 for name, value in local.items()})])
    touched = {name: moved[name] != value for name, value in parameters.items()}
    heads = [0, 1, 32, 33, 64, 65, 96, 97, 128, 129, 160, 161, 192, 193, 224, 225]
    prefix = list(range(16))
    for layer in range(4):
        for projection in ("query", "key", "value"):
            expected = torch.zeros(256, 256, dtype=torch.bool)
            expected[torch.tensor(heads)[:, None], torch.tensor(prefix)] = True
            assert torch.equal(touched[f"layers.{layer}.attention.{projection}.weight"], expected)
            assert touched[f"layers.{layer}.attention.{projection}.bias"].nonzero()[:, 0].tolist() == heads
        output = touched[f"layers.{layer}.attention.output.weight"]
        assert torch.equal(output, expected.T)
        assert touched[f"layers.{layer}.attention.output.bias"].nonzero()[:, 0].tolist() == prefix
        assert touched[f"layers.{layer}.linear1.bias"].nonzero()[:, 0].tolist() == list(range(32))
    assert touched["token.weight"].nonzero()[:, 1].unique().tolist() == prefix
    assert touched["token.weight"][:, :16].all()


# Forward


@pytest.mark.parametrize("head_width", [2, 5])
@pytest.mark.parametrize("training", [True, False])
def test_attention_of_each_head_by_hand(head_width: int, training: bool) -> None:
    """softmax(Q·Kᵀ / √(the head's own width)) · V, one head, query and key at a time; the Scaler divides
    what each of the four projections puts out.
    """
    torch.manual_seed(0)
    embedding, length, factor = 6, 4, 2.0 if training else 1.0
    attention = Attention(embedding, head_width, scale=0.5).double().train(training)
    x = torch.randn(3, length, embedding).double()

    def project(linear: nn.Linear, y: Tensor) -> Tensor:
        return factor * (y @ linear.weight.T + linear.bias)

    query, key, value = (
        project(each, x).detach() for each in (attention.query, attention.key, attention.value)
    )
    mixed = torch.zeros(3, length, 8 * head_width).double()
    for example in range(3):
        for head in range(8):
            own = slice(head * head_width, (head + 1) * head_width)
            for position in range(length):
                scores = [
                    float(query[example, position, own] @ key[example, other, own]) / math.sqrt(head_width)
                    for other in range(length)
                ]
                weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                for other, weight in enumerate(weights):
                    mixed[example, position, own] += weight * value[example, other, own]
    expected = project(attention.output, mixed)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-12)


def test_heads_are_as_wide_as_the_level_says() -> None:
    widths = []
    for level in LEVELS:
        attention = build_model("transformer", width_rate(level), num_tokens=3).get_submodule(
            "layers.0.attention"
        )
        assert isinstance(attention, Attention)
        widths.append(attention.head_width)
    assert widths == [32, 16, 8, 4, 2]


def by_hand(
    values: dict[str, Tensor], tokens: Tensor, scale: float, width: int, noise: Tensor | None = None
) -> Tensor:
    """The forward pass; attention through PyTorch's own. Of the draws in `noise`, each dropout takes as many
    as it has features, in the order in which the dropouts come; draws below 0.2 drop.
    """
    taken = 0

    def linear(x: Tensor, name: str) -> Tensor:
        return (x @ values[f"{name}.weight"].T + values[f"{name}.bias"]) / scale

    def normed(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        deviation = torch.sqrt((centred**2).mean(dim=-1, keepdim=True) + 1e-5)
        return centred / deviation * values[f"{name}.weight"] + values[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def dropped(x: Tensor) -> Tensor:
        nonlocal taken
        if noise is None:
            return x
        draws = noise[:, :, taken : taken + x.shape[2]]
        taken += x.shape[2]
        return torch.where(draws < 0.2, 0.0, x / 0.8)

    length = tokens.shape[1]
    x = (values["token.weight"][tokens] + values["position.weight"][:length]) / scale
    x = dropped(normed(x, "norm"))
    for layer in range(4):
        query, key, value = (
            linear(x, f"layers.{layer}.attention.{which}")
            .reshape(-1, length, 8, width // 8)
            .permute(0, 2, 1, 3)
            for which in ("query", "key", "value")
        )
        mixed = (
            F.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3).reshape(-1, length, width)
        )
        x = normed(x + dropped(linear(mixed, f"layers.{layer}.attention.output")), f"layers.{layer}.norm1")
        hidden = dropped(gelu(linear(x, f"layers.{layer}.linear1")))
        x = normed(x + dropped(linear(hidden, f"layers.{layer}.linear2")), f"layers.{layer}.norm2")
    assert noise is None or taken == noise.shape[2]
    x = normed(gelu(linear(x, "decoder")), "decoder_norm")
    return x @ values["linear.weight"].T + values["linear.bias"]


def random_model(scale: float = 1.0) -> SliceableModel:
    """Level d with random norms and biases, in double precision."""
    torch.manual_seed(0)
    model = build_model("transformer", 1 / 8, scale=scale, num_tokens=WORDS).double()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value.add_(torch.rand_like(value) - 0.3)
    return model


def random_tokens(length: int = 64) -> Tensor:
    """Of every kind, [MASK] included."""
    tokens = torch.randint(WORDS + 1, (2, length), generator=torch.Generator().manual_seed(0))
    tokens[0, 0] = WORDS
    return tokens


@pytest.mark.parametrize("length", [64, 7])
@pytest.mark.parametrize("training", [True, False])
def test_the_forward_pass_agrees_with_the_one_written_out_by_hand(training: bool, length: int) -> None:
    model = random_model(scale=0.25).train(training)
    expected = by_hand(dict(model.state_dict()), random_tokens(length), 0.25 if training else 1.0, width=32)
    assert expected.shape == (2, length, WORDS)
    torch.testing.assert_close(model(random_tokens(length)), expected, rtol=1e-9, atol=1e-9)


def test_every_position_has_a_logit_for_each_token_and_none_for_mask() -> None:
    model = build_model("transformer", 1 / 16, num_tokens=WORDS).eval()
    assert model(torch.full((3, 64), WORDS)).shape == (3, 64, WORDS)
    with pytest.raises(IndexError):
        model(torch.full((3, 64), WORDS + 1))


def test_the_last_row_of_the_token_embedding_is_that_of_mask() -> None:
    """Another [MASK] row changes what a text with [MASK] gives, and nothing else."""
    model = random_model().eval()
    masked, unmasked = torch.tensor([[3, WORDS, 5]]), torch.tensor([[3, 4, 5]])
    before = model(masked), model(unmasked)
    with torch.no_grad():
        model.get_parameter("token.weight")[-1].neg_()
    assert not torch.allclose(before[0], model(masked))
    assert torch.equal(before[1], model(unmasked))


def test_two_tenths_are_dropped_behind_the_embedding_and_three_times_in_each_layer() -> None:
    model = random_model(scale=0.25).train()
    (noise,) = model.noise(random_tokens(), torch.Generator().manual_seed(0))
    expected = by_hand(dict(model.state_dict()), random_tokens(), 0.25, width=32, noise=noise)
    torch.testing.assert_close(model(random_tokens(), noise), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, model(random_tokens()))


def test_each_position_has_draws_of_its_own_for_each_of_the_13_dropouts() -> None:
    """Level e: 16 features behind the embedding; in each of four layers 16, 32 hidden ones, and 16."""
    model = build_model("transformer", 1 / 16, num_tokens=WORDS)
    (noise,) = model.noise(random_tokens(), torch.Generator().manual_seed(0))
    assert noise.shape == (2, 64, 16 + 4 * (16 + 32 + 16))
    assert noise.unique().numel() > 0.99 * noise.numel()  # float32 has few numbers enough for some ties
    assert 0 <= noise.min() < noise.max() < 1
    assert abs((noise < 0.2).double().mean().item() - 0.2) < 5 * math.sqrt(0.2 * 0.8 / noise.numel())


def test_the_draws_follow_from_their_source_alone() -> None:
    model = build_model("transformer", 1 / 16, num_tokens=WORDS)

    def draws(seed: int) -> Tensor:
        torch.rand(1)  # moves the global generator on
        return model.noise(random_tokens(), torch.Generator().manual_seed(seed))[0]

    assert torch.equal(draws(0), draws(0))
    assert not torch.equal(draws(0), draws(1))
    source = torch.Generator().manual_seed(0)
    first, second = (model.noise(random_tokens(), source)[0] for _ in range(2))
    assert torch.equal(first, draws(0))
    assert not torch.equal(first, second)


def test_without_draws_nothing_is_random_in_training_or_evaluation() -> None:
    model = random_model()
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(random_tokens()), model(random_tokens()))


def test_scalers_have_the_clients_scale() -> None:
    model = build_model("transformer", 1 / 4, scale=0.25, num_tokens=3)
    assert {layer.scale for layer in model.modules() if isinstance(layer, Scaler)} == {0.25}


@pytest.mark.parametrize("norm", ["sbn", "none"])
def test_another_norm_is_refused(norm: str) -> None:
    sentence = f"norm '{norm}' is not possible with arch 'transformer'; allowed is ln"
    with pytest.raises(InputError, match=sentence):
        build_model("transformer", norm=norm)
