"""What a finished run leaves: the LoRA in the layouts people load, and its card."""

import logging
from pathlib import Path
from typing import Any

from drspo.config import to_dict
from drspo.files.lora import KOHYA
from drspo.files.run import RunDir, revision, versions
from drspo.leaving import public, public_name
from generate.request import own
from train.canvas import TrainingCanvas
from train.config import TrainConfig
from train.lora.exports import component, lora_metadata, save_kohya, save_lora, save_peft
from train.report.card import write_card
from train.report.tally import Tally

log = logging.getLogger(__name__)


def write_results(
    family: Any, canvas: TrainingCanvas, config: TrainConfig, pairs: int, tally: Tally, step: int
) -> None:
    """Writes OUT/pytorch_lora_weights.safetensors, drspo.json, README.md, peft's two files and, unless told
    otherwise, kohya.safetensors; not of a transformer, where everybody reads diffusers' layout."""
    out = Path(config.out)
    metadata = lora_facts(family, canvas, config, pairs, tally, step)
    save_lora(out, family.network, metadata)
    save_peft(out, family.network)
    if config.kohya and component(family.network) == "unet":
        save_kohya(out / KOHYA, family.network, metadata)
    write_card(out, metadata, config, family.spec.base)
    RunDir(str(out)).phase_done(
        "trained", step=step, pairs=pairs, skipped=tally.skipped, stopped=tally.stopped
    )
    log.info("wrote the LoRA of step %d to %s", step, out)


def lora_facts(
    family: Any, canvas: TrainingCanvas, config: TrainConfig, pairs: int, tally: Tally, step: int
) -> dict[str, Any]:
    """What drspo.json says: what the LoRA is for, what it was trained on and how."""
    window = canvas.windows[0]
    base = public_name(family.model_id)
    return lora_metadata(
        family.network,
        stage=config.stage,
        base_model=base,
        base_fingerprint=family.fingerprint,
        canvas=[canvas.height, canvas.width],
        sizes=config.data.sizes,
        window=[window.height * canvas.factor, window.width * canvas.factor],
        stride=own(config.canvas.stride, family.spec.stride) if config.stage == "highres" else 0,
        weights=config.canvas.weights,
        time_ids=config.canvas.time_ids,
        dataset=public_name(config.data.source),
        pairs=pairs,
        pairs_per_step=config.pairs_per_step,
        step=step,
        loss=public(to_dict(config.loss)),
        optimizer=public(to_dict(config.optimizer)),
        ema=config.ema,
        seed=config.seed,
        best=tally.best,
        skipped_steps=tally.skipped,
        stopped=public(tally.stopped),
        versions=versions(),
        revision=revision(),
    )
