"""The records that flow: ids, frozen dataclasses, and the Arrow schemas that mirror them.

Nothing here imports ray or torch: the trainer reads these schemas too.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import pyarrow as pa

from drspo.hashing import content_hash, seed_from

SCHEMA_VERSION = 1

OK: Final = "ok"
DROPPED: Final = "dropped"
DEAD: Final = "dead"
UNFINISHED: Final = "unfinished"
Status = Literal["ok", "dropped", "dead", "unfinished"]

# What `datasets` stores for an Image() column; with the `huggingface` metadata it is shown as one.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt, or one that was dropped or failed, with where it came from."""

    prompt_id: str
    text: str
    source_text: str = ""
    parent_id: str = ""
    source: str = ""
    expander: str = ""
    model: str = ""
    request_hash: str = ""
    status: Status = OK
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One image of one prompt: what made it, its encoded bytes, its scores, or its error."""

    candidate_id: str
    generator: str
    seed: int
    image: dict[str, Any] | None = None
    image_bytes: int = 0
    height: int = 0
    width: int = 0
    scores: dict[str, float] | None = None
    scorer_versions: dict[str, str] | None = None
    rank: int | None = None
    seconds: float = 0.0
    device: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """One prompt's group of candidates: a row of a unit file."""

    unit_id: str
    prompt_id: str
    parent_id: str
    prompt: str
    status: Status
    error: str = ""
    config_hash: str
    code_version: str = ""
    candidates: tuple[Candidate, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One preference between two candidates of the same prompt, without the images."""

    pair_id: str
    prompt_id: str
    prompt: str
    chosen_id: str
    rejected_id: str
    chosen_generator: str
    rejected_generator: str
    chosen_seed: int
    rejected_seed: int
    chosen_score: float
    rejected_score: float
    chosen_scores: dict[str, float]
    rejected_scores: dict[str, float]
    margin: float
    height: int
    width: int
    split: str
    schema_version: int = SCHEMA_VERSION


def normalise_text(text: str) -> str:
    """The text as it is identified: Unicode NFC, runs of white space as one space, trimmed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def prompt_id(text: str) -> str:
    """The id of a prompt: a hash of its normalised text and of the schema's version."""
    return content_hash("prompt", SCHEMA_VERSION, normalise_text(text))


def unit_id(prompt_ids: Iterable[str], config_hash: str) -> str:
    """The id of a unit: a hash of the prompts in it and of the configuration that makes it."""
    return content_hash("unit", SCHEMA_VERSION, config_hash, *sorted(prompt_ids))


def candidate_id(prompt: str, generator: str, generator_hash: str, seed: int) -> str:
    """The id of a candidate: a hash of prompt id, generator, its configuration, and the seed."""
    return content_hash("candidate", prompt, generator, generator_hash, seed)


def candidate_seed(prompt: str, generator: str, index: int) -> int:
    """The seed of the `index`-th image that `generator` makes of the prompt id, in [0, 2**31)."""
    return seed_from(prompt, generator, index)


def pair_id(chosen: str, rejected: str) -> str:
    """The id of a pair: a hash of the ids of its chosen and its rejected candidate."""
    return content_hash("pair", chosen, rejected)


PROMPT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in Prompt.__dataclass_fields__],
)

PLANNED_PROMPT = pa.struct([("prompt_id", pa.string()), ("parent_id", pa.string()), ("text", pa.string())])
PLAN_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        ("position", pa.int64()),
        ("config_hash", pa.string()),
        ("prompts", pa.list_(PLANNED_PROMPT)),
    ]
)


def scores_type(scorers: Sequence[str]) -> pa.StructType:
    """One float64 field per scorer: `datasets` has no map type, a struct loads as a dict."""
    return pa.struct([(name, pa.float64()) for name in scorers])


def candidate_type(scorers: Sequence[str]) -> pa.StructType:
    """The Arrow type of a Candidate scored by `scorers`."""
    return pa.struct(
        [
            ("candidate_id", pa.string()),
            ("generator", pa.string()),
            ("seed", pa.int64()),
            ("image", IMAGE),
            ("image_bytes", pa.int64()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("scores", scores_type(scorers)),
            ("scorer_versions", pa.struct([(name, pa.string()) for name in scorers])),
            ("rank", pa.int32()),
            ("seconds", pa.float64()),
            ("device", pa.string()),
            ("error", pa.string()),
        ]
    )


def unit_schema(scorers: Sequence[str]) -> pa.Schema:
    """The schema of a unit file: one row per prompt, its candidates nested."""
    text = ["unit_id", "prompt_id", "parent_id", "prompt", "status", "error", "config_hash", "code_version"]
    fields = [pa.field(name, pa.string()) for name in text]
    return pa.schema([*fields, pa.field("candidates", pa.list_(candidate_type(scorers)))])


def unit_table(rows: Sequence[UnitRow], scorers: Sequence[str]) -> pa.Table:
    """The unit's rows as a table of `unit_schema(scorers)`."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=unit_schema(scorers))


def unit_rows(table: pa.Table) -> list[UnitRow]:
    """The rows of a unit file's table, images included."""
    return [
        UnitRow(**{**row, "candidates": tuple(Candidate(**c) for c in row["candidates"])})
        for row in table.to_pylist()
    ]


def prompt_table(prompts: Iterable[Prompt]) -> pa.Table:
    """The prompts as a table of PROMPT_SCHEMA."""
    return pa.Table.from_pylist([asdict(prompt) for prompt in prompts], schema=PROMPT_SCHEMA)


def pair_schema(scorers: Sequence[str], pickapic: bool = True) -> pa.Schema:
    """The schema of the export's `default` config: prompt, chosen, rejected (the TRL convention).

    With `pickapic` also PICKAPIC, the columns that diffusers' DPO scripts read there.
    """
    scores = scores_type(scorers)
    fields: list[tuple[str, pa.DataType]] = [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("chosen", IMAGE),
        ("rejected", IMAGE),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("chosen_generator", pa.string()),
        ("rejected_generator", pa.string()),
        ("chosen_seed", pa.int64()),
        ("rejected_seed", pa.int64()),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("chosen_scores", scores),
        ("rejected_scores", scores),
        ("margin", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("split", pa.string()),
        ("schema_version", pa.int32()),
    ]
    return with_image_features(pa.schema(fields + (list(PICKAPIC.items()) if pickapic else [])))


# Pick-a-Pic's columns as its scripts expect them: the encoded images as plain bytes, no pictures.
PICKAPIC: Final[dict[str, pa.DataType]] = {
    "caption": pa.string(),
    "jpg_0": pa.binary(),
    "jpg_1": pa.binary(),
    "label_0": pa.float64(),
    "label_1": pa.float64(),
    "model_0": pa.string(),
    "model_1": pa.string(),
    "image_0_uid": pa.string(),
    "image_1_uid": pa.string(),
    "ranking_id": pa.int64(),
    "has_label": pa.bool_(),
    "are_different": pa.bool_(),
    "best_image_uid": pa.string(),
}
COPIES = ("jpg_0", "jpg_1")
"""The columns of PICKAPIC that hold the images of `chosen` and `rejected` once more."""


def ranking_schema(scorers: Sequence[str]) -> pa.Schema:
    """The schema of the export's `ranking` config: a prompt's whole group, the best image first."""
    fields: list[tuple[str, pa.DataType]] = [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("images", pa.list_(IMAGE)),
        ("candidate_ids", pa.list_(pa.string())),
        ("generators", pa.list_(pa.string())),
        ("seeds", pa.list_(pa.int64())),
        ("score", pa.list_(pa.float64())),
        ("scores", pa.list_(scores_type(scorers))),
        ("ranks", pa.list_(pa.int32())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("split", pa.string()),
        ("schema_version", pa.int32()),
    ]
    return with_image_features(pa.schema(fields))


def with_image_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the `huggingface` metadata, so that `datasets` shows IMAGE columns as pictures."""
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    names = {"double": "float64"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}
