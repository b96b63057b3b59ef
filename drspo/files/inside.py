"""Names that stand in data: resolved inside the data's own folder, or refused."""

from __future__ import annotations

import os
from pathlib import Path

from drspo.errors import UserError


def inside(root: str | os.PathLike[str], name: str) -> Path:
    """The file that `name`, a path in a row or a settings file, means inside the folder it came with.

    Raises UserError for an absolute name elsewhere, for one that leads out of the folder by ".." or by a
    link, for an address, and where there is no regular file: a data set of a stranger may name any file of
    this machine.
    """
    if not name or "\0" in name or "://" in name:
        raise UserError(f"{name!r} is no file of the data", str(root))
    folder = Path(root).resolve()
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # a circle of links
        raise UserError(f"{name!r} cannot be followed", str(root)) from error
    if not path.is_relative_to(folder):
        raise UserError(f"{name!r} leads out of the data's own folder, so it is not read", str(root))
    if not path.is_file():
        raise UserError(f"there is no file {name!r} in the data's own folder", str(root))
    return path
