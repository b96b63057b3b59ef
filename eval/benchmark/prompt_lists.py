"""The prompts of a benchmark: lists that ship, files, and what runs of the dataset builder held out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from drspo.errors import UserError
from drspo.files.incomplete import refuse_incomplete
from drspo.files.parquet import DAMAGES, open_parquet
from drspo.files.storage import Storage
from drspo.files.texts import read_text
from eval.config import EvalConfig

PROMPTS = Path(__file__).parent.parent / "prompts"
MOST_PROMPTS = 64 << 20  # bytes of a list of prompts
EXPORT = "export/data/"
HELD_OUT = f"{EXPORT}validation"
"""How the names of the files begin in which a run's held-out pairs lie."""


def all_prompts(config: EvalConfig) -> list[str]:
    """Every prompt of the benchmark once, in order."""
    return list(dict.fromkeys(prompt for part in strata(config).values() for prompt in part))


def strata(config: EvalConfig) -> dict[str, list[str]]:
    """{source: its prompts}, each at most `pictures.limit`; a prompt is of the first source that has it."""
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    for source in config.pictures.prompts:
        name = _short(source)
        if name in found:
            raise UserError(f"the prompts {source!r} are named twice", "pictures.prompts")
        fresh = [prompt for prompt in read_prompts(source, config.pictures.limit) if prompt not in seen]
        found[name] = fresh
        seen.update(fresh)
    if not seen:
        raise UserError("there are no prompts to compare on", "pictures.prompts", "name a list or a file")
    return found


def read_prompts(source: str, limit: int = 0) -> list[str]:
    """The prompts of a source without blank lines and repeats, in order.

    A source is the name of a list in eval/prompts, a file with a prompt per line, or the folder of a run
    whose held-out pairs' prompts are taken. UserError where there are none.
    """
    if limit < 0:
        raise UserError(f"a limit of {limit} prompts", "pictures.limit", "0 takes all")
    lines = list(dict.fromkeys(line.strip() for line in _lines(source)))
    prompts = [line for line in lines if line][: limit or None]
    if not prompts:
        raise UserError("there are no prompts to compare on", source, "write one prompt per line")
    return prompts


def _lines(source: str) -> Iterable[str]:
    path = PROMPTS / f"{source}.txt"
    if "/" in source or not path.is_file():
        if "://" in source or Path(source).expanduser().is_dir():
            return _held_out(source)
        path = Path(source).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in PROMPTS.glob("*.txt")))
        hint = f"give a file, a run of the dataset builder, or one of {known}"
        raise UserError(f"no prompts {source!r}", "pictures.prompts", hint)
    return (line for line in read_text(path, MOST_PROMPTS).splitlines() if not line.startswith("#"))


def _held_out(source: str) -> list[str]:
    """The prompts of a run's validation split, from its export's small columns."""
    storage = Storage(source)
    prompts: list[str] = []
    listed = storage.list(EXPORT)
    refuse_incomplete(storage, listed)
    for name in (name for name in listed if name.startswith(HELD_OUT)):
        try:
            with storage.open(name) as stream:
                table = open_parquet(stream, storage.url(name)).read(columns=["prompt"])
                prompts += [str(prompt) for prompt in table["prompt"].to_pylist()]
        except DAMAGES as error:
            raise UserError(f"cannot read the held-out prompts: {error}", storage.url(name)) from error
    if not prompts:
        hint = "a run that has been exported holds out a share of its prompts (--export.validation-fraction)"
        raise UserError("there are no held-out pairs here", source, hint)
    return prompts


def _short(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2] or source
