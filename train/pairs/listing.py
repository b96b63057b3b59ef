"""The list of a run's pairs: the parts of all processes joined, held-out prompts chosen, what was left out
said."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from train.settings import DataConfig

log = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.2
"""Largest share of the prompts that is held out where the source has no validation split."""


def merge_parts(out: Path, world: int, config: DataConfig) -> dict[str, Any]:
    """All processes' parts as one listing in row order, held-out prompts chosen; says what was found."""
    parts = [json.loads((out / f".part-{rank}.json").read_text()) for rank in range(world)]
    merged = {
        name: sorted((item for part in parts for item in part[name]), key=lambda item: item["row"])
        for name in ("train", "held_out", "dropped")
    }
    for rank in range(world):
        (out / f".part-{rank}.json").unlink()
    chosen = bool(config.validation_pairs and merged["train"] and not merged["held_out"])
    if chosen:
        merged["train"], merged["held_out"] = hold_out(merged["train"], config.validation_pairs)
    _say(merged, parts, config, out, " of the training split, by prompt" if chosen else "")
    if not merged["train"]:
        write_dropped(merged["dropped"], out)
        raise _nothing_left(merged["dropped"], config.source)
    return merged


def write_dropped(dropped: list[dict[str, Any]], out: Path) -> None:
    """Writes OUT/dropped.jsonl."""
    Storage(out).write("dropped.jsonl", "".join(json.dumps(item) + "\n" for item in dropped).encode())


def listing_digest(listing: Mapping[str, Any]) -> str:
    """A hash over what a list says: which pairs, in which order, of which content, and which are held out."""
    return content_hash("pairs-v1", json.dumps([_contents(listing["train"]), _contents(listing["held_out"])]))


def refuse_changed(
    listing: Mapping[str, Any], trained_on: str, before: Mapping[str, Any] | None, where: str
) -> None:
    """Raises `UserError` when a checkpoint was trained on another list than this one; `before`: the old list,
    to say what differs."""
    if not trained_on or listing_digest(listing) == trained_on:
        return
    change = ""
    if before is not None:
        old, new = ({tuple(c) for c in _contents(x["train"] + x["held_out"])} for x in (before, listing))
        change = f": {len(new - old)} pairs are new or altered, {len(old - new)} are gone or altered"
    raise UserError(
        f"the pairs are not those that this run was begun with{change}",
        where,
        "give the source its former content, or train on the new one in another --out",
    )


def _contents(pairs: list[dict[str, Any]]) -> list[list[str]]:
    return [[pair[name] for name in ("pair_id", "prompt", "chosen", "rejected")] for pair in pairs]


def hold_out(pairs: list[dict[str, Any]], wanted: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training pairs, held-out pairs): whole prompts in the order of their hash, at most a fifth of them."""
    # A mirror image is no second measurement; of a held-out prompt it is not trained on either.
    plain = [pair for pair in pairs if not pair.get("mirrored")]
    prompts = sorted({pair["prompt"] for pair in pairs}, key=lambda prompt: content_hash("held out", prompt))
    per_prompt = Counter(pair["prompt"] for pair in plain)
    chosen: set[str] = set()
    for prompt in prompts[: int(len(prompts) * HELD_OUT_SHARE)]:
        if sum(per_prompt[name] for name in chosen) >= wanted:
            break
        chosen.add(prompt)
    held_out = [pair for pair in plain if pair["prompt"] in chosen]
    return [pair for pair in pairs if pair["prompt"] not in chosen], held_out[:wanted]


def _say(
    merged: dict[str, Any], parts: list[dict[str, Any]], config: DataConfig, out: Path, whence: str
) -> None:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part["counts"])
    pairs = f"{len(merged['train'])} training pairs, {len(merged['held_out'])} held out{whence}"
    latents = f"latents: {counts['hits']} from the cache, {counts['misses']} encoded"
    log.info("%s; %s; %.1f s", pairs, latents, max(part["seconds"] for part in parts))
    if counts["damaged"]:
        log.warning("%d damaged cache entries were encoded anew", counts["damaged"])
    truncated = sum(part["truncated"] for part in parts)
    if truncated:
        log.warning("%d prompts are longer than the tokenizer's window; their ends are not seen", truncated)
    if config.flips:
        mirrored = sum(pair["mirrored"] for pair in merged["train"])
        log.info("%d of the training pairs are mirror images of others (data.flips)", mirrored)
    if config.resize == "downscale":
        log.info("pictures larger than the canvas are reduced with Lanczos (data.resize)")
    if config.sizes == "own":
        log.info("pairs by size: %s (data.sizes)", _sizes(parts))
    if merged["dropped"]:
        log.warning(
            "%d rows left out, see %s: %s", len(merged["dropped"]), out / "dropped.jsonl", _reasons(merged)
        )


def _sizes(parts: list[dict[str, Any]]) -> str:
    found: Counter[str] = Counter()
    for part in parts:
        found.update(part["sizes"])
    return ", ".join(f"{count} of {size}" for size, count in sorted(found.items()))


def _reasons(merged: dict[str, Any]) -> str:
    found = Counter(item["reason"].partition(":")[0] for item in merged["dropped"])
    first = {item["reason"].partition(":")[0]: item["pair_id"] for item in reversed(merged["dropped"])}
    return ", ".join(f"{count} x {why} (first: {first[why]})" for why, count in found.most_common(5))


def _nothing_left(dropped: list[dict[str, Any]], source: str) -> UserError:
    if not dropped:
        return UserError("the dataset is empty", source, "choose another --data.source or --data.split")
    if all(item["reason"] == "tie" for item in dropped):
        return UserError(f"all {len(dropped)} rows are ties: nothing is preferred", source)
    reasons = _reasons({"dropped": dropped})
    hint = "larger pictures of the canvas's aspect are reduced with --data.resize downscale"
    return UserError(f"none of {len(dropped)} rows can be trained on: {reasons}", source, hint)
