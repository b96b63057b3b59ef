"""Another run's accepted prompts as a source: paid for once, painted by any number of configurations."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from pipeline.records import OK, PROMPT_SCHEMA
from pipeline.tables import read_pieces

PROMPTS_NAME = "prompts.parquet"
SOURCE_NAME = "phases/source.json"
"""Says what the source was when the first of its ideas was stored, and for which settings it was read."""
FILES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def is_run(source: str) -> bool:
    """Whether a source is a run's folder or URL; UserError where its store does not say."""
    if not source or source == "corpus" or source.partition("?")[0].lower().endswith(FILES):
        return False
    try:
        return Storage(source).exists(MANIFEST)
    except (FileNotFoundError, ValueError):  # no such bucket; no path at all
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise UserError(f"it cannot be read: {error}", f"--prompts.source {source}") from error


@dataclass(frozen=True)
class Taken:
    """The run whose accepted prompts are taken as they are."""

    run: str
    hash: str
    """of its prompts; empty where nothing says it any more"""


def taken_from(storage: Storage | None, source: str) -> Taken | None:
    """The run that a run's prompts are taken from; None where they are made of ideas.

    It is asked once: whatever becomes of the source, prompts that were taken are never expanded or judged.
    """
    said = read_record(storage) if storage is not None else {}
    if said.get("source") == source:
        return Taken(source, said["hash"]) if said["is_run"] else None
    if storage is not None and not said and (ideas := storage.list("phases/ideas")):
        # Nothing but a finished prompt has an expander.
        first = next(read_pieces(storage, ideas[0], PROMPT_SCHEMA), PROMPT_SCHEMA.empty_table())
        return Taken(source, "") if first.num_rows and first["expander"][0].as_py() else None
    return Taken(source, str(check_run(source).get("hash", ""))) if is_run(source) else None


def record_source(storage: Storage, source: str, taken: Taken | None, prompts_hash: str) -> None:
    """Write down what the source is, and the hash of what decides the prompts, for later starts."""
    whose = {"source": source, "is_run": taken is not None, "hash": taken.hash if taken else ""}
    facts = {**whose, "prompts_hash": prompts_hash}
    storage.create(SOURCE_NAME, json.dumps(facts).encode())


def read_record(storage: Storage) -> dict[str, Any]:
    """What was written down of the source; empty where nothing was."""
    if not storage.exists(SOURCE_NAME):
        return {}
    found = parse_json(storage.read(SOURCE_NAME), storage.url(SOURCE_NAME))
    if not isinstance(found, dict) or found.keys() != {"source", "is_run", "hash", "prompts_hash"}:
        hint = "Delete it: the next start tells by the ideas that are stored."
        raise UserError("this does not say what the source was", storage.url(SOURCE_NAME), hint)
    return found


def check_run(source: str) -> dict[str, Any]:
    """The facts of the run's finished prompts; UserError when they are not finished or none was accepted."""
    run = RunDir(source)
    run.require("dataset_builder")
    facts = run.phases().get("prompts")
    if facts is None or not run.exists(PROMPTS_NAME):
        hint = "Finish it first: its own command, with --until prompts for the prompts alone."
        raise UserError("this run has no finished prompts yet", f"--prompts.source {source}", hint)
    if not facts.get("accepted"):
        raise UserError("this run accepted no prompt", f"--prompts.source {source}")
    return dict(facts)


def prompt_names(storage: Storage) -> list[str]:
    """The tables that hold a run's prompts: the whole one, or those of the blocks finished so far."""
    return [PROMPTS_NAME] if storage.exists(PROMPTS_NAME) else storage.list("phases/prompts-")


def read_prompts_so_far(storage: Storage) -> Iterator[pa.Table]:
    """A run's prompts with what became of them, or as many as there are so far, a piece at a time."""
    for name in prompt_names(storage):
        yield from read_pieces(storage, name, PROMPT_SCHEMA)


def read_prompts(source: str) -> Iterator[dict[str, Any]]:
    """The run's accepted prompts as rows of PROMPT_SCHEMA, in order."""
    check_run(source)
    for piece in read_pieces(RunDir(source), PROMPTS_NAME, PROMPT_SCHEMA):
        yield from (row for row in piece.to_pylist() if row["status"] == OK)
