"""One folder of files, local or behind an fsspec URL, with atomic writes and first-wins creation."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from drspo.errors import UserError
from drspo.files.backends import Folder, LocalFolder, RemoteFolder

# Errors of the machine that its user can mend, and how.
REMEDIES = {
    errno.ENOSPC: "Free some space or choose another folder; the same command then continues.",
    errno.EDQUOT: "The quota is used up: free some space or choose another folder.",
    errno.EROFS: "The file system is read-only: choose another folder.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.ENOTDIR: "A part of the path is a file: choose another folder.",
    errno.EISDIR: "A folder stands where a file belongs: move it away, or choose another folder.",
}


class Storage:
    """One folder: a local path or an fsspec URL (s3://, gs://, memory://).

    Names are relative and use "/". A name is either absent or whole, never half-written. Full and
    read-only disks and missing permissions raise UserError that names the path. Instances pickle
    as their URL, so they travel to workers.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        text = os.fspath(url)
        if not text:
            raise UserError("a folder or URL is needed, not an empty text")
        text = text.removeprefix("file://")
        self.base = text.rstrip("/") if "://" in text else os.path.abspath(os.path.expanduser(text))
        self._opened: Folder | None = None

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return type(self), (self.base,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})"

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on a local file system."""
        return "://" not in self.base

    @property
    def _folder(self) -> Folder:
        if self._opened is None:
            self._opened = LocalFolder(Path(self.base)) if self.is_local else _open_remote(self.base)
        return self._opened

    def read(self, name: str) -> bytes:
        """The bytes of a file; FileNotFoundError when there is none."""
        with self.explained(name):
            return self._folder.read(_checked(name))

    def write(self, name: str, data: bytes) -> None:
        """Writes a whole file atomically; the last writer wins."""
        with self.explained(name):
            self._folder.write(_checked(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a whole file atomically unless it exists: True for the first writer, False for others."""
        with self.explained(name):
            return self._folder.create(_checked(name), data)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        with self.explained(name):
            return self._folder.exists(_checked(name))

    def level(self, folder: str) -> list[str]:
        """The sorted names directly below `folder` ("" or "name/"); those that end with "/" are folders."""
        with self.explained(folder):
            return self._folder.level(folder)

    def list(self, prefix: str = "") -> list[str]:
        """The sorted names of all files, at any depth, that begin with `prefix`; no temporary files."""
        with self.explained(prefix):
            return self._folder.list(prefix)

    def spool(self) -> BinaryIO:
        """An empty file without a name on the local disk, beside the run's where that is local.

        A folder that may only be read is not asked for room. The file is gone when it is closed, however the
        process ends; `put` stores what was written to it.
        """
        if not self.is_local:
            return cast(BinaryIO, tempfile.TemporaryFile())
        with self.explained(""):
            os.makedirs(self.base, exist_ok=True)
            try:
                return cast(BinaryIO, tempfile.TemporaryFile(dir=self.base))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
        return cast(BinaryIO, tempfile.TemporaryFile())

    def put(self, name: str, file: BinaryIO) -> None:
        """Writes all of a spool file as `write` does, without having it in memory."""
        with self.explained(name):
            self._folder.put(_checked(name), file)

    def put_new(self, name: str, file: BinaryIO) -> bool:
        """Writes all of a spool file as `create` does: True for the first writer, False for others."""
        with self.explained(name):
            return self._folder.put_new(_checked(name), file)

    def delete(self, name: str) -> None:
        """Removes a file; one that is absent already is no error."""
        with self.explained(name):
            self._folder.delete(_checked(name))

    def sweep(self, prefix: str) -> None:
        """Removes what killed writers left of files that others have created since, by the files' prefix.

        For files that are created and never written anew: such a writer, if it lives, has lost.
        """
        with self.explained(prefix):
            self._folder.sweep(prefix)

    def open(self, name: str, mode: str = "rb") -> BinaryIO:
        """A binary file opened for reading."""
        if mode != "rb":
            raise ValueError(f"files are opened for reading only ('rb', not {mode!r}): use write or create")
        with self.explained(name):
            return self._folder.open(_checked(name), mode)

    def local_path(self, name: str = "") -> Path | None:
        """The path of a file on the local disk, or None when the folder is remote."""
        return Path(self.base) / name if self.is_local else None

    def url(self, name: str = "") -> str:
        """The path or URL of a file, to print or to hand to another program."""
        return self._folder.url(_checked(name)) if name else self.base

    @contextlib.contextmanager
    def explained(self, name: str = "") -> Iterator[None]:
        """Turns what a full or read-only disk raises, of a spool file too, into a UserError with its name."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            place = f"{self.base}/{name}".rstrip("/")
            explained = explain(error, place)
            if explained is None:
                raise
            raise explained from error


def explain(error: Exception, where: str) -> UserError | None:
    """The UserError for a full disk, a missing permission and the like; None for anything else."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return UserError(os.strerror(error.errno or 0), where=where, hint=REMEDIES[error.errno])
    if isinstance(error, (PermissionError, FileExistsError)):
        return UserError(str(error) or "permission denied", where=where, hint=REMEDIES[errno.EACCES])
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return UserError(str(error), where=where, hint="Set the store's credentials in the environment.")
    return None


def _open_remote(url: str) -> RemoteFolder:
    try:
        return RemoteFolder(url)
    except (ImportError, ValueError) as error:
        protocol = url.partition("://")[0]
        hint = f"Install what fsspec needs for it; in the checkout: pip install -e '.[{protocol}]'"
        raise UserError(f"cannot open a {protocol}:// URL: {error}", where=url, hint=hint) from error


def _checked(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"not a name inside the folder: {name!r}")
    return name
