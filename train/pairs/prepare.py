"""From rows to cached tensors: each usable pair's latents and embeddings on disk, each other row's reason."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from PIL import ImageOps

from drspo.files.storage import Storage
from generate.images.vae import encode_images, from_pil
from generate.models.prompts import check_prompt, encode_prompts, encode_text
from train.canvas import TrainingCanvas
from train.memory import explain_encoding_out_of_memory
from train.pairs.cache import Encoded, TensorCache, cache_folder, image_key, text_key
from train.pairs.encoders import image_encoder_mark, text_encoder_mark
from train.pairs.listing import listing_digest, merge_parts, refuse_changed, write_dropped
from train.pairs.mirrored import names_a_side
from train.pairs.pair_set import EncodedPair, ListedPair, PairSet
from train.pairs.rows import (
    SAME,
    Dropped,
    PairRow,
    canvas_picture,
    check_pair,
    common_size,
    has_split,
    read_rows,
    sized,
)
from train.pairs.sizes import Fit, own_size
from train.pairs.sources import source_stamp
from train.settings import DataConfig

__all__ = ["EncodedPair", "ListedPair", "PairSet", "Preparer", "no_prompt", "prepare_pairs"]

log = logging.getLogger(__name__)

LISTING = "pairs.json"
SAY_EVERY = 30.0
"""Seconds between lines in the log; the number of rows is not known beforehand for every source."""


class Preparer:
    """Encodes what the cache lacks, with one family's encoders, for one canvas or for each pair's own."""

    def __init__(self, family: Any, canvas: TrainingCanvas, config: DataConfig, fit: Fit) -> None:
        self.family, self.canvas, self.config, self.fit = family, canvas, config, fit
        folder = cache_folder(config.cache)
        self.latents = TensorCache(folder, "latents", image_encoder_mark(family))
        self.texts = TensorCache(folder, "texts", text_encoder_mark(family))
        self.truncated = 0
        self.sizes: Counter[str] = Counter()

    def prepare(self, row: PairRow, number: int, *, mirrored: bool = False) -> ListedPair:
        """The names of the row's cache entries, which exist afterwards; `Dropped` when it cannot be used.

        mirrored: both pictures with left and right exchanged, under a pair id that says so."""
        size = self._size(row)
        if check_prompt(self.family, row.prompt):
            if self.config.long_prompts == "drop":
                raise Dropped("prompt longer than the tokenizer's window")
            self.truncated += 1
        how = f"{self.config.resize}, mirrored" if mirrored else self.config.resize
        keys = [image_key(data, *size, how) for data in (row.chosen, row.rejected)]
        chosen, rejected = (
            _finite(self.latents, key, partial(self._latents, data, size, mirrored), f"latents of {name}")
            for key, data, name in ((keys[0], row.chosen, "chosen"), (keys[1], row.rejected, "rejected"))
        )
        if torch.equal(chosen["latents"], rejected["latents"]):
            raise Dropped(SAME)
        text = text_key(row.prompt)
        _finite(self.texts, text, lambda: self._embeddings(row.prompt), "embeddings of the prompt")
        pair_id = f"{row.pair_id}-mirrored" if mirrored else row.pair_id
        self.sizes[sized(size)] += 1
        return ListedPair(number, pair_id, row.prompt, keys[0], keys[1], text, mirrored)

    def _size(self, row: PairRow) -> tuple[int, int]:
        if self.config.sizes == "own":
            return own_size(common_size(row), self.canvas, self.fit, self.config.resize)
        check_pair(row, self.canvas.height, self.canvas.width, self.config.resize)
        return self.canvas.height, self.canvas.width

    def _latents(self, data: bytes, size: tuple[int, int], mirrored: bool = False) -> Encoded:
        picture = canvas_picture(data, *size)
        if mirrored:
            picture = ImageOps.mirror(picture)
        try:
            return {"latents": encode_images(self.family.vae, from_pil([picture]))[0].float()}
        except torch.OutOfMemoryError as error:
            raise explain_encoding_out_of_memory(self.fit(size), error) from error

    def _embeddings(self, prompt: str) -> Encoded:
        embeds, pooled = encode_text(self.family, [prompt], long_prompt="truncate")
        return {"embeds": embeds.float()} | ({} if pooled is None else {"pooled": pooled.float()})


def no_prompt(family: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings [1, L, d] and pooled [1, p] of no prompt, as guidance's other half has them in sampling."""
    empty = encode_prompts(family, [""], [""])
    pooled = empty.negative_pooled
    return empty.negative_prompt_embeds.float().cpu(), None if pooled is None else pooled.float().cpu()


def _finite(cache: TensorCache, key: str, compute: Callable[[], Encoded], what: str) -> Encoded:
    """An entry of the cache whose numbers are all finite; `Dropped` for one that cannot be made so, which is
    then not kept. One that lies there from before is made again."""

    def checked() -> Encoded:
        made = compute()
        if not _is_finite(made):
            raise Dropped(f"the {what} are not finite")
        return made

    found = cache.get(key, checked)
    return found if _is_finite(found) else cache.put(key, checked())


def _is_finite(tensors: Encoded) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


@dataclass(frozen=True)
class PreparedPairs:
    """A run's pairs, fully cached, and what their list says, as a hash."""

    training: PairSet
    held_out: PairSet
    digest: str


def prepare_pairs(
    family: Any,
    canvas: TrainingCanvas,
    config: DataConfig,
    out: Path,
    accelerator: Any,
    fit: Fit,
    trained_on: str = "",
) -> PreparedPairs:
    """All usable pairs, cached; the rows left out are in OUT/dropped.jsonl.

    Each of n processes encodes every n-th row. A run that is resumed finds its list of pairs in
    OUT/pairs.json and reads no picture again, unless files of the source have changed. fit: the canvas of
    any other size, where pairs keep their own. trained_on: the digest of the list that a checkpoint was
    trained on. Raises `UserError` when nothing is left to train on, or when
    the list is no longer that one; OUT is then as it was.
    """
    preparer = Preparer(family, canvas, config, fit)
    listing, stamp = out / LISTING, source_stamp(config.source)
    rank, world = accelerator.process_index, accelerator.num_processes
    # The first process's files count: copies on other machines have other times. And nobody writes the
    # listing before everybody has looked, nor goes on alone.
    known = _complete(listing, preparer, stamp if rank == 0 else "")
    known = all(gather_object([known])) if world > 1 else known
    if not known:
        _prepare_share(preparer, config, out, rank, world)
        accelerator.wait_for_everyone()
        if rank == 0:
            merged = merge_parts(out, world, config)
            before = json.loads(listing.read_text()) if listing.exists() else None
            refuse_changed(merged, trained_on, before, config.source)
            write_dropped(merged["dropped"], out)
            Storage(out).write(LISTING, json.dumps({**merged, "source": stamp}).encode())
        accelerator.wait_for_everyone()
    found = json.loads(listing.read_text())
    refuse_changed(found, trained_on, None, str(listing))
    training, held_out = (
        PairSet([ListedPair(**pair) for pair in found[name]], preparer.latents, preparer.texts)
        for name in ("train", "held_out")
    )
    return PreparedPairs(training, held_out, listing_digest(found))


def _complete(listing: Path, preparer: Preparer, stamp: str) -> bool:
    """True when an earlier start listed the pairs, of files that are still the same, and the cache has all of
    them. A source that is gone, or whose files nobody can look at, is not asked for."""
    if not listing.exists():
        return False
    found = json.loads(listing.read_text())
    if stamp and found.get("source", stamp) != stamp:
        log.info(
            "files of %s have changed since the pairs were listed: listing them anew", preparer.config.source
        )
        return False
    pairs = found["train"] + found["held_out"]
    names = {preparer.latents.path(p[side]) for p in pairs for side in ("chosen", "rejected")}
    return all(path.exists() for path in names | {preparer.texts.path(p["text"]) for p in pairs})


def _rows(config: DataConfig) -> Iterator[tuple[str, PairRow | tuple[str, Dropped]]]:
    """("held_out" or "train", row) in a fixed order."""
    if config.validation_pairs and has_split(config.source, config.validation_split, config.subset):
        held_out = read_rows(config.source, config.validation_split, config.subset, config.columns)
        for count, row in enumerate(held_out):
            if count >= config.validation_pairs:
                break
            yield "held_out", row
    rows = read_rows(config.source, config.split, config.subset, config.columns)
    for row in islice(rows, config.limit or None):
        yield "train", row


def _prepare_share(preparer: Preparer, config: DataConfig, out: Path, rank: int, world: int) -> None:
    part: dict[str, Any] = {"train": [], "held_out": [], "dropped": []}
    started = time.perf_counter()
    spoken = started
    for number, (group, row) in enumerate(_rows(config)):
        if number % world == rank:
            _prepare_row(preparer, group, row, number, part)
        if time.perf_counter() - spoken > SAY_EVERY:
            spoken = time.perf_counter()
            log.info("prepared %d rows, %d pictures encoded", number + 1, preparer.latents.counts["misses"])
    part["counts"] = dict(preparer.latents.counts)
    part["truncated"] = preparer.truncated
    part["sizes"] = dict(preparer.sizes)
    part["seconds"] = time.perf_counter() - started
    Storage(out).write(f".part-{rank}.json", json.dumps(part).encode())


def _prepare_row(preparer: Preparer, group: str, row: Any, number: int, part: dict[str, Any]) -> None:
    try:
        if isinstance(row, tuple):
            pair_id, reason = row
            raise reason
        pair_id = row.pair_id
        part[group].append(asdict(preparer.prepare(row, number)))
        if preparer.config.flips and group == "train" and not names_a_side(row.prompt):
            part[group].append(asdict(preparer.prepare(row, number, mirrored=True)))
    except Dropped as reason:
        part["dropped"].append({"row": number, "pair_id": pair_id, "split": group, "reason": str(reason)})
