"""What a request will cost, found by rehearsing it.

A rehearsal runs the real generator on the real request, but after a few real evaluations of a network at each
shape it hands back the last answer instead of computing a new one. So the evaluations are counted exactly for
any method, plugins included; seconds come from evaluations timed at their own shapes; and everything else
(text, line art, blending, scheduler, autoencoder) is not estimated but run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_map

from drspo.memory import peak_resident
from generate.images.preview import Recorder
from generate.models.family import ModelFamily
from generate.request import Generator, Request


@dataclass
class Calls:
    """The calls of one network at one shape: how many, how many samples, and what some of them took."""

    samples: int = 0
    count: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    """By index of the call, only of those that ran, without what ran inside them and is counted by itself."""
    inside: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """What such a call calls itself: calls and samples of each."""

    def is_real(self, index: int) -> bool:
        """Calls 0, 1, 2, 4, 8, 16, ... run: cost may change along the denoising (MAD's threshold does
        that)."""
        return index & (index - 1) == 0

    def total(self) -> float:
        """Seconds of all calls, interpolated between those that ran; the first one only warms up."""
        known = sorted(i for i in self.seconds if i or self.count == 1)
        if not known:
            return self.seconds.get(0, 0.0) * self.count
        weights = [self._span(known, position) for position in range(len(known))]
        return sum(w * self.seconds[i] for w, i in zip(weights, known, strict=True))

    def _span(self, known: list[int], position: int) -> float:
        """How many calls are nearer to this measured one than to its neighbours."""
        low = (known[position - 1] + known[position]) / 2 if position else 0.0
        high = (known[position] + known[position + 1]) / 2 if position + 1 < len(known) else float(self.count)
        return high - low


@dataclass(frozen=True)
class Plan:
    """The cost of one scroll."""

    evaluations: dict[str, dict[tuple[int, int], int]]
    """By network ("unet", "controlnet") or part of the method, by latent size: samples evaluated."""
    seconds: float
    peak_bytes: int
    """Of device memory where there is a device, of the process otherwise."""
    rehearsal_seconds: float

    def count(self, network: str) -> int:
        """All samples that this network evaluates for one scroll."""
        return sum(self.evaluations.get(network, {}).values())


def rehearse(
    generator: Generator, family: ModelFamily, request: Request, recorder: Recorder | None = None
) -> Plan:
    """The cost of one request, at the price of a few evaluations of each network at each shape.

    Seconds exclude loading the model and the first evaluation's warm-up; they include the GIF of a recorder.
    """
    _reset_peak(family.device)
    logs: dict[Any, Calls] = {}
    started = time.perf_counter()
    with _stubbed({**generator.parts, **family.networks}, logs, family.device):
        generator.generate([request], recorder)
        _synchronize(family.device)
    elapsed = time.perf_counter() - started
    outside = elapsed - sum(sum(calls.seconds.values()) for calls in logs.values())
    evaluations: dict[str, dict[tuple[int, int], int]] = {}
    for (name, (_, height, width)), calls in logs.items():
        sizes = evaluations.setdefault(name, {})
        sizes[height, width] = sizes.get((height, width), 0) + calls.samples
    seconds = outside + sum(calls.total() for calls in logs.values())
    seconds += recorder.estimate(family.vae) if recorder is not None else 0.0
    return Plan(evaluations, seconds, peak_bytes(family.device), elapsed)


@contextmanager
def count_evaluations(family: ModelFamily) -> Iterator[dict[str, int]]:
    """Counts the samples that each network really evaluates inside the block."""
    counts = dict.fromkeys(family.networks, 0)

    def hook(name: str) -> Callable[..., None]:
        def add(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            counts[name] += _sample(args, kwargs).shape[0]

        return add

    handles = [
        network.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, network in family.networks.items()
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _stubbed(parts: dict[str, Any], logs: dict[Any, Calls], device: torch.device) -> Iterator[None]:
    own = {name: vars(part).get("forward") for name, part in parts.items()}
    clock = _Clock(device)
    for name, part in parts.items():
        part.forward = _stub(name, part.forward, logs, clock)
    try:
        yield
    finally:
        for name, part in parts.items():
            del part.forward  # the class's own is visible again
            if own[name] is not None:  # somebody had wrapped this one
                part.forward = own[name]


class _Clock:
    """Seconds of calls within calls, each without those of the calls inside it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._inner: list[float] = []

    def timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        """What the call gives, and its own seconds."""
        _synchronize(self.device)
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            made = call()
            _synchronize(self.device)
        finally:
            inner, took = self._inner.pop(), time.perf_counter() - started
        if self._inner:
            self._inner[-1] += took
        return made, took - inner


def _stub(
    name: str, forward: Callable[..., Any], logs: dict[Any, Calls], clock: _Clock
) -> Callable[..., Any]:
    answers: dict[Any, Any] = {}

    def run(*args: Any, **kwargs: Any) -> Any:
        sample = _sample(args, kwargs)
        key = (name, (sample.shape[0], *_size(sample, kwargs)))
        calls = logs.setdefault(key, Calls())
        index = calls.count
        calls.count += 1
        calls.samples += sample.shape[0]
        # An answer that was kept has no gradient, and whoever asks for one runs few times anyway.
        if not (calls.is_real(index) or sample.requires_grad):
            for other, (count, samples) in calls.inside.items():
                logs[other].count += count
                logs[other].samples += samples
            return answers[key]
        before = {other: (log.count, log.samples) for other, log in logs.items()}
        made, calls.seconds[index] = clock.timed(lambda: forward(*args, **kwargs))
        calls.inside = _since(before, logs)
        answers[key] = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, made)
        return made

    return run


def _since(before: dict[Any, tuple[int, int]], logs: dict[Any, Calls]) -> dict[Any, tuple[int, int]]:
    """What was called since then: calls and samples of each."""
    grown = {}
    for key, log in logs.items():
        count, samples = before.get(key, (0, 0))
        if log.count > count:
            grown[key] = (log.count - count, log.samples - samples)
    return grown


def _sample(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    sample: torch.Tensor = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    return sample


def _size(sample: torch.Tensor, kwargs: dict[str, Any]) -> tuple[int, int]:
    """(height, width) in latents, also of those that are packed into tokens of four."""
    if sample.dim() == 4:
        return sample.shape[2], sample.shape[3]
    ids = kwargs["img_ids"]
    rows, columns = (int(ids[:, axis].max() - ids[:, axis].min()) + 1 for axis in (1, 2))
    return 2 * rows, 2 * columns


def peak_bytes(device: torch.device) -> int:
    """The largest memory so far: of the device since `rehearse` or the program began, else of the process."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident()


def _reset_peak(device: torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _synchronize(device: torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
