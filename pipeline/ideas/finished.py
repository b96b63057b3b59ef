"""Another run's accepted prompts as a source: paid for once, painted by any number of configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir
from drspo.files.storage import Storage
from pipeline.records import OK, PROMPT_SCHEMA
from pipeline.tables import read_pieces

PROMPTS_NAME = "prompts.parquet"
FILES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def is_run(source: str) -> bool:
    """Whether a source is a run's folder or URL."""
    if not source or source == "corpus" or source.partition("?")[0].lower().endswith(FILES):
        return False
    try:
        return Storage(source).exists(MANIFEST)
    except (UserError, OSError, ValueError):
        return False


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


def read_prompts(source: str) -> Iterator[dict[str, Any]]:
    """The run's accepted prompts as rows of PROMPT_SCHEMA, in order."""
    check_run(source)
    for piece in read_pieces(RunDir(source), PROMPTS_NAME, PROMPT_SCHEMA):
        yield from (row for row in piece.to_pylist() if row["status"] == OK)
