"""LoRA on the network's attention: put it on, name its parameters, and switch it off for the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn

from drspo.errors import UserError
from drspo.hashing import seed_from

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_STREAM = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""The text's own, where text and picture attend to each other (Esser et al. 2024, 2403.03206, fig. 2)."""
ADAPTER = "default"
_inside_reference = 0
_known: WeakKeyDictionary[Any, tuple[dict[str, nn.Parameter], list[LoraLayer]]] = WeakKeyDictionary()
"""Parameters and layers of each network with a LoRA: walking its modules several times a step is a tenth of a
small model's time."""


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """A layer that carries the LoRA, and its parts: y = base(x) + scale B A dropout(x)."""

    module: Any
    base: nn.Module
    dropout: nn.Module
    a: nn.Parameter
    b: nn.Parameter

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return float(self.module.scaling[ADAPTER])


def attention_of(kind: str) -> tuple[str, ...]:
    """The projections of attention in networks of this kind: where a LoRA sits unless told otherwise."""
    return ATTENTION + TEXT_STREAM if kind in ("sd3", "flux") else ATTENTION


def add_lora(
    network: Any,
    rank: int = 64,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    dropout: float = 0.0,
) -> None:
    """Freeze the network and put one trainable LoRA on the named projections (LoRA, Hu et al. 2021, arXiv
    2106.09685, eq. 3).

    A is drawn from N(0, 1/rank^2) by a CPU generator seeded per parameter name, so device and order do not
    matter; B is 0, so nothing changes at first. Adapters are float32 whatever the base is: in bfloat16 a step
    of 1e-6 is rounded away. alpha None means alpha = rank. UserError when there is an adapter already or no
    such projection.
    """
    if getattr(network, "peft_config", None):
        raise UserError(
            "the network already carries a LoRA", "train.lora.adapters", "train on the base model"
        )
    network.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or rank,  # type: ignore[arg-type]  # declared int, used as a factor
        target_modules=list(targets),
        lora_dropout=dropout,
        init_lora_weights=False,
    )
    try:
        with torch.random.fork_rng():
            network.add_adapter(config, adapter_name=ADAPTER)
    except ValueError as error:
        raise UserError(
            f"no layer of this network matches {list(targets)}", "lora.targets", str(error)[:200]
        ) from error
    for name, parameter in named_lora_parameters(network).items():
        parameter.data = parameter.data.to(dtype)
        _initialise(parameter, name, rank, seed)
    _known[network] = named_lora_parameters(network), lora_layers(network)


def _initialise(parameter: Tensor, name: str, rank: int, seed: int) -> None:
    """A ~ N(0, 1/rank^2) from (seed, name); B = 0."""
    with torch.no_grad():
        if ".lora_B." in name:
            parameter.zero_()
            return
        generator = torch.Generator().manual_seed(seed_from("lora", seed, name))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / rank)


def named_lora_parameters(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the training LoRA, sorted by name."""
    if network in _known:
        return dict(_known[network][0])
    found = {name: p for name, p in network.named_parameters() if ".lora_A." in name or ".lora_B." in name}
    return dict(sorted(found.items()))


def lora_parameters(network: Any) -> list[nn.Parameter]:
    """The training LoRA's parameters in a fixed order (sorted by name)."""
    return list(named_lora_parameters(network).values())


def lora_state(network: Any) -> dict[str, Tensor]:
    """A copy of the LoRA on the CPU, by parameter name: what a checkpoint keeps."""
    return {
        name: p.detach().to("cpu", copy=True).contiguous()
        for name, p in named_lora_parameters(network).items()
    }


def load_lora_state(network: Any, state: dict[str, Tensor]) -> None:
    """Put a checkpoint's LoRA into the adapter that is there, in place, so that an optimiser keeps its
    parameters.

    UserError when names or shapes differ: nothing is loaded partly.
    """
    own = named_lora_parameters(network)
    if {n: tuple(p.shape) for n, p in own.items()} != {n: tuple(t.shape) for n, t in state.items()}:
        raise UserError(
            "the saved LoRA does not fit this network's adapter",
            "",
            "rank, targets and base model must be those it was trained with",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def lora_settings(network: Any) -> dict[str, Any]:
    """rank, alpha, targets, dropout of the LoRA on this network."""
    config = network.peft_config[ADAPTER]
    targets = config.target_modules
    return {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "targets": sorted(targets) if not isinstance(targets, str) else [targets],
        "dropout": config.lora_dropout,
    }


def lora_norm(network: Any) -> float:
    """Frobenius norm of the LoRA's whole change of weights, sqrt(sum |scale B A|^2), from Gram matrices of
    size rank."""
    settings, total = lora_settings(network), 0.0
    named = named_lora_parameters(network)
    with torch.no_grad():
        for name, a in named.items():
            if ".lora_A." in name:
                b = named[name.replace(".lora_A.", ".lora_B.")]
                a, b = a.flatten(1), b.flatten(1)  # a convolution's is [r, in, k, k] and [out, r, 1, 1]
                total += float(((b.T @ b) * (a @ a.T)).sum())
    return settings["alpha"] / settings["rank"] * max(total, 0.0) ** 0.5


def forbid_reference() -> None:
    """RuntimeError inside `reference`: a backward pass there would differentiate the wrong network."""
    if _inside_reference:
        raise RuntimeError("a gradient was asked for inside reference(): leave the context first")


@contextmanager
def reference(network: Any) -> Iterator[Any]:
    """The frozen base model: adapters off and no gradient, until the context ends.

    It is over before any backward: no graph can be made inside (tensors saved for a backward raise), and a
    backward of a graph from outside raises at the first LoRA parameter it reaches. Does not nest and does not
    share a network between threads.
    """
    global _inside_reference
    forbid_reference()
    hooks = [p.register_hook(_refuse) for p in lora_parameters(network) if p.requires_grad]
    layers = lora_layers(network)
    _inside_reference += 1
    try:
        with (
            replaced_forwards(layers, lambda layer: layer.base.forward),
            torch.no_grad(),
            torch.autograd.graph.saved_tensors_hooks(_refuse, _refuse),
        ):
            yield network
    finally:
        _inside_reference -= 1
        for hook in hooks:
            hook.remove()


@contextmanager
def replaced_forwards(
    layers: Sequence[LoraLayer], forward: Callable[[LoraLayer], Callable[..., Any]]
) -> Iterator[None]:
    """Inside, every layer computes what `forward(layer)` does; then what it did before. Nests.

    peft's own switch walks over each layer's parameters: a tenth of a small model's step.
    """
    before = [layer.module.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.module.forward = forward(layer)
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.module.__dict__.pop("forward", None)
            if kept is not None:
                layer.module.forward = kept


def lora_layers(network: Any) -> list[LoraLayer]:
    """The layers that carry the training LoRA."""
    if network in _known:
        return _known[network][1]
    carrying = [m for m in network.modules() if isinstance(m, PeftLayer) and ADAPTER in m.lora_A]
    return [_layer(module) for module in carrying]


def _layer(module: Any) -> LoraLayer:
    a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return LoraLayer(module, module.get_base_layer(), module.lora_dropout[ADAPTER], a, b)


def _refuse(_: Any) -> Any:
    raise RuntimeError("a graph was made or back-propagated inside reference(): the adapters are off there")
