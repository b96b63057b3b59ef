"""Rows of a CSV, JSONL or JSON file, read as text and nothing else."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drspo.errors import UserError

TABLES = (".jsonl", ".csv", ".json")
"""Suffixes that are read, the first preferred where a folder has several."""


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file in its own order: objects of a JSON list or of JSON lines, or lines of a CSV with
    a header. Raises `UserError` that names the line for what is no row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from _csv(file, path)
            elif path.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _object(_json(line, f"{path}:{number}"), f"{path}:{number}")
            else:
                rows = _json(file.read(), str(path))
                if not isinstance(rows, list):
                    raise UserError("not a list of rows", str(path), "a JSON file of pairs is [{...}, {...}]")
                for number, row in enumerate(rows):
                    yield _object(row, f"{path}, row {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"not a readable text file: {error}", str(path)) from error


def _csv(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    "a line has another number of cells than the header", f"{path}:{reader.line_num}"
                )
            yield row
    except csv.Error as error:
        raise UserError(f"not a readable CSV file: {error}", f"{path}:{reader.line_num}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON: {error}", where) from error


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError("a row is an object of named cells", where)
    return row
