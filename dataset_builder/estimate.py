"""`dataset_builder --plan`: what a run would make and cost, before anything is made.

Prompts are counted, not guessed, wherever no language model has to be asked for them. Seconds and bytes come
from the run's own units, from two samples made on the spot (`--rates.calibrate`), or from what the caller
says; what none of these gives is reported as not known.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.build import stage_spec
from dataset_builder.config import BuildConfig, uses_llm
from dataset_builder.ending import SCORES_NAME
from dataset_builder.report.stats import Prompts, prompt_losses
from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.account import cost
from pipeline.candidates.plan import make_plan, plan_names, read_plan_so_far
from pipeline.ideas import prompts as phases
from pipeline.ideas.finished import PROMPTS_NAME, is_run, read_prompts_so_far
from pipeline.ideas.questions import Expansion, OutdoorVerdict, load_template
from pipeline.ideas.stages import KEEPS_THE_IDEA
from pipeline.pairs.scores import read_facts
from pipeline.records import OK, PROMPT_SCHEMA

# Measured on natural-looking pictures with noise of two grey levels, 1024 x 4096 pixels.
BYTES_PER_PIXEL = {"webp-lossless": 1.51, "jpeg95-444": 0.25, "png": 1.37}
SAMPLES = 2
"""Prompts that are painted to calibrate; the last one is timed."""
_CHARACTERS_PER_TOKEN = 4.0
_TOKENS_PER_PROMPT = 60  # of a prompt that a language model writes, with its punctuation


@dataclass
class Estimate:
    """The plan's figures; None is not known."""

    ideas: int = 0
    accepted: int = 0
    counted: bool = True
    losses: dict[str, int] = field(default_factory=dict)
    questions: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    images: int = 0
    images_done: int = 0
    pairs: int = 0
    bytes_per_image: float = 0.0
    seconds_per_image: float | None = None
    basis: str = ""
    """Where the seconds come from."""
    bytes_basis: str = ""
    """Where the bytes of an image come from."""


def main_plan(config: BuildConfig) -> int:
    """Print the plan; nothing is written to the run folder."""
    print(describe(estimate(config), config))
    return 0


def estimate(config: BuildConfig) -> Estimate:
    """The figures of a run that may not have begun yet."""
    found = Estimate()
    accepted = _count_prompts(config, found)
    found.accepted = min(found.accepted, config.filter.accept or found.accepted)
    candidates = config.candidates
    per_prompt = len(candidates.generators) * candidates.seeds
    found.images = found.accepted * per_prompt
    found.pairs = found.accepted * _pairs_of_group(config, per_prompt)
    found.bytes_per_image = config.rates.bytes_per_image
    if config.rates.calibrate:
        _calibrate(config, accepted, found)
    else:
        _from_run(config, found)
    if found.seconds_per_image is None and config.rates.seconds_per_image:
        found.seconds_per_image = config.rates.seconds_per_image
        found.basis = config.rates.basis or "as given"
    pixels = candidates.height * candidates.width
    if not found.bytes_per_image:
        found.bytes_per_image = BYTES_PER_PIXEL[candidates.encoding] * pixels
        found.bytes_basis = (
            f"{BYTES_PER_PIXEL[candidates.encoding]} bytes a pixel, measured on noisy pictures"
        )
    found.images_done = _images_done(config, per_prompt)
    return found


def _count_prompts(config: BuildConfig, found: Estimate) -> pa.Table:
    """Fill in ideas and accepted prompts; gives accepted rows, or ideas where a model must be asked."""
    if config.out and (storage := Storage(config.out)).exists(PROMPTS_NAME):
        return _finished_prompts(storage, found)
    ideas = phases.ingest(config.prompts)
    found.ideas = ideas.num_rows
    if is_run(config.prompts.source):
        found.accepted = ideas.num_rows
        return ideas
    ideas = phases.screen_freely(ideas, config.filter)
    if uses_llm(config):
        return _guess_llm(config, ideas, found)
    # Neither phase asks a language model here, so neither touches the storage.
    nowhere = Storage("memory://plan")
    table = phases.expand(ideas, config.expand, config.llm, nowhere)
    table = phases.filter_prompts(table, config.filter, config.llm, nowhere)
    found.losses = prompt_losses(table)
    kept = table.filter(pa.compute.equal(table["status"], OK))
    found.accepted = kept.num_rows
    return kept


def _finished_prompts(storage: Storage, found: Estimate) -> pa.Table:
    """Fill in what a run's finished prompts came to; gives the first of the accepted rows."""
    prompts = Prompts.of(read_prompts_so_far(storage))
    found.ideas, found.accepted, found.losses = prompts.rows, prompts.accepted, dict(prompts.losses)
    kept = PROMPT_SCHEMA.empty_table()
    for piece in read_prompts_so_far(storage):
        kept = pa.concat_tables([kept, piece.filter(pa.compute.equal(piece["status"], OK))])
        if kept.num_rows >= SAMPLES:
            break
    return kept


def _guess_llm(config: BuildConfig, ideas: pa.Table, found: Estimate) -> pa.Table:
    """The most prompts that the language model can leave, and the tokens that asking it takes."""
    kept = ideas.filter(pa.compute.equal(ideas["status"], OK))
    found.counted, found.losses = False, prompt_losses(ideas)
    many = config.expand.per_idea if config.expand.expander != "none" else 1
    found.accepted = kept.num_rows * many
    letters = sum(len(text) for text in kept["text"].to_pylist())
    judged = kept.num_rows  # verdicts: on each idea, and on each prompt that may show something else
    if config.expand.expander not in KEEPS_THE_IDEA:
        judged += found.accepted
    if config.expand.expander == "llm":
        fixed = _template_tokens(config.expand.template, Expansion, idea="", count=many, max_words=60)
        found.questions += kept.num_rows
        found.tokens_in += round(kept.num_rows * fixed + letters / _CHARACTERS_PER_TOKEN)
        found.tokens_out += kept.num_rows * many * _TOKENS_PER_PROMPT
    if "llm" in config.filter.filters:
        fixed = _template_tokens(config.filter.template, OutdoorVerdict, prompt="")
        found.questions += judged
        found.tokens_in += round(judged * (fixed + _TOKENS_PER_PROMPT))
        found.tokens_out += judged * 20
    return kept


def _template_tokens(name: str, schema: Any, **fields: Any) -> float:
    text = "".join(message["content"] for message in load_template(name).messages(**fields))
    return (len(text) + len(str(schema.model_json_schema()))) / _CHARACTERS_PER_TOKEN


def _pairs_of_group(config: BuildConfig, size: int) -> int:
    """The most pairs that one group can give."""
    most = {
        "best_worst": 1,
        "adjacent": size - 1,
        "all": size * (size - 1) // 2,
        "pareto": size * (size - 1) // 2,
        "top_k_bottom_k": config.pairs.k * min(config.pairs.k, size),
    }
    count = max(most[config.pairs.method], 0)
    return min(count, config.pairs.most_per_prompt or count)


def _from_run(config: BuildConfig, found: Estimate) -> None:
    """Seconds and bytes from what this very run has made already."""
    if not config.out or not (storage := Storage(config.out)).exists(SCORES_NAME):
        return
    with storage.open(SCORES_NAME) as stream:
        scores = pl.DataFrame(pl.from_arrow(pq.read_table(stream, columns=["seconds", "image_bytes"])))
    made = scores.filter(pl.col("image_bytes") > 0)
    if made.height:
        found.seconds_per_image = float(made["seconds"].to_numpy().mean())
        found.bytes_per_image = found.bytes_per_image or float(made["image_bytes"].to_numpy().mean())
        found.basis = found.bytes_basis = f"mean of the {made.height} images of this run"


def _calibrate(config: BuildConfig, accepted: pa.Table, found: Estimate) -> None:
    """Seconds and bytes from two prompts sent through the real stages; the second one is timed."""
    from pipeline.local import run_units

    if accepted.num_rows < SAMPLES:
        raise UserError("two prompts are needed to calibrate", "--rates.calibrate")
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, candidates=replace(config.candidates, prompts_per_unit=1))
        spec = stage_spec(config, folder)
        plan = make_plan(accepted.slice(0, SAMPLES), spec.config_hash, 1)
        moments = []
        for unit in run_units(plan, spec):
            if unit["dead"]:
                raise UserError(f"a sample failed: {unit['error']}", "--rates.calibrate")
            moments.append(time.monotonic())
        facts = read_facts(spec.store(), plan["unit_id"].to_pylist())
    per_prompt = len(config.candidates.generators) * config.candidates.seeds
    found.seconds_per_image = (moments[1] - moments[0]) / per_prompt
    sizes = facts["image_bytes"].to_numpy()
    found.bytes_per_image = found.bytes_per_image or float(sizes.mean())
    found.basis = found.bytes_basis = "two samples made here, the second one timed"


def _images_done(config: BuildConfig, per_prompt: int) -> int:
    if not config.out or not plan_names(storage := Storage(config.out)):
        return 0
    done, prompts = stage_spec(config, config.out).store().done(), 0
    for piece in read_plan_so_far(storage):
        made = pa.array([unit in done for unit in piece["unit_id"].to_pylist()], pa.bool_())
        prompts += len(piece["prompts"].filter(made).combine_chunks().flatten())
    return per_prompt * prompts


def describe(found: Estimate, config: BuildConfig) -> str:
    """The figures for a reader."""
    rates, lines = config.rates, []
    most = "" if found.counted else "at most "
    lost = ", ".join(f"{count} {kind}" for kind, count in found.losses.items())
    lines.append(f"ideas      {found.ideas:,}" + (f" ({lost})" if lost else ""))
    lines.append(f"prompts    {most}{found.accepted:,} accepted")
    if found.questions:
        price = cost(config.llm, found.tokens_in, found.tokens_out)
        tokens = f"{found.tokens_in:,} tokens in, {found.tokens_out:,} out"
        lines.append(
            f"llm        {found.questions:,} questions, about {tokens}"
            + (f", price {price:.2f}" if price else "")
        )
    candidates = config.candidates
    how = f"{len(candidates.generators)} generators x {candidates.seeds} seeds"
    how += f", {candidates.height} x {candidates.width}"
    lines.append(f"images     {most}{found.images:,} ({how}), {found.images_done:,} of them made")
    lines.append(f"pairs      at most {found.pairs:,} ({config.pairs.method})")
    lines += _bytes(found, config)
    lines.append(_hours(found, config))
    if rates.gpu_hour and found.seconds_per_image is not None:
        left = (found.images - found.images_done) * found.seconds_per_image / 3600
        lines.append(f"price      {left * rates.gpu_hour:,.2f} for devices")
    return "\n".join(lines)


def _bytes(found: Estimate, config: BuildConfig) -> list[str]:
    units = found.images * found.bytes_per_image
    copies = 2 if config.export.pickapic else 1
    shards = 2 * found.pairs * found.bytes_per_image * copies
    if config.export.ranking:
        shards += units
    basis = found.bytes_basis or "as given"
    lines = [f"storage    {size(units)} of candidates and at most {size(shards)} of shards ({basis})"]
    if config.rates.storage_gb_month:
        price = (units + shards) / 1e9 * config.rates.storage_gb_month
        lines.append(f"           {price:,.2f} a month")
    return lines


def _hours(found: Estimate, config: BuildConfig) -> str:
    if found.seconds_per_image is None:
        return (
            "time       not known: --rates.calibrate times two samples; or give --rates.seconds-per-image N"
        )
    left = (found.images - found.images_done) * found.seconds_per_image / 3600
    devices = max(1, config.rates.gpus)
    each = f"{found.seconds_per_image:.2f} s an image, {found.basis}"
    return f"time       {left:,.2f} device hours, {left / devices:,.2f} hours on {devices} ({each})"


def size(count: float) -> str:
    """A number of bytes with a unit that keeps it short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
