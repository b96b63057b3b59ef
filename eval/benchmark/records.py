"""One number of one picture, and the file of a run in which all of them lie."""

from __future__ import annotations

import json
from dataclasses import dataclass

from drspo.files.run import RunDir

RECORDS = "records.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One number of one image, with everything it depends on; NaN with the reason in `error`."""

    method: str
    prompt: str
    seed: int
    scorer: str
    unit: str
    view: str
    checkpoint: str
    checkpoint_hash: str
    higher_is_better: bool
    value: float
    version: str = "1"
    revision: str = ""
    text_limit: int = 0
    """The most tokens of a prompt that were read; 0 where none are, or where there is no limit."""
    aggregate: str = "mean"
    error: str = ""


def read_records(run: RunDir) -> list[Record]:
    """All numbers of a finished run, in the order of their file."""
    return [Record(**json.loads(line)) for line in run.read(RECORDS).decode().splitlines()]
