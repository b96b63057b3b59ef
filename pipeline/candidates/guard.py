"""The guard around each model stage: a prompt that crashes or hangs workers becomes one dead row.

Ray restarts a dead actor and runs its task again, for ever. So each attempt is written down on the
run's storage before the model starts, and removed after it; what is still there was not survived.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

from drspo.files.private import open_unlinked, private_folder
from drspo.files.storage import Storage
from pipeline.settings import GuardSettings

log = logging.getLogger(__name__)

EXIT_DEADLINE = 86


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one prompt in one stage, as it stands on the storage while it runs."""

    session: str
    host: str
    pid: int
    pid_started: str
    time: float
    cause: str = ""
    memory_kills: int = -1
    """How many processes the kernel had killed for want of memory by then; -1 where it does not say."""
    node: str = ""
    """The cluster's node, where there is a cluster."""


class PoisonedError(Exception):
    """This prompt took too many workers down; it is not tried again."""


class Guard:
    """The attempt ledger and the watchdog of one worker. `session` names the driver's run."""

    def __init__(
        self,
        storage: Storage,
        settings: GuardSettings,
        session: str,
        on_deadline: Callable[[], None] | None = None,
    ) -> None:
        self.storage = storage
        self.settings = settings
        self.session = session
        self.on_deadline = on_deadline or _leave
        self.node = ""
        self.is_lost: Callable[[str], bool] = lambda node: False
        self.excused = False
        self._open: set[str] = set()
        _record_faults(os.getpid())

    @contextlib.contextmanager
    def attempt(self, unit: str, part: str) -> Iterator[None]:
        """Run the body as one attempt. Raises PoisonedError instead when it was fatal too often."""
        prefix = f"attempts/{unit}.{part}."
        self._refuse_poison(prefix)
        name = f"{prefix}{uuid.uuid4().hex}.json"
        self._open.add(name)
        self._write(name, self._mine())
        if self.excused:
            self.storage.delete(name)
        watchdog = threading.Timer(self.settings.deadline, self._expire, (name,))
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            self._open.discard(name)
            self.storage.delete(name)

    def on_node(self, node: str, is_lost: Callable[[str], bool]) -> None:
        """Say on which node of a cluster this worker is, and how it can ask whether one was lost."""
        self.node, self.is_lost = node, is_lost

    def excuse(self) -> None:
        """Hold no death of this worker against a prompt from now on: its machine is being taken away."""
        self.excused = True
        for name in tuple(self._open):
            self.storage.delete(name)

    def _refuse_poison(self, prefix: str) -> None:
        deaths = [
            self._explained(name, one) for name, one in _ledger(self.storage, prefix) if self._over(one)
        ]
        # Whoever kills a driver says nothing about the prompt that it was at.
        deaths = [death for death in deaths if death.cause]
        if sum(self._weight(death) for death in deaths) < 1 - 1e-9:
            return
        causes = sorted({death.cause for death in deaths})
        raise PoisonedError(f"took {len(deaths)} workers down: {'; '.join(causes)}")

    def _explained(self, name: str, attempt: Attempt) -> Attempt:
        """The attempt with what ended it; without a cause where it ended together with its driver.

        A worker that is gone while its driver lives died alone. That is written down at once, since no later
        start could tell it from a worker that was ended together with its driver.
        """
        if attempt.cause:
            return attempt
        cause = _last_words(attempt)
        if not cause and attempt.session == self.session:
            cause = LOST if attempt.node and self.is_lost(attempt.node) else UNEXPLAINED
        if cause:
            self._write(name, replace(attempt, cause=cause))
        elif _memory_ran_out(attempt):
            cause = MEMORY
        return replace(attempt, cause=cause)

    def _weight(self, death: Attempt) -> float:
        """A hang or a crash of its own counts fully; a death that may be the machine's fault, less; one
        together with its node, least."""
        if death.cause == LOST:
            return 1 / (4 * self.settings.attempts)
        alone = death.cause not in (UNEXPLAINED, MEMORY)
        return 1 / (self.settings.attempts if alone else self.settings.attempts + 1)

    def _over(self, attempt: Attempt) -> bool:
        """Whether the attempt is over: another copy of the job may be at work on the same prompt."""
        if attempt.cause or attempt.session == self.session:
            return True
        if attempt.host == socket.gethostname():
            return process_start(attempt.pid) != attempt.pid_started
        return time.time() - attempt.time > self.settings.deadline + 60

    def _mine(self) -> Attempt:
        pid = os.getpid()
        host = socket.gethostname()
        started = process_start(pid)
        return Attempt(
            session=self.session,
            host=host,
            pid=pid,
            pid_started=started,
            time=time.time(),
            memory_kills=memory_kills(),
            node=self.node,
        )

    def _write(self, name: str, attempt: Attempt) -> None:
        self.storage.write(name, json.dumps(asdict(attempt)).encode())

    def _expire(self, name: str) -> None:
        cause = f"no answer within {self.settings.deadline:g} s"
        with contextlib.suppress(Exception):
            self._write(name, replace(self._mine(), cause=cause))
        log.error("%s: %s; this worker ends itself", name, cause)
        self.on_deadline()


UNEXPLAINED = "the worker died without a word (killed, out of memory, or its machine was lost)"
LOST = "the worker was lost with its node"
MEMORY = "the process ended without a word while the kernel killed for want of memory"


def _leave() -> None:
    os._exit(EXIT_DEADLINE)


def read_attempts(storage: Storage, prefix: str = "attempts/") -> list[Attempt]:
    """The attempts written down under a prefix of the ledger; those removed meanwhile are left out."""
    return [attempt for _, attempt in _ledger(storage, prefix)]


def _ledger(storage: Storage, prefix: str) -> list[tuple[str, Attempt]]:
    found = []
    for name in storage.list(prefix):
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            found.append((name, Attempt(**json.loads(storage.read(name)))))
    return found


def units_with_attempts(storage: Storage) -> set[str]:
    """The units that were in flight when a worker ended: they are tried last."""
    names = [name for name in storage.list("attempts/") if name.endswith(".json")]
    return {name.removeprefix("attempts/").partition(".")[0] for name in names}


def process_start(pid: int) -> str:
    """When the process started, in the kernel's ticks; empty when there is none.

    A pid alone is not an identity: numbers are used again. Where /proc is missing, the pid has to do.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "running" if not Path("/proc/self").exists() else ""


def fault_file(pid: int) -> Path:
    """Where a worker's last words are written when it crashes in native code."""
    return private_folder("faults") / f"{pid}.txt"


@functools.cache
def _record_faults(pid: int) -> TextIO:
    """Send the interpreter's crash report to a file, where the next attempt finds it.

    The cache keeps the stream open for the life of the process, and makes one per process.
    """
    stream = open_unlinked(fault_file(pid), "w")
    faulthandler.enable(file=stream)
    return stream


def memory_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory; -1 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return -1
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), -1)


def _memory_ran_out(attempt: Attempt) -> bool:
    """Whether the kernel has killed for want of memory on this machine since the attempt began."""
    return attempt.host == socket.gethostname() and 0 <= attempt.memory_kills < memory_kills()


def _last_words(attempt: Attempt) -> str:
    """What the worker's interpreter wrote as it crashed; empty when it did not, or not on this machine."""
    if attempt.host != socket.gethostname():
        return ""
    try:
        first = fault_file(attempt.pid).read_text(errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return first.removeprefix("Fatal Python error: ")
