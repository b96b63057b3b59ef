"""`croissant.json`: the data set described for machines, after the Croissant format 1.0 of MLCommons.

File sets are relative to the file itself, so that a clone, a download and `--dry-run`'s folder can be read
with it; the Hub makes a description of its own for those who have none of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.layouts import columns_of
from drspo.files.run import RunDir
from pipeline.records import COPIES, IMAGE

CROISSANT = "croissant.json"
_FORMAT = "http://mlcommons.org/croissant/"
# The vocabulary of the format, as its specification prescribes it.
_TERMS = """citeAs column containedIn equivalentProperty extract field fileProperty fileObject fileSet format
    includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
    samplingRate separator source subField transform""".split()
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": _FORMAT,
    "rai": f"{_FORMAT}RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
# Names that JSONPath reads as they are, but for its operators.
_PLAIN = re.compile(r"(?!(?:where|wherenot)\Z)[A-Za-z_][A-Za-z0-9_]*")
_MEANINGS = {
    "default": "Preference pairs: a prompt, the scroll that scored best and one that scored worse.",
    "pickapic": "The same pairs in the columns of Pick-a-Pic.",
    "ranking": "Every prompt's whole group of scrolls, the best first.",
}


def describe(
    run: RunDir, shards: Mapping[str, Sequence[str]], *, name: str, repo_id: str, licence: str, about: str
) -> bytes:
    """The run's shards, {configuration: names}, described in JSON-LD; the same run gives the same bytes."""
    configs = {config: names for config, names in shards.items() if config != "pickapic"}
    manifest = run.manifest()
    facts = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": f"{_FORMAT}1.0",
        "name": name,
        "description": about,
        "license": licence,
        "url": f"https://huggingface.co/datasets/{repo_id}",
        "citeAs": f"{name}: preference pairs of long scroll images, made with DRSPO",
        "datePublished": manifest["created"],
        "creator": {"@type": "sc:Organization", "name": repo_id.partition("/")[0]},
        "version": "1.0.0",
        "distribution": [_file_set(config, names) for config, names in configs.items()],
        "recordSet": [_record_set(run, config, names[0]) for config, names in configs.items()],
    }
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


def _file_set(config: str, names: Sequence[str]) -> dict[str, Any]:
    """The shards of a configuration; their number in the pattern keeps those of another export out."""
    places = (name.removeprefix("export/") for name in names)
    patterns = {f"{place.partition('-')[0]}-*-of-{place.rpartition('-of-')[2]}" for place in places}
    return {
        "@type": "cr:FileSet",
        "@id": f"{config}-files",
        "name": f"{config}-files",
        "description": f"The Parquet shards of the configuration {config}.",
        "encodingFormat": "application/x-parquet",
        "includes": sorted(patterns),
    }


def _record_set(run: RunDir, config: str, shard: str) -> dict[str, Any]:
    with run.open(shard) as stream:
        schema = pq.read_schema(stream)
    fields = (schema.field(name) for name in columns_of(config, schema.names))
    return {
        "@type": "cr:RecordSet",
        "@id": config,
        "name": config,
        "description": _MEANINGS[config],
        "field": [found for field in fields for found in _fields(config, field)],
    }


def _fields(config: str, field: pa.Field) -> list[dict[str, Any]]:
    """A column as one field; a struct of scores as one field for each of them."""
    kind, repeated = field.type, pa.types.is_list(field.type)
    kind = kind.value_type if repeated else kind
    if pa.types.is_struct(kind) and kind != IMAGE:
        parts = [kind.field(index) for index in range(kind.num_fields)]
        return [_field(config, field.name, part.type, repeated, part.name) for part in parts]
    return [_field(config, field.name, kind, repeated, "bytes" if kind == IMAGE else "")]


def _field(config: str, column: str, kind: pa.DataType, repeated: bool, inner: str) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": f"{config}-files"}, "extract": {"column": column}}
    if inner:
        source["transform"] = {"jsonPath": _json_path(inner)}
    name = f"{column}/{inner}" if inner not in ("", "bytes") else column
    found = {
        "@type": "cr:Field",
        "@id": f"{config}/{name}",
        "name": name,
        "dataType": "sc:ImageObject" if column in COPIES else _data_type(kind),
        "source": source,
    }
    return {**found, "repeated": True} if repeated else found


def _json_path(name: str) -> str:
    """The path to a member of a struct; quoted where a bare name would be read as something else."""
    if _PLAIN.fullmatch(name):
        return name
    return "'" + re.sub(r"(['\\])", r"\\\1", name) + "'"


def _data_type(kind: pa.DataType) -> str:
    if kind == IMAGE:
        return "sc:ImageObject"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
