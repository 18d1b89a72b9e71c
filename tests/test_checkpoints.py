"""A checkpoint brings back exactly what was saved, or says why it cannot."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from heterofl_core import checkpoints
from heterofl_core.checkpoints import RunState, load_checkpoint, save_checkpoint
from heterofl_core.errors import InputError
from heterofl_core.models import build_model


def a_state(norm: str = "sbn") -> RunState:
    """A run after two rounds; 0.1 and 1/3 have no exact decimal."""
    return RunState(
        parameters=build_model("cnn", width_rate=1 / 16, norm=norm).state_dict(),
        round=2,
        rows=[{"round": 1, "train_loss": 0.1}, {"round": 2, "train_loss": 1 / 3}],
        bytes_down=2**40 + 1,
        bytes_up=7,
        training_seconds=0.1 + 0.2,
        evaluation_seconds=1e-9,
        peak_memory_mb=512.5,
    )


@pytest.mark.parametrize("norm", ["sbn", "bn"])  # bn counts its batches in integers
def test_what_was_saved_comes_back_bit_by_bit(tmp_path: Path, norm: str) -> None:
    saved = a_state(norm)
    save_checkpoint(tmp_path / "checkpoint.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert loaded.parameters.keys() == saved.parameters.keys()
    for name, value in saved.parameters.items():
        assert loaded.parameters[name].dtype == value.dtype
        assert loaded.parameters[name].shape == value.shape
        assert torch.equal(loaded.parameters[name], value)
    dtypes = {value.dtype for value in loaded.parameters.values()}
    assert dtypes == ({torch.float32} if norm == "sbn" else {torch.float32, torch.int64})
    assert vars(loaded) | {"parameters": None} == vars(saved) | {"parameters": None}


@pytest.mark.parametrize("damage", ["truncated", "header cut", "empty", "text", "no progress", "missing"])
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
    with pytest.raises(InputError):
        load_checkpoint(path)
