"""One run per folder: a lock that names its owner, and that a dead owner does not keep."""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from drspo.errors import UserError

log = logging.getLogger(__name__)

NAME = "lock.json"
BEAT = 20.0
"""Seconds between signs of life."""
SILENCE = 120.0
"""Seconds without one after which an owner on another machine counts as dead."""


class FolderLock:
    """Held from `acquire` to `release`; OUT/lock.json says by whom.

    On one machine the kernel keeps the lock and drops it with its process, however that ends. Another machine
    may share the folder but not the kernel's lock, so the owner also touches the file now and then.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(folder)) / NAME
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Takes the lock; `UserError` that names the owner where another run holds it. What a dead owner left
        is taken over, which the log says."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file, kernel = self._opened()
        found = _owner(file)
        host = socket.gethostname()
        alive = bool(found) and time.time() - self.path.stat().st_mtime < SILENCE
        if alive and not (kernel and found["host"] == host):
            file.close()
            raise self._held(found)
        if found:
            log.warning("taking over the lock of %s, which ended without giving it back", _who(found))
        file.seek(0)
        file.truncate()
        json.dump({"host": host, "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        self._file = file
        threading.Thread(target=self._beat, daemon=True, name="folder-lock").start()

    def release(self) -> None:
        """Gives the lock back and removes its file."""
        if self._file is None:
            return
        self._ended.set()
        self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _opened(self) -> tuple[IO[str], bool]:
        """The lock's file, and whether the kernel locked it, which some shared file systems cannot."""
        while True:
            file = self.path.open("a+")  # noqa: SIM115  # stays open as long as the lock is held
            kernel = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = _owner(file)
                file.close()
                raise self._held(found) from None
            except OSError:
                kernel = False  # then only signs of life are looked at
            # Its owner may have removed the file between our opening and locking it: then it is no longer
            # the one that the next run will open.
            with suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == self.path.stat().st_ino:
                    return file, kernel
            file.close()

    def _held(self, found: dict[str, Any]) -> UserError:
        hint = "wait for it or end it, or choose another --out"
        if found.get("host") != socket.gethostname():
            hint += f"; if it is dead, try again in {SILENCE / 60:g} minutes"
        return UserError(f"another run works in this folder: {_who(found)}", str(self.path.parent), hint)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path)


def _owner(file: IO[str]) -> dict[str, Any]:
    """What the file says of its owner; empty where it says nothing, as a new one."""
    file.seek(0)
    try:
        found = json.loads(file.read())
        return {"host": str(found["host"]), "pid": int(found["pid"]), "since": str(found["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _who(found: dict[str, Any]) -> str:
    if not found:
        return "one that has just begun"
    return f"process {found['pid']} on {found['host']}, since {found['since']}"
