"""The two kinds of folder below `drspo.files.storage.Storage`: a local one and one behind fsspec."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from drspo.errors import UserError
from drspo.files.patience import patiently
from drspo.files.remote_file import RemoteFile

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".", ".tmp"
_MEMORY_LOCK = threading.Lock()
_COPIED = 1 << 22  # bytes at once
_SENT = 128 << 20  # bytes at once; clients send more in parts


class Folder(Protocol):
    """What a backend can do; names are relative and use "/"."""

    def read(self, name: str) -> bytes: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def exists(self, name: str) -> bool: ...
    def put(self, name: str, file: BinaryIO) -> None: ...
    def put_new(self, name: str, file: BinaryIO) -> bool: ...
    def level(self, folder: str) -> list[str]: ...
    def list(self, prefix: str) -> list[str]: ...
    def delete(self, name: str) -> None: ...
    def sweep(self, prefix: str) -> None: ...
    def open(self, name: str, mode: str) -> BinaryIO: ...
    def url(self, name: str) -> str: ...


class LocalFolder:
    """A folder on a local file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name

    def url(self, name: str) -> str:
        return str(self.path(name))

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        target = self.path(name)
        with self._written(target, data) as written:
            _replace(written, target)

    def create(self, name: str, data: bytes) -> bool:
        target = self.path(name)
        if target.exists():
            return False
        with self._written(target, data) as written:
            return _link(written, target)

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def put(self, name: str, file: BinaryIO) -> None:
        target = self.path(name)
        with self._written(target, file) as written:
            _replace(written, target)

    def put_new(self, name: str, file: BinaryIO) -> bool:
        target = self.path(name)
        if target.exists():
            return False
        with self._written(target, file) as written:
            return _link(written, target)

    def level(self, folder: str) -> list[str]:
        try:
            found = [entry for entry in os.scandir(self.root / folder) if not is_temporary(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(f"{folder}{entry.name}{'/' * entry.is_dir()}" for entry in found)

    def list(self, prefix: str) -> list[str]:
        # The walk starts at the deepest folder that the prefix names, so units/ab/ stays cheap.
        start = self.root / prefix.rpartition("/")[0]
        names = []
        for folder, below, files in os.walk(start):
            relative = Path(folder).relative_to(self.root)
            if Path(folder) == start:
                below[:] = [name for name in below if (relative / name).as_posix().startswith(prefix)]
            names += [(relative / file).as_posix() for file in files if not is_temporary(file)]
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        self._refuse_links(self.path(name))
        self.path(name).unlink(missing_ok=True)

    def sweep(self, prefix: str) -> None:
        folder, _, stem = prefix.rpartition("/")
        for file in (self.root / folder).glob(f"{TEMPORARY_PREFIX}{stem}*{TEMPORARY_SUFFIX}"):
            if file.with_name(file.name.removeprefix(TEMPORARY_PREFIX).rsplit(".", 3)[0]).exists():
                file.unlink(missing_ok=True)

    def open(self, name: str, mode: str) -> BinaryIO:
        return cast(BinaryIO, self.path(name).open(mode))

    def _refuse_links(self, target: Path) -> None:
        """UserError when a link inside the folder would carry a change out of it."""
        root, real = os.path.realpath(self.root), os.path.realpath(target.parent)
        if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
            hint = "Put a folder in the link's place, or choose another output folder."
            raise UserError(f"a link leads out of the folder, to {real}", str(target), hint)

    @contextlib.contextmanager
    def _written(self, target: Path, data: bytes | BinaryIO) -> Iterator[Path]:
        """A complete file on the target's disk, gone again when the block ends.

        It has no name where the system can do that, so that a killed writer leaves nothing behind.
        """
        self._refuse_links(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _nameless(target.parent) or _temporary(target) as path:
            _write_synced(path, data)
            yield path


def _nameless(folder: Path) -> contextlib.AbstractContextManager[Path] | None:
    """A file without a name, as a path of this process; None where the file system or the system has none."""
    try:
        number = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return None
    path = Path(f"/proc/self/fd/{number}")
    if not path.exists():
        os.close(number)
        return None
    return _closing(number, path)


@contextlib.contextmanager
def _closing(number: int, path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        os.close(number)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A path beside the target under which a file may be written; gone again when the block ends."""
    path = target.with_name(temporary_name(target.name))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """A name beside `name` that no listing shows and no other process picks."""
    return f"{TEMPORARY_PREFIX}{name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def is_temporary(file_name: str) -> bool:
    """Whether a file name is one that a killed writer may have left behind."""
    return file_name.startswith(TEMPORARY_PREFIX) and file_name.endswith(TEMPORARY_SUFFIX)


def _write_synced(path: Path, data: bytes | BinaryIO) -> None:
    # Synced before it gets its name: after a power cut a named file is a whole file.
    with path.open("wb") as file:
        if isinstance(data, bytes):
            file.write(data)
        else:
            data.seek(0)
            shutil.copyfileobj(data, file, _COPIED)
        file.flush()
        os.fsync(file.fileno())


def _link(written: Path, target: Path) -> bool:
    # A hard link is the one portable step that is atomic and fails when the name is taken.
    try:
        _name(written, target)
    except FileExistsError:
        return False
    except OSError as error:
        if isinstance(error, FileNotFoundError) and target.exists():  # who was first has swept
            return False
        raise UserError(
            f"the file system cannot create a file only if it is absent: {error.strerror}",
            where=str(target),
            hint="It has no hard links. Use a local disk or an object store URL such as s3://bucket/run.",
        ) from error
    return True


def _replace(written: Path, target: Path) -> None:
    """Give a written file the target's name, whatever has it."""
    if written.parent == target.parent:
        os.replace(written, target)
        return
    with contextlib.suppress(FileExistsError):
        _name(written, target)
        return
    with _temporary(target) as beside:  # for as long as it takes to rename it
        _name(written, beside)
        os.replace(beside, target)


def _name(written: Path, target: Path) -> None:
    # The folder of a whole path counts for nothing, but makes Python follow what /proc gives as a link.
    os.link(written.absolute(), target, src_dir_fd=0, follow_symlinks=True)


# Short outages are the client's business, long ones ours. A slow store is waited for.
_CLIENT_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "retries": {"mode": "standard", "max_attempts": 3},
            "connect_timeout": 10,
            "read_timeout": 60,
        }
    }
}


class RemoteFolder:
    """A folder behind an fsspec URL; uploads are whole objects, so every write is atomic."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.base = url
        self.protocol = url.partition("://")[0]
        # Listings must show what other machines wrote a moment ago.
        options = _CLIENT_OPTIONS.get(self.protocol, {})
        self.filesystem, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        self.root = self.root.rstrip("/")

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def read(self, name: str) -> bytes:
        return cast(bytes, patiently(lambda: self.filesystem.cat_file(self.path(name)), self.url(name)))

    def write(self, name: str, data: bytes) -> None:
        patiently(lambda: self.filesystem.pipe_file(self.path(name), data), self.url(name))

    def create(self, name: str, data: bytes) -> bool:
        return patiently(lambda: self._create(name, data), self.url(name))

    def put(self, name: str, file: BinaryIO) -> None:
        with _mapped(file) as data:
            self.write(name, data)

    def put_new(self, name: str, file: BinaryIO) -> bool:
        with _mapped(file) as data:
            return self.create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        # One conditional put of the final key: no rename, nothing to clean up after a crash. An answer that
        # was lost on its way makes us the second writer of our own file, which is as good as any second.
        guard = _MEMORY_LOCK if self.protocol == "memory" else contextlib.nullcontext()
        try:
            with guard:
                self.filesystem.pipe_file(self.path(name), data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or _is_conflict(error):
                return False
            raise
        return True

    def exists(self, name: str) -> bool:
        return bool(patiently(lambda: self.filesystem.exists(self.path(name)), self.url(name)))

    def level(self, folder: str) -> list[str]:
        start = self.path(folder).rstrip("/")
        try:
            found = patiently(lambda: self.filesystem.ls(start, detail=True), self.url(folder))
        except FileNotFoundError:
            return []
        names = [(each["name"].rstrip("/").rpartition("/")[2], each["type"]) for each in found]
        return sorted(f"{folder}{name}{'/' * (kind == 'directory')}" for name, kind in names if name)

    def list(self, prefix: str) -> list[str]:
        folder, _, stem = prefix.rpartition("/")
        start = self.path(folder).rstrip("/")
        # The store picks the names: of a million in a folder it sends those asked for alone. A protocol that
        # knows no prefixes sends all.
        asked = {"prefix": stem} if stem else {}
        try:
            found = patiently(lambda: self.filesystem.find(start, **asked), self.url(prefix))
        except FileNotFoundError:
            return []
        names = [path.removeprefix(self.root).lstrip("/") for path in found]
        return sorted(name for name in names if name.startswith(prefix))

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            patiently(lambda: self.filesystem.rm_file(self.path(name)), self.url(name))

    def sweep(self, prefix: str) -> None:
        """Nothing: what was not sent whole has no name."""

    def open(self, name: str, mode: str) -> BinaryIO:
        return cast(BinaryIO, RemoteFile(self.filesystem, self.path(name), self.url(name)))


@contextlib.contextmanager
def _mapped(file: BinaryIO) -> Iterator[bytes]:
    """A file on disk as its bytes; of a large one the client reads each part as it sends it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= _SENT:
        yield file.read()
        return
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        yield cast(bytes, mapped)


def _is_conflict(error: OSError) -> bool:
    """Whether a conditional put lost: S3 answers 412 when the key exists. 409, a race, is tried again."""
    cause = error.__cause__ or error.__context__
    response = getattr(cause, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")) in ("PreconditionFailed", "412")
