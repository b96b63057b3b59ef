"""What a run would make and cost, before anything is made.

Prompts are counted, not guessed, wherever no language model has to be asked for them. Seconds and bytes come
from the run's own units, from two samples made on the spot (`--rates.calibrate`), or from what the caller
says; what none of these gives is reported as not known.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.build import stage_spec
from dataset_builder.config import BuildConfig, names_llm, prompts_hash
from dataset_builder.ending import SCORES_NAME
from dataset_builder.ideas import texts
from dataset_builder.report.stats import Prompts, prompt_losses
from drspo.errors import UserError
from drspo.files.storage import Storage
from pipeline.candidates.plan import make_plan, plan_names, read_plan_so_far
from pipeline.ideas.blocks import READ_NAME, Screen, TextSpec, read_block, read_blocks
from pipeline.ideas.finished import PROMPTS_NAME, read_prompts_so_far
from pipeline.ideas.origin import SOURCE_NAME, read_record
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

    @property
    def hours_left(self) -> float | None:
        """What is still to be painted and scored, in hours of one device."""
        if self.seconds_per_image is None:
            return None
        return (self.images - self.images_done) * self.seconds_per_image / 3600


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
    """Fill in ideas and accepted prompts; gives accepted rows, or ideas where a model must be asked.

    The run's own phases make them, in its blocks, in a folder that is gone afterwards.
    """
    if config.out and (storage := Storage(config.out)).exists(PROMPTS_NAME):
        return _finished_prompts(storage, found)
    with tempfile.TemporaryDirectory() as folder:
        _take_ideas(config, Storage(folder))
        blocks = texts(config, folder, alone=True)
        if names_llm(config) and not blocks.spec.taken:
            return _guess_llm(config, blocks.spec, found)
        for _ in blocks:
            pass
        kept = _finished_prompts(Storage(folder), found)
        found.ideas = sum(ideas.num_rows for ideas in _each_block(blocks.spec))
        return kept


def _take_ideas(config: BuildConfig, folder: Storage) -> None:
    """Copy what the run has read of its source, which may be gone, where it has begun with these settings."""
    if not config.out or read_record(run := Storage(config.out)).get("prompts_hash") != prompts_hash(config):
        return
    for name in run.list("phases/"):
        if name.startswith(("phases/ideas", READ_NAME, SOURCE_NAME)):
            folder.write(name, run.read(name))


def _each_block(spec: TextSpec) -> Iterator[pa.Table]:
    """The ideas of each block."""
    return (read_block(spec, "ideas", number) for number in range(read_blocks(spec)))


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


def _guess_llm(config: BuildConfig, spec: TextSpec, found: Estimate) -> pa.Table:
    """The most prompts that the language model can leave, and the tokens that asking it takes."""
    ideas = letters = 0
    losses, first = Counter[str](), PROMPT_SCHEMA.empty_table()
    screen = Screen(spec)
    for number in range(read_blocks(spec)):
        screened = screen(number)
        kept = screened.filter(pa.compute.equal(screened["status"], OK))
        found.ideas, ideas = found.ideas + screened.num_rows, ideas + kept.num_rows
        losses.update(prompt_losses(screened))
        letters += pa.compute.sum(pa.compute.utf8_length(kept["text"])).as_py() or 0
        first = pa.concat_tables([first, kept.slice(0, SAMPLES - first.num_rows)])
    found.counted, found.losses = False, dict(losses)
    many = config.expand.per_idea if config.expand.expander != "none" else 1
    found.accepted = ideas * many
    judged = ideas  # verdicts: on each idea, and on each prompt that may show something else
    if config.expand.expander not in KEEPS_THE_IDEA:
        judged += found.accepted
    if config.expand.expander == "llm":
        fixed = _template_tokens(config.expand.template, Expansion, idea="", count=many, max_words=60)
        found.questions += ideas
        found.tokens_in += round(ideas * fixed + letters / _CHARACTERS_PER_TOKEN)
        found.tokens_out += ideas * many * _TOKENS_PER_PROMPT
    if "llm" in config.filter.filters:
        fixed = _template_tokens(config.filter.template, OutdoorVerdict, prompt="")
        found.questions += judged
        found.tokens_in += round(judged * (fixed + _TOKENS_PER_PROMPT))
        found.tokens_out += judged * 20
    return first


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
