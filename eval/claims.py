"""Who works on what: any number of processes share a run folder, on one machine or on many.

A claim is a file that only the first can create, rewritten now and then by its owner as a sign of life.
What a dead owner claimed is free after a while of silence, measured by whoever waits, so that clocks need
not agree. Results are written whole and are functions of their request: a claim that fails to keep two apart
costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

from drspo.files.storage import Storage

FOLDER = "claims/"
BEAT = 15.0
"""Seconds between signs of life."""
SILENCE = 60.0
"""Seconds without one after which a claim is free."""


class Claims:
    """This process's claims in a run folder."""

    def __init__(self, storage: Storage, *, beat: float = BEAT, silence: float = SILENCE) -> None:
        self.storage, self.beat, self.silence = storage, beat, silence
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._heard: dict[str, tuple[bytes, float]] = {}

    @contextmanager
    def hold(self, task: str) -> Iterator[bool]:
        """True where the task is ours until the block ends, False where a living process has it."""
        name = self._take(task)
        if name is None:
            yield False
            return
        ended = threading.Event()
        beating = threading.Thread(target=self._live, args=(name, ended), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            ended.set()
            beating.join()
            self.storage.delete(name)

    def _take(self, task: str) -> str | None:
        """The name of our claim; None while somebody else's lives. A dead one is removed by who met it."""
        name = f"{FOLDER}{task}.json"
        if self.storage.create(name, self._sign(0)):
            return name
        try:
            said = self.storage.read(name)
        except FileNotFoundError:  # given back just now: the next look will find it free
            return None
        heard, since = self._heard.get(name, (b"", 0.0))
        if heard != said:
            self._heard[name] = (said, time.monotonic())
        elif time.monotonic() - since > self.silence:
            del self._heard[name]
            self.storage.delete(name)
            return name if self.storage.create(name, self._sign(0)) else None
        return None

    def _live(self, name: str, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self.beat):
            count += 1
            self.storage.write(name, self._sign(count))

    def _sign(self, count: int) -> bytes:
        return json.dumps({"owner": self.owner, "beat": count}).encode()


def share(
    claims: Claims,
    tasks: Sequence[str],
    present: Callable[[], Container[str]],
    work: Callable[[str], None],
    *,
    wait: float = 1.0,
) -> None:
    """Works on tasks that nobody has claimed until all are done, by us or by others.

    `present` gives what is done, in one look at the folder. Where all that is left is others' work, waits
    for it, and takes over what falls silent.
    """
    while True:
        finished = present()
        left = [task for task in tasks if task not in finished]
        if not left:
            return
        worked = False
        for task in left:
            with claims.hold(task) as ours:
                # Somebody may have finished it between our look and our claim.
                if ours and task not in present():
                    work(task)
                    worked = True
        if not worked:
            time.sleep(wait)
