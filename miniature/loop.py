"""The training loop that every model of the zoo shares: seeded, logged, resumable after a kill.

Each step seeds torch with (name, step), so a run that was killed and continued sees the data and the noise
that the unbroken run would have seen.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 60.0
LOG_EVERY = 100


@dataclass
class Task:
    """What to train and for how long; `loss(step)` returns a scalar, `sample(step)` may draw a grid."""

    name: str
    model: nn.Module
    loss: Callable[[int], Tensor]
    steps: int
    rate: float
    warmup: int = 100
    decay: float = 0.01
    average: float = 0.0  # decay of the exponential moving average of the weights; 0 keeps none
    sample: Callable[[int], None] | None = None
    sample_every: int = 500


class Averaged:
    """An exponential moving average of a model's parameters."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        names = [(name, value) for name, value in model.named_parameters()]
        torch._foreach_lerp_(
            [self.values[name] for name, _ in names], [value.detach() for _, value in names], 1 - decay
        )

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges the model's parameters with the averages; a second call undoes the first."""
        for name, value in model.named_parameters():
            kept = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name] = kept


def train(task: Task, folder: Path) -> nn.Module:
    """Trains to `task.steps`, continuing from the checkpoint in `folder`; ends with the average loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [value for value in task.model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=task.rate, weight_decay=task.decay, betas=(0.9, 0.99))
    average = Averaged(task.model, task.average) if task.average else None
    path = folder / f"{task.name}.pt"
    step = _resume(path, task.model, optimizer, average)
    log(folder, f"{task.name}: step {step} of {task.steps}, {_millions(task.model):.2f} M parameters")
    started = saved = time.monotonic()
    first, seen = step, 0.0
    task.model.train()
    while step < task.steps:
        seen += _one_step(task, parameters, optimizer, step)
        step += 1
        if average:
            average.update(task.model, step)
        if step % LOG_EVERY == 0:
            seconds = (time.monotonic() - started) / (step - first)
            log(folder, f"{task.name}: step {step} loss {seen / LOG_EVERY:.5f} ({seconds:.3f} s per step)")
            seen = 0.0
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step == task.steps:
            _save(path, task.model, optimizer, average, step)
            saved = time.monotonic()
        if task.sample and (step % task.sample_every == 0 or step == task.steps):
            _draw(task, task.sample, average, step)
    if average:
        average.swap(task.model)
    return task.model.eval()


def rate_at(step: int, task: Task) -> float:
    """Linear warm-up, then a cosine down to two per cent of the top rate."""
    if step < task.warmup:
        return task.rate * (step + 1) / task.warmup
    progress = (step - task.warmup) / max(1, task.steps - task.warmup)
    return task.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def log(folder: Path, text: str) -> None:
    """One dated line to the terminal and to `fit.log`."""
    line = f"{time.strftime('%H:%M:%S')} {text}"
    print(line, flush=True)
    with (folder / "fit.log").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _one_step(task: Task, parameters: list[Tensor], optimizer: torch.optim.Optimizer, step: int) -> float:
    torch.manual_seed(zlib.crc32(f"{task.name} {step}".encode()))
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step, task)
    loss = task.loss(step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return loss.item()


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Averaged | None) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average and state["average"]:
        average.values = state["average"]
    return state["step"]


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Averaged | None, step: int
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    state["average"] = average.values if average else None
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _draw(task: Task, sample: Callable[[int], None], average: Averaged | None, step: int) -> None:
    task.model.eval()
    if average:
        average.swap(task.model)
    with torch.no_grad():
        sample(step)
    if average:
        average.swap(task.model)
    task.model.train()


def _millions(model: nn.Module) -> float:
    return sum(value.numel() for value in model.parameters()) / 1e6
