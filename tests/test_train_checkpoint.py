"""Checkpoints: whole or absent, the last one never at risk."""

import errno
import os

import pytest
import torch

from drspo.errors import UserError
from train.lora.checkpoint import Checkpoints, State, refuse_foreign


def state(step: int, ema: bool = False) -> State:
    generator = torch.Generator().manual_seed(step)
    weights = {"a.lora_A": torch.randn(4, 3, generator=generator), "a.lora_B": torch.zeros(3, 4)}
    parameter = torch.nn.Parameter(weights["a.lora_A"].clone())
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return State(
        step,
        weights,
        optimizer.state_dict(),
        dict(weights) if ema else {},
        {"best": {"step": 1, "loss": 0.5}},
    )


@pytest.mark.parametrize("ema", [False, True])
def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path, ema):
    saved = state(7, ema)
    checkpoints = Checkpoints(tmp_path, 2)
    loaded = checkpoints.load(checkpoints.save(saved))
    assert loaded.step == 7 and loaded.facts == saved.facts
    for name, tensor in saved.lora.items():
        assert torch.equal(loaded.lora[name], tensor)
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], saved.optimizer["state"][0]["exp_avg"])
    assert loaded.ema.keys() == saved.ema.keys()


def test_the_last_n_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(state(step), best_step=2)
    assert [path.name for path in checkpoints.all()] == ["step-000002", "step-000004", "step-000005"]


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_the_last_checkpoint_intact_and_says_so(tmp_path, monkeypatch, failing):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(state(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(UserError, match="No space left on device") as caught:
            checkpoints.save(state(2))
    assert "step-000001 is intact" in caught.value.hint
    assert checkpoints.load(checkpoints.latest()).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_a_kill_while_writing_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(state(1))

    def killed(*_):
        raise KeyboardInterrupt  # like a kill, this passes every `except Exception`

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(state(2))
    assert checkpoints.latest().name == "step-000001"
    checkpoints.save(state(2))
    assert checkpoints.load(checkpoints.latest()).step == 2


@pytest.mark.parametrize("name", ["lora.safetensors", "optimizer.pt"])
def test_a_damaged_file_is_found_before_anything_is_loaded(tmp_path, name):
    checkpoints = Checkpoints(tmp_path, 2)
    path = checkpoints.save(state(3))
    data = bytearray((path / name).read_bytes())
    data[-3] ^= 1
    (path / name).write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged"):
        checkpoints.load(path)


def test_a_checkpoint_runs_no_code_when_it_is_opened(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    saved = state(3)
    saved.optimizer["param_groups"].append(Evil())
    path = checkpoints.save(saved)
    with pytest.raises(Exception, match="(?i)weights.only|unsupported"):
        checkpoints.load(path)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_base_model_or_configuration_is_refused(tmp_path):
    own = {"configuration": "abc", "base model": "123"}
    refuse_foreign(dict(own), own, tmp_path)
    for name in own:
        with pytest.raises(UserError, match=f"of another {name}"):
            refuse_foreign(own | {name: "other"}, own, tmp_path)
