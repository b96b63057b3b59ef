"""A folder for what only this user's processes may read and write, in a place that all users share."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Literal, TextIO

log = logging.getLogger(__name__)


@functools.cache
def private_folder(label: str) -> Path:
    """The user's folder of this label below the temporary folder, the same for all processes of theirs.

    Anybody may have prepared something under that name. Where it is a link, another user's, or open to
    others, a fresh folder is made for this process alone, which is said.
    """
    folder = Path(tempfile.gettempdir()) / f"drspo-{label}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        return _fresh(label, str(error))
    if not stat.S_ISDIR(found.st_mode):
        return _fresh(label, f"{folder} is no folder")
    if found.st_uid != os.getuid():
        return _fresh(label, f"{folder} belongs to another user")
    if found.st_mode & 0o077:
        return _fresh(label, f"{folder} is open to other users")
    return folder


def _fresh(label: str, why: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"drspo-{label}-"))
    log.warning("%s, so %s is used instead", why, folder)
    return folder


def open_unlinked(path: Path, mode: Literal["w", "a"], permissions: int = 0o600) -> TextIO:
    """The file opened for writing ("w") or appending ("a"); OSError (ELOOP) when its name is a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    flags |= {"w": os.O_TRUNC, "a": os.O_APPEND}[mode]
    return open(os.open(path, flags, permissions), mode, encoding="utf-8")
