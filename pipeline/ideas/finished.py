"""Another run's accepted prompts as a source: paid for once, painted by any number of configurations."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir
from drspo.files.storage import Storage
from pipeline.records import OK, PROMPT_SCHEMA
from pipeline.tables import read_pieces

PROMPTS_NAME = "prompts.parquet"
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
