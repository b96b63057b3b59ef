"""Everything a language model said and cost, in append-only segments with an index.

One `Line` a request that was paid for, one a verdict. Lines that are waiting together are stored as one
segment, a file that never changes; many small segments of one writer are merged into a larger one, so that
a store holds hundreds of files for millions of answers. Each segment begins with an index: where its verdicts
are, what its lines cost, and which segments it replaces. A kill at any moment leaves whole segments only, and
one that is there beside those it replaces counts alone.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from drspo.files.storage import Storage
from drspo.llm.segments import Books, Line, Segment, decode, encode, read_head, rescue

log = logging.getLogger(__name__)

FOLDER = "cache/llm"
FAN_IN = 32  # segments that are merged into one
LARGEST = 64 << 20  # bytes of lines beyond which segments are merged no further
REFRESH = 5.0  # seconds between two looks at what other writers have stored


class Journal:
    """The lines under `folder` of a storage, and one writer's additions; without a storage only in memory."""

    def __init__(self, storage: Storage | None, folder: str = FOLDER) -> None:
        self.storage, self.folder = storage, folder.rstrip("/")
        self.writer = uuid.uuid4().hex[:12]
        self.counted = {self.writer}
        """Writers whose tokens somebody counts as they are spent: none of them is among the others."""
        self._segments: dict[str, Segment] = {}
        self._own: dict[int, list[str]] = {}
        self._recent: dict[str, Line] = {}
        self._in_memory = self._foreign = Books()
        self._written = 0
        self._looked = 0.0
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._servers: set[str] = set()
        self._pending: list[tuple[Sequence[Line], asyncio.Future[None]]] = []
        self._draining: asyncio.Task[None] | None = None

    def get(self, request_hash: str) -> Line | None:
        """The verdict on a question, or None when there is none yet."""
        if (line := self._recent.get(request_hash)) or self.storage is None:
            return line
        self.refresh()
        for segment in list(self._segments.values()):
            for start, length in segment.places(request_hash):
                line = self._line(segment, start, length)
                if line is not None and line.request_hash == request_hash:
                    return line
        return None

    def books(self) -> Books:
        """What all stored lines cost together. Reads the segments' indexes only."""
        self.refresh()
        return sum((segment.books for segment in self._segments.values()), self._in_memory)

    def by_others(self) -> int:
        """The tokens that other writers have spent, now or in earlier starts."""
        self.refresh()
        return self._foreign.tokens

    def knows(self, server: str) -> bool:
        """Whether this server has ever given an answer here."""
        if self.storage is None:
            return server in self._servers
        return self.storage.exists(f"{self.folder}/answered-{server}")

    def remember(self, server: str) -> None:
        """Note that this server has given an answer."""
        self._servers.add(server)
        if self.storage is not None:
            self.storage.create(f"{self.folder}/answered-{server}", b"")

    async def add(self, *lines: Line) -> None:
        """Store lines; returns when they are stored. What is added meanwhile goes into the next segment."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((lines, done))
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        await asyncio.shield(done)

    def write(self, lines: Sequence[Line]) -> None:
        """Store lines as one segment, at once."""
        with self._writing:
            self._write(lines)

    def _write(self, lines: Sequence[Line]) -> None:
        self._recent.update((line.request_hash, line) for line in lines if line.is_verdict)
        if self.storage is None:
            self._in_memory = sum((line.books for line in lines), self._in_memory)
            return
        name = self._name(0)
        data = encode(lines)
        self.storage.create(name, data)
        self._segments[name] = read_head(name, data)
        self._own.setdefault(0, []).append(name)
        self._merge_full()

    def close(self) -> None:
        """Leave one segment where this writer stored many small ones."""
        with self._writing:
            names = self._own.get(0, [])
            if len(names) > 1:
                self._merge(0, names)

    def refresh(self, after: float = REFRESH) -> None:
        """Learn what other writers have stored, when the last look is so many seconds ago."""
        if self.storage is None:
            return
        with self._lock:
            if self._looked and time.monotonic() - self._looked < after:
                return
            names = {name for name in self.storage.list(f"{self.folder}/") if name.endswith(".jsonl")}
            # A listing may be older than what this writer has stored since, which needs no looking up.
            foreign = {name for name in names if self.writer not in name}
            for name in sorted(foreign - self._segments.keys()):
                if (segment := self._head(name)) is not None:
                    self._segments[name] = segment
            gone = {old for segment in list(self._segments.values()) for old in segment.replaces}
            for name in list(self._segments):
                if name in gone or (name not in names and self.writer not in name):
                    self._segments.pop(name, None)
            self._foreign = sum(
                (one.books for one in list(self._segments.values()) if _writer(one.name) not in self.counted),
                Books(),
            )
            self._looked = time.monotonic()

    def withdraw(self, match: str = "") -> int:
        """Take back the verdicts that are no answers and whose reason contains `match`; what they cost stays.

        Gives how many. The questions are asked again.
        """
        self.refresh(0)
        count = 0
        for name, segment in list(self._segments.items()):
            assert self.storage is not None
            if not segment.refusals:
                continue
            lines = decode(self.storage.read(name))
            kept = [_withdrawn(line, match) for line in lines]
            if changed := sum(old is not new for old, new in zip(lines, kept, strict=True)):
                self._replace([name], kept, self._name(0))
                count += changed
        self._recent.clear()
        return count

    async def _drain(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                lines = [line for some, _ in batch for line in some]
                try:
                    await asyncio.to_thread(self.write, lines)
                except Exception as error:
                    _tell(batch, error)
                else:
                    _tell(batch, None)
        except asyncio.CancelledError:
            # Ctrl-C: what was paid for and is still waiting is stored all the same.
            if left := [line for some, _ in self._pending for line in some]:
                self.write(left)
            self._pending = []
            raise
        finally:
            self._draining = None

    def _merge_full(self) -> None:
        for level in sorted(self._own):
            names = [name for name in self._own[level] if self._segments[name].size < LARGEST // FAN_IN]
            if len(names) >= FAN_IN:
                self._merge(level, names)

    def _merge(self, level: int, names: list[str]) -> None:
        assert self.storage is not None
        lines = [line for name in names for line in decode(self.storage.read(name))]
        merged = self._name(level + 1)
        self._replace(names, lines, merged)
        self._own[level] = [name for name in self._own[level] if name not in names]
        self._own.setdefault(level + 1, []).append(merged)
        if level == 0:  # from here on they are looked up where they are stored
            self._recent = {}

    def _replace(self, names: list[str], lines: Sequence[Line], merged: str) -> None:
        """Store `lines` as one segment instead of the named ones, which go only when it is there."""
        assert self.storage is not None
        data = encode(lines, replaces=names)
        self.storage.create(merged, data)
        self._segments[merged] = read_head(merged, data)
        for name in names:
            self._segments.pop(name, None)
            self.storage.delete(name)

    def _name(self, level: int) -> str:
        self._written += 1
        return f"{self.folder}/{level}-{self.writer}-{self._written:06d}.jsonl"

    def _head(self, name: str) -> Segment | None:
        assert self.storage is not None
        try:
            with self.storage.open(name) as stream:
                return read_head(name, stream)
        except FileNotFoundError:  # merged meanwhile: the next look finds where its lines went
            return None
        except ValueError:
            log.warning("%s is damaged; what of it can be read counts", self.storage.url(name))
            return rescue(name, self.storage.read(name))

    def _line(self, segment: Segment, start: int, length: int) -> Line | None:
        assert self.storage is not None
        try:
            with self.storage.open(segment.name) as stream:
                stream.seek(start)
                return Line.read(stream.read(length))
        except (FileNotFoundError, ValueError):
            return None


def _writer(name: str) -> str:
    """Who stored a segment, by its name: folder/level-writer-number.jsonl."""
    return name.rpartition("/")[2].split("-")[1] if name.count("-") >= 2 else ""


def _withdrawn(line: Line, match: str) -> Line:
    refused = line.is_verdict and line.kind != "ok" and match in line.reason
    return replace(line, kind="withdrawn") if refused else line


def _tell(batch: list[tuple[Sequence[Line], asyncio.Future[None]]], error: Exception | None) -> None:
    for _, future in batch:
        if not future.done():
            future.set_result(None) if error is None else future.set_exception(error)
