"""A checkpoint brings back exactly what was saved, or says why it cannot."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from heterofl_core import checkpoints
from heterofl_core.checkpoints import RunState, flatten, load_checkpoint, save_checkpoint, unflatten
from heterofl_core.errors import InputError
from heterofl_core.federation import Weights
from heterofl_core.models import build_model
from heterofl_core.provenance import code_hash


def a_state(norm: str = "sbn", personal: dict[int, dict[str, torch.Tensor]] | None = None) -> RunState:
    """A run after two rounds; 0.1 and 1/3 have no exact decimal."""
    return RunState(
        weights=Weights(
            shared=build_model("cnn", width_rate=1 / 16, norm=norm).state_dict(),
            personal=personal or {},
        ),
        round=2,
        rows=[{"round": 1, "train_loss": 0.1}, {"round": 2, "train_loss": 1 / 3}],
        bytes_down=2**40 + 1,
        bytes_up=7,
        training_seconds=0.1 + 0.2,
        evaluation_seconds=1e-9,
        peak_memory_mb=512.5,
    )


def assert_identical(loaded: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    """The same names with the same bits."""
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        assert torch.equal(loaded[name], value)


@pytest.mark.parametrize("norm", ["sbn", "bn"])  # bn counts its batches in integers
def test_what_was_saved_comes_back_bit_by_bit(tmp_path: Path, norm: str) -> None:
    saved = a_state(norm)
    save_checkpoint(tmp_path / "checkpoint.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert_identical(loaded.weights.shared, saved.weights.shared)
    assert loaded.weights.personal == {}
    dtypes = {value.dtype for value in loaded.weights.shared.values()}
    assert dtypes == ({torch.float32} if norm == "sbn" else {torch.float32, torch.int64})
    assert vars(loaded) | {"weights": None} == vars(saved) | {"weights": None}


def test_parameters_come_back_in_their_order(tmp_path: Path) -> None:
    """A compiled program takes them by their places, and rounding hangs on the order of sums."""
    own = {"z": torch.ones(2), "c": torch.zeros(2)}
    weights = Weights({"b": torch.zeros(1), "a": torch.ones(1)}, {3: own})
    save_checkpoint(tmp_path / "checkpoint", RunState(weights, round=1, rows=[]))
    loaded = load_checkpoint(tmp_path / "checkpoint").weights
    assert list(loaded.shared) == ["b", "a"]
    assert list(loaded.personal[3]) == ["z", "c"]


def test_what_belongs_to_clients_comes_back_to_them(tmp_path: Path) -> None:
    own = {"layers.0.weight": torch.rand(3, 2), "layers.0.bias": torch.rand(3), "count": torch.tensor(7)}
    saved = a_state(personal={3: own, 12: {"layers.0.bias": torch.rand(3)}})
    save_checkpoint(tmp_path / "checkpoint.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert_identical(loaded.weights.shared, saved.weights.shared)
    assert sorted(loaded.weights.personal) == [3, 12]  # numbers, not texts
    for client, parameters in saved.weights.personal.items():
        assert_identical(loaded.weights.personal[client], parameters)


def test_all_tensors_lie_flat_under_their_owners() -> None:
    one, two, three = torch.rand(3, 1)
    weights = Weights(shared={"a.weight": one}, personal={0: {"a.weight": two}, 10: {"b/c": three}})
    flat = {"shared/a.weight": one, "0/a.weight": two, "10/b/c": three}
    assert flatten(weights) == flat
    assert unflatten(flat) == weights
    assert unflatten({}) == Weights(shared={}, personal={})


@pytest.mark.parametrize(
    "damage", ["truncated", "header cut", "empty", "text", "no progress", "no owners", "missing"]
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, a_state())
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-1])
        case "header cut":
            path.write_bytes(content[:20])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("these are not the tensors that you are looking for")
        case "no progress":
            save_file({"weight": torch.zeros(1)}, path)
        case "no owners":  # as the first version wrote them
            header = {"progress": '{"round": 2, "rows": []}', "code_hash": code_hash()}
            save_file({"linear.weight": torch.zeros(1)}, path, metadata=header)
        case "missing":
            path.unlink()
    with pytest.raises(InputError) as failure:
        load_checkpoint(path)
    answer = str(failure.value)
    assert answer.startswith(f"checkpoint {path} is damaged (")
    assert answer.endswith("); delete it to start the run anew")
    assert "\n" not in answer


def test_a_checkpoint_of_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as other:
        other.setattr(checkpoints, "code_hash", lambda: "0123456789abcdef")
        save_checkpoint(path, a_state())
    with pytest.raises(InputError) as failure:
        load_checkpoint(path)
    assert str(failure.value) == (
        f"checkpoint {path} was written by other code (0123456789abcdef); delete it to start the run anew"
    )


def test_a_checkpoint_of_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    state = a_state()
    vars(state)["a_field_of_tomorrow"] = 1
    save_checkpoint(path, state)
    with pytest.raises(InputError, match=rf"^checkpoint {path} is damaged \(.*a_field_of_tomorrow"):
        load_checkpoint(path)
