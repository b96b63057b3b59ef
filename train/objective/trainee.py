"""One pair to one gradient with a real network: what is fixed over a run, and what each pair adds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from generate.models.denoisers.denoiser import Denoiser
from train.canvas import TrainingCanvas
from train.config import TrainConfig
from train.engine.predictor import transformer_predictor, window_predictor
from train.engine.problem import Predict, Problem, Side, Trainable
from train.objective.draws import Draw, forgets_prompt, step_draw
from train.objective.losses import Context
from train.objective.noise import NoiseProcess
from train.objective.pair import PairResult, Recall, ask_anew, in_one_call, pair_errors, pair_gradients
from train.objective.references import References, reference_key
from train.pairs.prepare import EncodedPair


@dataclass(frozen=True)
class Trainee:
    """The network in training, with all that is fixed over the run."""

    network: Any
    trainable: Trainable
    process: NoiseProcess
    canvas: TrainingCanvas
    config: TrainConfig
    device: torch.device
    autocast: torch.dtype | None
    references: References | None = None
    """Where the frozen model's answers are kept; None asks it at every step."""
    denoiser: Denoiser | None = None
    """What evaluates the network where that is a transformer."""
    promptless: tuple[torch.Tensor, torch.Tensor | None] | None = None
    """Embeddings (and pooled) of no prompt, which `data.prompt_dropout` of the draws are shown."""
    of_size: Callable[[int, int], tuple[TrainingCanvas, NoiseProcess]] | None = None
    """The canvas of another height and width in pixels, and how noise is counted there; None where every pair
    has the size of `canvas`."""

    def fitted(self, pair: EncodedPair) -> "Trainee":
        """Itself on the canvas that the pair's own latents fill."""
        height, width = (side * self.canvas.factor for side in pair.latents_w.shape[-2:])
        if self.of_size is None or (height, width) == (self.canvas.height, self.canvas.width):
            return self
        canvas, process = self.of_size(height, width)
        return replace(self, canvas=canvas, process=process, of_size=None)

    def gradients(self, pair: EncodedPair, position: int) -> PairResult:
        """Loss, LoRA gradient and metrics of the pair at `position`, counted over the whole run; the pair has
        the canvas's size (`fitted`)."""
        config, shape = self.config, tuple(pair.latents_w.shape)
        drawn = step_draw(config.seed, position, pair.pair_id, shape, self.process.timesteps, config.noise)
        # Dropout draws from torch's own generator; seeding it here makes its masks a function of the position
        # too.
        torch.manual_seed(drawn.seed)
        if self.promptless and forgets_prompt(drawn.seed, config.data.prompt_dropout):
            embeds, pooled = self.promptless
            pair = replace(pair, embeds=embeds, pooled=pooled)
        together = in_one_call(
            len(self.canvas.windows), config.memory.window_batch, config.loss, self.trainable
        )
        problem = self.problem(pair, drawn, together=together)
        result = pair_gradients(
            problem,
            self.trainable,
            config.loss,
            schedule=config.memory.schedule,
            context=self.context(drawn.t),
            recall=self.recall(problem, pair, drawn.t),
            region_seed=drawn.seed,
        )
        result.metrics["t"] = drawn.t
        return result

    def errors(self, pair: EncodedPair, drawn: Draw, recall: Recall) -> PairResult:
        """Loss and metrics of one held-out pair, without gradient."""
        problem, context = self.problem(pair, drawn), self.context(drawn.t)
        result = pair_errors(problem, self.trainable, self.config.loss, context=context, recall=recall)
        result.metrics["t"] = drawn.t
        return result

    def recall(self, problem: Problem, pair: EncodedPair, t: int) -> Recall:
        """How the frozen model's answer is had: from those that are kept, where they are."""
        references = self.references
        if references is None:
            return ask_anew
        key = reference_key(
            problem,
            {"embeds": pair.embeds} | ({} if pair.pooled is None else {"pooled": pair.pooled}),
            self.process.model_time(t),
            place=[self.canvas.height, self.canvas.width, self.config.canvas.time_ids],
        )
        return lambda ask: references.get(key, ask)

    def context(self, t: int) -> Context:
        """What the losses need to know about the timestep."""
        return Context(snr=self.process.snr(t), timesteps=self.process.timesteps)

    def problem(self, pair: EncodedPair, drawn: Draw, *, together: bool = False) -> Problem:
        """The pair noised as a whole (eq. 12), with its windows and the network that will see them."""
        return Problem(
            sides=(
                self._side(pair.latents_w, drawn.noise_w, drawn.t),
                self._side(pair.latents_l, drawn.noise_l, drawn.t),
            ),
            windows=self.canvas.windows,
            weights=self.canvas.weights,
            predict=self._predict(pair, drawn.t),
            micro_batch=self.config.memory.window_batch,
            together=together,
            error_weight=self.config.loss.error_weight,
            error_scale=self.process.error_scale(drawn.t, self.config.noise.loss_space),
        )

    def _predict(self, pair: EncodedPair, t: int) -> Predict:
        dtype = next(self.network.parameters()).dtype  # network.dtype walks over all parameters
        plain = self.denoiser is None
        build: Callable[..., Predict] = window_predictor if plain else transformer_predictor
        return build(
            self.network if plain else self.denoiser,
            self.process.model_time(t),
            pair.embeds.to(self.device, dtype),
            None if pair.pooled is None else pair.pooled.to(self.device, dtype),
            (self.canvas.height, self.canvas.width),
            factor=self.canvas.factor,
            time_ids=self.config.canvas.time_ids,
            autocast=self.autocast,
        )

    def _side(self, clean: torch.Tensor, noise: torch.Tensor, t: int) -> Side:
        clean, noise = clean.to(self.device), noise.to(self.device)
        return Side(latents=self.process.noisy(clean, noise, t), target=self.process.answer(clean, noise, t))
