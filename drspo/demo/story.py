"""What the demonstration's page tells, read from the plain files that the programs left behind."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import Any

from drspo.files.pictures import picture_format
from drspo.files.storage import Storage

GENERATOR_TITLES = {"multidiffusion": "MultiDiffusion", "sdxl": "SDXL, whole canvas", "mad": "MAD"}


@dataclass(frozen=True)
class Picture:
    """A candidate on the page."""

    generator: str
    seed: int
    score: float
    rank: int
    seconds: float
    source: str
    role: str = ""


@dataclass(frozen=True)
class Group:
    """One prompt with its candidates, best first, and the margin of the pair drawn from it."""

    prompt: str
    pictures: tuple[Picture, ...]
    margin: float
    split: str


@dataclass(frozen=True)
class Curve:
    """One metric of a training over its steps; `level` marks the value of the untrained model."""

    title: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    level: float
    note: str = ""


@dataclass(frozen=True)
class Training:
    """One stage's curves and facts."""

    stage: str
    curves: tuple[Curve, ...]
    facts: dict[str, str] = field(default_factory=dict)


def picture_source(data: bytes) -> str:
    """An image's bytes as a `data:` address, so that the page needs no other file."""
    return f"data:image/{picture_format(data)};base64,{base64.b64encode(data).decode('ascii')}"


def read_prompts(data: Storage) -> list[dict[str, str]]:
    """The accepted prompts with the idea that each grew from."""
    table = _table(data, "prompts.parquet", ["text", "source_text", "status"])
    return [row for row in table if row["status"] == "ok"]


def read_groups(data: Storage) -> list[Group]:
    """Every comparison group that gave a pair, the widest margin first."""
    wanted = ["prompt_id", "prompt", "chosen_id", "rejected_id", "margin", "split"]
    names = [name for name in data.list("export/data/") if name.endswith(".parquet")]
    pairs = {row["prompt_id"]: row for name in names for row in _table(data, name, wanted)}
    # Packs stand behind files, and what they hold counts.
    groups = {}
    for name in (name for name in data.list("units/") if name.endswith(".parquet")):
        for row in _table(data, name, ["prompt_id", "candidates"]):
            if row["prompt_id"] in pairs:
                groups[row["prompt_id"]] = _group(pairs[row["prompt_id"]], row["candidates"])
    return sorted(groups.values(), key=lambda group: -group.margin)


def _group(pair: dict[str, Any], candidates: list[dict[str, Any]]) -> Group:
    roles = {pair["chosen_id"]: "chosen", pair["rejected_id"]: "rejected"}
    whole = [candidate for candidate in candidates if candidate["image"] and not candidate["error"]]
    pictures = [
        Picture(
            generator=GENERATOR_TITLES.get(candidate["generator"], candidate["generator"]),
            seed=candidate["seed"],
            score=next(iter(candidate["scores"].values())),
            rank=candidate["rank"],
            seconds=candidate["seconds"],
            source=picture_source(candidate["image"]["bytes"]),
            role=roles.get(candidate["candidate_id"], ""),
        )
        for candidate in whole
    ]
    ordered = tuple(sorted(pictures, key=lambda picture: -picture.score))
    return Group(prompt=pair["prompt"], pictures=ordered, margin=pair["margin"], split=pair["split"])


def read_training(out: Storage, stage: str) -> Training:
    """A stage's preference loss and margin over its steps, from its metrics.jsonl.

    The logged loss holds the anchor's part too, hundreds of times the preference's; the page is about
    the preference, so it shows -log sigmoid of the margin.
    """
    lines = out.read(f"lora/{stage}/metrics.jsonl").decode("utf-8").splitlines()
    records = [_with_preference(json.loads(line)) for line in lines]
    curves = (
        _curve(records, "preference", "preference loss", math.log(2), "ln 2: no preference"),
        _curve(records, "margin", "margin of the rewards", 0.0, "0: no preference"),
    )
    facts = {"steps": str(len(records))}
    first, last = records[: len(records) // 3 or 1], records[-(len(records) // 3 or 1) :]
    for name in ("preference", "margin"):
        facts[name] = f"{_mean(first, name):.3f} in the first third, {_mean(last, name):.3f} in the last"
    return Training(stage=stage, curves=tuple(curve for curve in curves if curve.values), facts=facts)


def _with_preference(record: dict[str, Any]) -> dict[str, Any]:
    margin = record.get("margin")
    if not isinstance(margin, (int, float)):
        return record
    return record | {"preference": max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))}


def _mean(records: list[dict[str, Any]], name: str) -> float:
    values = [record[name] for record in records if name in record]
    return sum(values) / len(values) if values else math.nan


def _curve(records: list[dict[str, Any]], key: str, title: str, level: float, note: str) -> Curve:
    known = [record for record in records if isinstance(record.get(key), (int, float))]
    steps = tuple(int(record["step"]) for record in known)
    return Curve(title, steps, tuple(float(record[key]) for record in known), level, note)


def _table(storage: Storage, name: str, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet

    with storage.open(name) as file:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file, columns=columns).to_pylist()
    return rows
