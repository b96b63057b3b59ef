"""One pair to one gradient with a real network, and one optimiser step from many pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.canvas import Canvas
from train.config import TrainConfig
from train.engine.predictor import window_predictor
from train.engine.together import Twins
from train.engine.windowed import Problem
from train.lora.adapters import lora_parameters, reference
from train.lora.optimizers import learning_rate, set_learning_rate
from train.lora.twins import can_twin, twins
from train.objective.draws import Draw, step_draw
from train.objective.losses import Context
from train.objective.noise import NoiseProcess
from train.objective.pair import (
    PairResult,
    Reference,
    in_one_call,
    inner,
    pair_errors,
    pair_gradients,
    reference_pass,
)
from train.objective.references import References, reference_key
from train.pairs.prepare import Pair


@dataclass(frozen=True)
class Trainee:
    """The network in training, with all that is fixed over the run."""

    unet: Any
    process: NoiseProcess
    canvas: Canvas
    config: TrainConfig
    device: torch.device
    autocast: torch.dtype | None
    references: References | None = None
    """Where the frozen model's answers are kept; None asks it at every step."""

    def gradients(self, pair: Pair, step: int) -> PairResult:
        """Loss, LoRA gradient and metrics of one pair at one step."""
        drawn = step_draw(
            self.config.seed,
            step,
            pair.pair_id,
            tuple(pair.latents_w.shape),
            self.process.timesteps,
            self.config.noise,
        )
        # Dropout draws from torch's own generator; seeding it here makes its masks a function of the step
        # too.
        torch.manual_seed(drawn.seed)
        problem = self.problem(pair, drawn)
        copies = (lambda: twins(self.unet)) if can_twin(self.unet) else None
        result = pair_gradients(
            problem,
            lora_parameters(self.unet),
            self.config.loss,
            off=lambda: reference(self.unet),
            schedule=self.config.memory.schedule,
            context=self.context(drawn.t),
            known=self.kept_reference(problem, pair, drawn.t, copies),
            region_seed=drawn.seed,
            twins=copies,
        )
        result.metrics["t"] = drawn.t
        return result

    def kept_reference(self, problem: Problem, pair: Pair, t: int, copies: Twins | None) -> Reference | None:
        """The frozen model's answer, asked for only where it is not kept yet; None where none is kept."""
        if self.references is None:
            return None
        together = in_one_call(problem, self.config.loss, copies)
        key = reference_key(
            problem,
            {"embeds": pair.embeds} | ({} if pair.pooled is None else {"pooled": pair.pooled}),
            self.process.model_time(t),
            together=together,
            place=[self.canvas.height, self.canvas.width, self.config.canvas.time_ids],
        )
        off = lambda: reference(self.unet)  # noqa: E731
        return self.references.get(key, lambda: reference_pass(problem, off, together=together))

    def errors(self, pair: Pair, drawn: Draw, known: Reference | None) -> PairResult:
        """Loss and metrics of one held-out pair, without gradient."""
        result = pair_errors(
            self.problem(pair, drawn),
            self.config.loss,
            off=lambda: reference(self.unet),
            context=self.context(drawn.t),
            known=known,
        )
        result.metrics["t"] = drawn.t
        return result

    def context(self, t: int) -> Context:
        """What the losses need to know about the timestep."""
        return Context(snr=self.process.snr(t), timesteps=self.process.timesteps)

    def problem(self, pair: Pair, drawn: Draw) -> Problem:
        """The pair noised as a whole (eq. 12), with its windows and the network that will see them."""
        clean_w, clean_l = pair.latents_w.to(self.device), pair.latents_l.to(self.device)
        noise_w, noise_l = drawn.noise_w.to(self.device), drawn.noise_l.to(self.device)
        dtype = self.unet.conv_in.weight.dtype  # unet.dtype walks over all parameters
        predict = window_predictor(
            self.unet,
            self.process.model_time(drawn.t),
            pair.embeds.to(self.device, dtype),
            None if pair.pooled is None else pair.pooled.to(self.device, dtype),
            (self.canvas.height, self.canvas.width),
            time_ids=self.config.canvas.time_ids,
            autocast=self.autocast,
        )
        return Problem(
            latents_w=self.process.noisy(clean_w, noise_w, drawn.t),
            latents_l=self.process.noisy(clean_l, noise_l, drawn.t),
            noise_w=self.process.answer(clean_w, noise_w, drawn.t),
            noise_l=self.process.answer(clean_l, noise_l, drawn.t),
            windows=self.canvas.windows,
            weights=self.canvas.weights,
            predict=predict,
            micro_batch=self.config.memory.window_batch,
            error_weight=self.config.loss.error_weight,
            error_scale=self.process.error_scale(drawn.t, self.config.noise.loss_space),
        )


def add_share(total: list[Tensor] | None, grads: list[Tensor], pairs: int) -> list[Tensor]:
    """The running mean over a step's pairs: each gradient is divided by `pairs` and added in order."""
    torch._foreach_div_(grads, pairs)
    if total is None:
        return grads
    torch._foreach_add_(total, grads)
    return total


def sum_over_processes(accelerator: Any, grads: list[Tensor]) -> list[Tensor]:
    """The LoRA gradient of the whole step: one all-reduce of one flat tensor, after the losses have scaled
    it."""
    if accelerator.num_processes == 1:
        return grads
    flat = accelerator.reduce(torch.cat([grad.reshape(-1) for grad in grads]), reduction="sum")
    pieces = flat.split([grad.numel() for grad in grads])
    return [piece.view_as(grad) for piece, grad in zip(pieces, grads, strict=True)]


def apply_gradient(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    grads: list[Tensor],
    step: int,
    config: TrainConfig,
) -> dict[str, float] | None:
    """Clips and steps; the norm before clipping and the learning rate, or None where the norm is not
    finite."""
    norm = math.sqrt(inner(grads, grads))
    if not math.isfinite(norm):
        return None
    limit = config.optimizer.max_grad_norm
    if limit and norm > limit:
        torch._foreach_mul_(grads, limit / norm)
    rate = learning_rate(step, config.optimizer)
    set_learning_rate(optimizer, rate)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm, "lr": rate}
