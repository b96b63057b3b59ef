"""A folder's mark that its files may be of two makings: a writer is at work on them, or was interrupted.

The mark lies beside the files, so that it goes wherever the folder goes.
"""

from __future__ import annotations

from collections.abc import Iterable

from drspo.errors import UserError
from drspo.files.storage import Storage

MARK = "incomplete"
_ABOUT = b"The files here are being changed, or whoever changed them was interrupted: do not read them yet.\n"


def mark(storage: Storage, folder: str) -> None:
    """Mark a folder, before its first file changes."""
    storage.create(f"{folder}/{MARK}", _ABOUT)


def unmark(storage: Storage, folder: str) -> None:
    """Take the mark away; without one this does nothing."""
    storage.delete(f"{folder}/{MARK}")


def is_mark(name: str) -> bool:
    """Whether the name of a file is that of a mark."""
    return name.rpartition("/")[2] == MARK


def refuse_incomplete(storage: Storage, names: Iterable[str]) -> None:
    """Raise UserError when a mark is among the names of an export's files."""
    if marked := next((name for name in names if is_mark(name)), None):
        raise UserError(
            "the export was interrupted, or is under way",
            storage.url(marked),
            "The command that began the run finishes it.",
        )
