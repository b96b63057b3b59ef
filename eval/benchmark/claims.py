"""Who works on what: any number of processes share a run folder, on one machine or on many.

A claim is a file that only the first can create, rewritten now and then by its owner as a sign of life.
What a dead owner claimed is free after a while of silence, measured by whoever waits, so that clocks need
not agree. It is taken over by creating the next number beside it, which again only one can do; nobody removes
what another may still hold. An owner that was only asleep may finish as well: it creates its result too late.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

from drspo.files.storage import Storage

log = logging.getLogger(__name__)
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
            self._give_back(task, name)

    def _take(self, task: str) -> str | None:
        """The name of our claim; None while somebody else's lives."""
        there = self._numbered(task)
        if not there:
            return self._create(task, 0)
        newest = max(there)
        name = there[newest]
        try:
            said = self.storage.read(name)
        except FileNotFoundError:  # given back just now: the next look will find it free
            return None
        heard, since = self._heard.get(name, (b"", 0.0))
        if heard != said:
            self._heard[name] = (said, time.monotonic())
        elif time.monotonic() - since > self.silence:
            del self._heard[name]
            return self._create(task, newest + 1)
        return None

    def _create(self, task: str, number: int) -> str | None:
        name = f"{FOLDER}{task}/{number}.json"
        return name if self.storage.create(name, self._sign(0)) else None

    def _give_back(self, task: str, name: str) -> None:
        """Removes our claim and the dead ones under it, ours last; leaves all to who took it over from us."""
        there = self._numbered(task)
        if there and there[max(there)] == name:
            for number in sorted(there):
                self.storage.delete(there[number])

    def _numbered(self, task: str) -> dict[int, str]:
        """{number: file} of the claims on a task, the highest of which counts."""
        folder = f"{FOLDER}{task}/"
        named = {name.removeprefix(folder).removesuffix(".json"): name for name in self.storage.list(folder)}
        return {int(number): name for number, name in named.items() if number.isdecimal()}

    def _live(self, name: str, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self.beat):
            count += 1
            try:
                self.storage.write(name, self._sign(count))
            except Exception as error:  # a store that fails for a moment must not end the signs of life
                log.warning("no sign of life could be written: %s", error)

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
