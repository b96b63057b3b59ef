"""What the command is asked to make: prompts x seeds as requests, each with the name of its file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drspo.errors import UserError, did_you_mean
from drspo.files.storage import Storage
from drspo.hashing import content_hash
from generate.program.metadata import FORMATS, Record, parse
from generate.request import Request

MACHINE = (
    "versions.",
    "options.threads",
    "options.window_batch",
    "options.device",
    "options.guidance_halves_apart",
    "options.memory_ran_out_at_step",
    "options.controlnet_fingerprint: None",  # in records of before it was kept
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One scroll to make and the name of its file inside the output folder."""

    request: Request
    name: str


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines and lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"there is no prompt file {path}", where="--prompts") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prompt file {path} cannot be read: {error}", where="--prompts") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise UserError(f"the prompt file {path} holds no prompt", where="--prompts")
    return prompts


def split_out(out: str, count: int, suffix: str) -> tuple[str, str]:
    """(folder, file name) of `--out`; the file name is "" when every scroll gets its own inside the
    folder."""
    base, _, last = out.rpartition("/")
    ending = PurePosixPath(last).suffix.lower()
    if not ending or not last:
        return out.rstrip("/") or ("/" if out else "."), ""
    if ending not in FORMATS:
        hint = did_you_mean(ending, FORMATS) + " JPEG would lose what --like compares; convert a copy."
        raise UserError(
            f"scrolls are written as {' or '.join(FORMATS)}, not {ending}", where="--out", hint=hint
        )
    if suffix and suffix != ending:
        raise UserError(f"--out ends in {ending} but --format says {suffix}", where="--out")
    if count > 1:
        raise UserError(
            f"{count} scrolls do not fit into one file {out}",
            where="--out",
            hint="Name a folder: --out FOLDER/",
        )
    return base or ("/" if out.startswith("/") else "."), last


def file_name(request: Request, suffix: str) -> str:
    """A readable name that differs for different prompts and seeds: words, a short hash, the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", request.prompt.lower()).strip("-")[:48].strip("-") or "scroll"
    mark = content_hash(request.prompt, request.negative_prompt, length=6)
    return f"{words}-{mark}-seed{request.seed}{suffix}"


def is_done(folder: Storage, name: str, record: Record | Sequence[Record], overwrite: bool) -> bool:
    """Whether this file holds the finished scroll, or one of these, already; UserError when it holds another
    one."""
    if overwrite or not folder.exists(name):
        return False
    where = folder.url(name)
    found = parse(folder.read(name), where)
    wanted = [record] if isinstance(record, Record) else record
    # What merely moves the last bits is not a setting that somebody chose.
    differences = [[line for line in found.difference(one) if not line.startswith(MACHINE)] for one in wanted]
    if difference := min(differences, key=len):
        advice = "Choose another --out, or give --overwrite to replace it."
        raise UserError(
            f"{where} exists and was made with other settings", hint="\n  ".join([*difference[:12], advice])
        )
    return True


def require_writable(folder: Storage) -> None:
    """UserError now, rather than after an hour's work, when nothing can be written there."""
    probe = ".writable"
    try:
        folder.write(probe, b"")
        folder.delete(probe)
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder.base}: {error.strerror}", where="--out"
        ) from error
