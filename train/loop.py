"""Training from the first line to the last: pairs in, a LoRA folder out. Read `train` and `Run.step`."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from drspo.config import to_dict
from drspo.log import progress
from generate.models.family import ModelFamily, load_family
from train.canvas import TrainingCanvas, make_canvas
from train.checks import pairs_per_process
from train.config import TrainConfig, identity
from train.engine.predictor import check_network
from train.launch import device_of, make_accelerator, precision_of
from train.lora.adapters import load_lora_state, lora_norm, lora_parameters, lora_state
from train.lora.average import Average
from train.lora.checkpoint import Checkpoints, State, refuse_foreign
from train.lora.optimizers import build_optimizer
from train.lora.start import begin_from, read_start
from train.memory import explain_out_of_memory, make_room
from train.network import make_trainee, process_on, wear_lora
from train.objective.draws import timestep_range
from train.objective.references import open_references
from train.pairs.data_order import pair_index
from train.pairs.prepare import no_prompt, prepare_pairs
from train.report.finish import write_results
from train.report.metrics import forget_peak, peak_memory, summarise
from train.report.samples import Sampler
from train.report.tally import Tally
from train.report.tracking import Tracker
from train.report.validation import Validator, held_out_line
from train.sharding import shard
from train.step import add_share, apply_gradient, sum_over_processes

log = logging.getLogger(__name__)

SHOWN = ("preference_loss", "accuracy", "winner_drift", "margin", "grad_norm", "lr")
"""Metrics of a step in the log; the first three stand beside the progress bar."""


def train(config: TrainConfig) -> None:
    """Trains one stage's LoRA as configured, from the newest checkpoint in OUT if there is one."""
    run = Run(config)
    start = run.resume()
    if start == 0:
        run.measure(0)
        run.draw(0)
    with progress(config.max_steps, f"training {config.stage}", "steps") as bar:
        bar.set(start)
        for step in range(start, config.max_steps):
            record = run.step(step)
            bar.advance(**{name: record[name] for name in SHOWN[:3] if name in record})
            if run.after(step + 1):
                break
    run.finish()


class Run:
    """The state of one training run on one process."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.accelerator: Accelerator = make_accelerator(config)
        self.device = device_of(self.accelerator)
        self.share = pairs_per_process(config, self.accelerator.num_processes)
        self.family = self._load_family()
        check_network(self.family)
        self.canvas = make_canvas(config, self.family.spec)
        self.checkpoints = Checkpoints(self.out / "checkpoints", config.keep_last)
        self.origin = {"configuration": identity(config), "base model": self.family.fingerprint}
        trained_on = self._last_origin().get("pairs", "")
        timestep_range(process_on(self.family, self.canvas, config).timesteps, config.noise)
        # Before the pairs, because what cannot be trained is to be said before hours go into encoding.
        self._add_adapter()
        self.parameters = lora_parameters(self.family.network)
        self.optimizer = build_optimizer(self.parameters, config.optimizer)
        fit = partial(make_canvas, config, self.family.spec)
        prepared = prepare_pairs(
            self.family, self.canvas, config.data, self.out, self.accelerator, fit, trained_on
        )
        self.pairs = prepared.training
        self.origin["pairs"] = prepared.digest
        promptless = no_prompt(self.family) if config.data.prompt_dropout else None
        make_room(self.family, config)
        log.debug("until the first step: at most %.0f MiB of memory", forget_peak(self.device))
        if config.memory.shard_weights:
            shard(self.family.network, self.device, self.accelerator.num_processes)
        self.trainee = make_trainee(
            self.family,
            self.canvas,
            config,
            references=open_references(config, self.family, self.device),
            promptless=promptless,
        )
        self.average = Average(self.family.network, config.ema)
        self.validator = Validator(self.trainee, prepared.held_out, self.accelerator)
        main = self.accelerator.is_main_process
        self.tracker = Tracker(self.out, config.tracking, to_dict(config), active=main)
        # Of a network that is shared out, nobody can draw alone.
        draws = main or config.memory.shard_weights
        self.sampler = Sampler(self.family, self.canvas, config, prepared.held_out, active=draws, writes=main)
        self.done = 0
        self.tally = Tally()

    def _load_family(self) -> ModelFamily:
        """The model, of which a network that will be shared out waits in host memory."""
        config = self.config
        waits = config.memory.shard_weights and self.device.type != "cpu"
        dtype = precision_of(config, self.device)
        family = load_family(config.model, device=str(self.device), dtype=dtype, offload=waits)
        if waits:
            family.offload = None
            for network in (family.vae, *family.text_encoders):
                network.to(self.device)
        return family

    def _last_origin(self) -> dict[str, str]:
        """What the newest whole checkpoint was trained from, empty where there is none; refused when it is
        not ours, before hours go into encoding."""
        if self.accelerator.is_main_process:
            self.checkpoints.set_damaged_aside()
        self.accelerator.wait_for_everyone()
        latest = self.checkpoints.latest()
        if latest is None:
            return {}
        found = self.checkpoints.facts(latest).get("origin", {})
        refuse_foreign(found, self.origin, latest)
        if "pairs" not in found:
            log.warning(
                "%s does not say which pairs it was trained on: an earlier version wrote it", latest.name
            )
        return dict(found)

    def _add_adapter(self) -> None:
        lora = self.config.lora
        # A run that goes on has its LoRA in a checkpoint and no need of what it began from.
        start = read_start(self.family, lora.init) if lora.init and not self.checkpoints.latest() else None
        wear_lora(self.family, self.config)
        if start:
            begin_from(self.family.network, start)

    def resume(self) -> int:
        """Loads the newest checkpoint and cuts the metrics back to it; the number of steps already done."""
        self.accelerator.wait_for_everyone()
        latest = self.checkpoints.latest()
        if latest:
            state = self.checkpoints.load(latest)
            load_lora_state(self.family.network, state.lora)
            self.optimizer.load_state_dict(state.optimizer)
            self.average.load(state.ema)
            del state.facts["origin"]
            self.tally, self.done = Tally(**state.facts), state.step
            log.info("continuing from %s at step %d of %d", latest.name, self.done, self.config.max_steps)
        self.tracker.resume_at(self.done if latest else -1)
        return self.config.max_steps if self.tally.stopped else self.done

    def step(self, step: int) -> dict[str, Any]:
        """One optimiser step: this process's share of pairs, one reduction, one update. Gives the step's
        record."""
        started = time.perf_counter()
        count, total, measured = self.config.pairs_per_step, None, []
        first = step * count + self.accelerator.process_index * self.share
        for position in range(first, first + self.share):
            pair = self.pairs[pair_index(self.config.seed, position, len(self.pairs))]
            trainee = self.trainee.fitted(pair)
            with self._memory_advice(trainee.canvas):
                result = trainee.gradients(pair, position)
            measured.append(result.metrics | {"finite": float(result.finite)})
            total = add_share(total, result.grads, count)
        if self.accelerator.num_processes > 1:
            measured = gather_object(measured)
        grads = sum_over_processes(self.accelerator, total or [])
        finite = all(pair["finite"] for pair in measured)
        update = apply_gradient(self.optimizer, self.parameters, grads, step, self.config) if finite else None
        self.tally.count(update is None, step, self.config)
        self.average.update()
        self.done = step + 1
        record = {"step": self.done, **summarise(measured, self.trainee.process.timesteps), **(update or {})}
        record["skipped_steps"] = self.tally.skipped
        self._log(record, time.perf_counter() - started)
        return record

    def after(self, step: int) -> bool:
        """What is due after `step` steps: measuring, drawing, saving. True when training should stop
        early."""
        due = {"validate": self.config.validation.every, "draw": self.config.samples.every}
        is_due = {name: every > 0 and step % every == 0 for name, every in due.items()}
        last = step == self.config.max_steps
        better = self.measure(step) if is_due["validate"] or last else False
        self.tally.consider_stopping(step, self.config)
        if is_due["draw"] or (last and self.config.samples.every):
            self.draw(step)
        if better or last or self.tally.stopped or step % self.config.checkpoint_every == 0:
            self.save()
        return bool(self.tally.stopped)

    def measure(self, step: int) -> bool:
        """Measures the held-out pairs; True when the model is the best so far."""
        with self.average.in_place(), self._memory_advice():
            record = self.validator.measure()
            norm = lora_norm(self.family.network)
        if not record:
            return False
        self.tracker.validated({"step": step, **record, "lora_norm": norm})
        log.info("step %d, held out: %s", step, held_out_line(record))
        return self.tally.take(step, record)

    def draw(self, step: int) -> None:
        """Draws the sample scrolls with the LoRA as it is now."""
        with self.average.in_place(), self._memory_advice():
            self.sampler.draw(step, self.out)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Writes a checkpoint; only the first process does, the others wait."""
        if self.accelerator.is_main_process:
            network = self.family.network
            facts = asdict(self.tally) | {"origin": self.origin}
            state = State(
                self.done, lora_state(network), self.optimizer.state_dict(), self.average.values, facts
            )
            self.checkpoints.save(state, self.tally.best["step"] if self.tally.best else -1)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Exports the LoRA and writes its card."""
        if self.trainee.references:
            log.info("references: %s", self.trainee.references.summary())
        if self.accelerator.is_main_process:
            self._choose_weights()
            with self.average.in_place():
                write_results(self.family, self.canvas, self.config, len(self.pairs), self.tally, self.done)
        self.accelerator.wait_for_everyone()
        self.tracker.close()
        self.accelerator.end_training()

    def _choose_weights(self) -> None:
        if self.config.export == "best" and self.tally.best:
            state = self.checkpoints.load(self.checkpoints.path(self.tally.best["step"]))
            load_lora_state(self.family.network, state.lora)
            self.average.load(state.ema)
            self.done = state.step

    def _log(self, record: dict[str, Any], seconds: float) -> None:
        speed = {"seconds": seconds, "pairs_per_second": self.config.pairs_per_step / seconds}
        self.tracker.step(record, speed | {"peak_mib": peak_memory(self.device)})
        if record["step"] % self.config.tracking.log_every == 0 and self.accelerator.is_main_process:
            log.debug(
                "step %d: %s", record["step"], ", ".join(f"{k} {record[k]:.4g}" for k in SHOWN if k in record)
            )

    @contextmanager
    def _memory_advice(self, canvas: TrainingCanvas | None = None) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise explain_out_of_memory(self.config, canvas or self.canvas, error) from error
