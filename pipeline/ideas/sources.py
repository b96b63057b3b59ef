"""Where ideas come from: the shipped corpus, a text, JSONL, CSV or Parquet file, or a data set on the Hub.

Every reader yields `Item`s in the source's order, also for what is not a usable text, so that nothing is lost
without a reason. Files are read in a stream.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from drspo.errors import UserError, did_you_mean
from drspo.ranges import Natural, Range
from pipeline.ideas.finished import is_run, read_prompts

CORPUS = Path(__file__).parent / "corpus"
USUAL_COLUMNS = ("prompt", "text", "caption", "idea", "description", "sentence")
_LONGEST_LINE = 16 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Which ideas to start from."""

    source: str = "corpus"
    """corpus (the ideas that ship), a .txt, .jsonl, .csv, .tsv or .parquet file or URL, a Hub data set, or
    another run, whose accepted prompts are taken as they are"""
    column: str = ""
    """the column with the text; empty takes the usual name (prompt, text, caption) or the only text column"""
    subset: str = ""
    """configuration of a Hub data set"""
    split: str = "train"
    """split of a Hub data set"""
    revision: str = ""
    """revision of a Hub data set"""
    limit: Natural = 0
    """stop after so many accepted ideas; 0 reads all"""
    max_characters: Annotated[int, Range(1, 100_000)] = 2000
    """longer texts are dropped"""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a source: its value, usually a text, and its place such as "ideas.txt:12"."""

    value: Any
    place: str
    problem: str = ""
    row: dict[str, Any] | None = None
    """A whole row of PROMPT_SCHEMA, from a run that has made and judged it already."""


Reader = Callable[[str, PromptSettings], Iterator[Item]]


def read_source(settings: PromptSettings) -> Iterator[Item]:
    """Every entry of the source, in order. Raises UserError for a source that cannot be read."""
    yield from source_reader(settings.source)(settings.source, settings)


def check_source(settings: PromptSettings) -> None:
    """UserError for a source that cannot be read: its first entry is."""
    for _ in read_source(settings):
        return
    raise UserError("the source is empty", f"--prompts.source {settings.source}")


def source_reader(source: str) -> Reader:
    """What reads the source, by its name. Raises UserError when there is no such file, or of no such kind."""
    if source == "corpus":
        return _corpus
    if is_run(source):
        return read_run
    reader = _READERS.get(_suffix(source))
    if "://" in source or Path(source).exists():
        if reader is None or Path(source).is_dir():
            kinds = ".txt, .jsonl, .csv, .tsv or .parquet file, nor a run"
            raise UserError(f"{source!r} is no {kinds}", "--prompts.source")
        return reader
    if reader is None and _HUB_ID.fullmatch(source):
        return _hub
    raise UserError(f"there is no file {source!r}", "--prompts.source", _nearby(source))


def read_run(source: str, settings: PromptSettings) -> Iterator[Item]:
    """The accepted prompts of another run, each with its whole provenance."""
    for row in read_prompts(source):
        yield Item(row["source_text"], row["source"], row=row)


def _corpus(source: str, settings: PromptSettings) -> Iterator[Item]:
    for name in ("outdoor.txt", "indoor.txt"):
        yield from _text(CORPUS / name, f"corpus/{name}")


def choose_column(columns: Sequence[str], wanted: str, where: str, texts: Sequence[str] = ()) -> str:
    """The column to read: the wanted one, else a usual name, else the only text column."""
    if wanted:
        if wanted in columns:
            return wanted
        raise UserError(f"there is no column {wanted!r}", where, did_you_mean(wanted, columns))
    by_name = {column.casefold(): column for column in reversed(columns)}
    usual = next((by_name[name] for name in USUAL_COLUMNS if name in by_name), "")
    only = texts[0] if len(texts) == 1 else columns[0] if len(columns) == 1 else ""
    if chosen := usual or only:
        return chosen
    raise UserError(
        "which column holds the text?", where, f"Choose with --prompts.column: {', '.join(columns)}."
    )


def _suffix(source: str) -> str:
    return Path(source.partition("?")[0]).suffix.lower()


def _nearby(source: str) -> str:
    parent = Path(source).parent
    names = [str(path) for path in parent.iterdir()][:1000] if parent.is_dir() else []
    return did_you_mean(source, names) if names else "A data set on the Hub is written owner/name."


def _open(path: str | Path) -> Any:
    """The file as text. Bytes that are not UTF-8 become lone surrogates, which a later step reports."""
    if "://" in str(path):
        import fsspec

        stream = fsspec.open(str(path), "rb").open()
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "--prompts.source") from None


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    with _open(path) as stream:
        number = 0
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:  # no end in sight: the rest is not kept
                while (rest := stream.readline(_LONGEST_LINE)) and not rest.endswith("\n"):
                    pass
            yield number, line.rstrip("\r\n")


def _text(path: str | Path, label: str) -> Iterator[Item]:
    for number, line in _lines(path):
        yield Item(line, f"{label}:{number}")


def _read_text(source: str, settings: PromptSettings) -> Iterator[Item]:
    return _text(source, Path(source).name)


def _read_jsonl(source: str, settings: PromptSettings) -> Iterator[Item]:
    """One JSON value a line: a text, or an object with the text in a column."""
    column, label = "", Path(source).name
    for number, line in _lines(source):
        place = f"{label}:{number}"
        if not line.strip():
            yield Item("", place)
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Item(line, place, "not JSON")
            continue
        if isinstance(value, dict):
            texts = [key for key, entry in value.items() if isinstance(entry, str)]
            column = column or choose_column(list(value), settings.column, place, texts)
            value = value.get(column)
        yield Item(value, place)


def _read_csv(source: str, settings: PromptSettings) -> Iterator[Item]:
    """A table with a header line, separated by commas or, in .tsv files, by tabs."""
    label = Path(source).name
    csv.field_size_limit(1 << 27)
    with _open(source) as stream:
        table = csv.reader(stream, delimiter="\t" if _suffix(source) == ".tsv" else ",")
        header = next(table, None)
        if not header:
            raise UserError("the file has no header line", label)
        index = header.index(choose_column(header, settings.column, label))
        try:
            for row in table:
                short = len(row) <= index
                yield Item(
                    "" if short else row[index],
                    f"{label}:{table.line_num}",
                    "no such column" if row and short else "",
                )
        except csv.Error as error:
            raise UserError(f"not a CSV file: {error}", f"{label}:{table.line_num}") from None


def _read_parquet(source: str, settings: PromptSettings) -> Iterator[Item]:
    import pyarrow as pa

    from drspo.files.parquet import DAMAGES, PIECEWISE, batch_rows, open_parquet

    label = Path(source).name
    schema = open_parquet(_parquet_stream(source), label).schema_arrow
    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    column = choose_column(schema.names, settings.column, label, texts)
    # As a dictionary, a long text that many rows repeat is in memory once.
    shared = [column] if column in texts else None
    file = open_parquet(_parquet_stream(source), label, read_dictionary=shared, **PIECEWISE)
    rows = 8192 if shared else batch_rows(file, 8192)
    number = 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=[column]):
            for value in _values(batch.column(0)):
                yield Item(value, f"{label}#{number}")
                number += 1
    except DAMAGES as error:
        raise UserError(f"not a whole Parquet file: {error}", label) from None


def _parquet_stream(source: str) -> Any:
    if "://" not in source:
        return source
    import fsspec

    return fsspec.open(source, "rb").open()


def _values(column: Any) -> Iterator[Any]:
    if not hasattr(column, "dictionary"):
        yield from column.to_pylist()
        return
    words = column.dictionary.to_pylist()
    yield from (None if index is None else words[index] for index in column.indices.to_pylist())


def _hub(source: str, settings: PromptSettings) -> Iterator[Item]:
    """The rows of a Hub data set, streamed, without its other columns."""
    import datasets

    label = f"{settings.source}/{settings.split}"
    try:
        data = datasets.load_dataset(
            settings.source,
            settings.subset or None,
            split=settings.split,
            revision=settings.revision or None,
            streaming=True,
        )
        columns = data.column_names or list(next(iter(data)))
        texts = [
            n
            for n, f in (data.features or {}).items()
            if getattr(f, "dtype", "") in ("string", "large_string")
        ]
        column = choose_column(columns, settings.column, label, texts)
        for number, row in enumerate(data.select_columns([column])):
            yield Item(row[column], f"{label}#{number}")
    except UserError:
        raise
    except Exception as error:
        # The library raises many kinds of errors for a name, a split, a revision or a network that is wrong.
        raise UserError(
            f"cannot read the data set: {error}", label, "Check name, split, revision, and HF_TOKEN."
        ) from error


_READERS = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
