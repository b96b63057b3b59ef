"""What the source of a run was when the first of its ideas was stored: no later start asks that again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from pipeline.ideas.finished import check_run, is_run
from pipeline.records import PROMPT_SCHEMA
from pipeline.tables import read_pieces

OTHER_SETTINGS = "another start has given this folder other settings"
THEIRS = "This one leaves it to the other. Choose another output folder for these settings."
SOURCE_NAME = "phases/source.json"
_FACTS = {"source", "is_run", "hash", "bytes", "prompts_hash"}


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
    facts = {**whose, "bytes": _size(source), "prompts_hash": prompts_hash}
    storage.create(SOURCE_NAME, json.dumps(facts).encode())


def read_record(storage: Storage) -> dict[str, Any]:
    """What was written down of the source; empty where nothing was."""
    if not storage.exists(SOURCE_NAME):
        return {}
    where, hint = storage.url(SOURCE_NAME), "Delete it: the next start tells by the ideas that are stored."
    found = parse_json(storage.read(SOURCE_NAME), where, hint=hint)
    if not isinstance(found, dict) or found.keys() != _FACTS:
        raise UserError("this does not say what the source was", where, hint)
    return found


def refuse_other_prompts(storage: Storage, prompts_hash: str) -> None:
    """UserError when another start has taken the folder for prompts that are made otherwise."""
    if read_record(storage).get("prompts_hash", prompts_hash) != prompts_hash:
        raise UserError(OTHER_SETTINGS, storage.base, THEIRS)


def has_changed(storage: Storage, source: str) -> bool:
    """Whether a source that is a local file has another size than when it was read; it is not read again."""
    now, then = _size(source), read_record(storage).get("bytes")
    return now is not None and then is not None and now != then


def _size(source: str) -> int | None:
    """The size of a source that is a local file."""
    path = Path(source)
    try:
        return path.stat().st_size if source != "corpus" and path.is_file() else None
    except (OSError, ValueError):
        return None
