"""The file format of the journal: a line for every request that cost something and for every verdict.

A segment is text: the length of its index in 16 digits, the index, the lines, all JSON. The index alone
answers what a segment cost and where a verdict stands, so neither question reads the lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Literal

import numpy as np

Kind = Literal["ok", "refusal", "unreadable", "lost", "withdrawn"]
KINDS = ("ok", "refusal", "unreadable", "lost", "withdrawn")
VERDICTS = ("ok", "refusal", "unreadable")
_HASH = re.compile("[0-9a-f]{32}")
_DIGITS = 16
_FIRST_READ = 1 << 16  # a small segment's index is had with one read


@dataclass(frozen=True, kw_only=True)
class Books:
    """What requests cost: tokens that the server reported, and tokens that we had to estimate."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    estimated_requests: int = 0

    def __add__(self, other: Books) -> Books:
        return Books(**{name: count + getattr(other, name) for name, count in asdict(self).items()})

    @property
    def tokens(self) -> int:
        """All tokens, reported and estimated."""
        return self.prompt_tokens + self.completion_tokens + self.estimated_tokens


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the ledger.

    "ok": an answer; "refusal": the server will not answer this question; "unreadable": nothing that could be
    used, also after asking again; "lost": a request that was paid for and gave no verdict; "withdrawn": a
    verdict that was taken back. A verdict that was paid for by other lines has no requests of its own.
    """

    request_hash: str
    kind: Kind
    content: str = ""
    reason: str = ""
    model: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def is_verdict(self) -> bool:
        return self.kind in VERDICTS

    @property
    def books(self) -> Books:
        if not self.estimated:
            return Books(
                requests=self.requests,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.completion_tokens,
            )
        tokens = self.prompt_tokens + self.completion_tokens
        return Books(requests=self.requests, estimated_tokens=tokens, estimated_requests=self.requests)

    @classmethod
    def read(cls, data: bytes) -> Line:
        """The line in these bytes; ValueError when they hold none."""
        found = json.loads(data)
        kinds = {"requests": int, "prompt_tokens": int, "completion_tokens": int, "estimated": bool}
        try:
            line = cls(**found)
        except TypeError as error:
            raise ValueError(f"no line of the journal: {error}") from None
        if any(type(value) is not kinds.get(name, str) for name, value in asdict(line).items()):
            raise ValueError("a line of the journal has a value of another kind")
        counts = (line.requests, line.prompt_tokens, line.completion_tokens)
        if line.kind not in KINDS or not _HASH.fullmatch(line.request_hash) or min(counts) < 0:
            raise ValueError("a line of the journal has a value that none can have")
        return line


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What the index of a segment says."""

    name: str
    size: int
    books: Books
    refusals: int
    replaces: tuple[str, ...]
    keys: np.ndarray = field(repr=False)
    """The first 64 bits of the verdicts' request hashes, ascending; uint64 [verdicts]."""
    spans: np.ndarray = field(repr=False)
    """Where each verdict's line is: first byte and length; int64 [verdicts, 2]."""

    def places(self, request_hash: str) -> Iterator[tuple[int, int]]:
        """Where the verdict on a question may stand: first byte and length."""
        key = _key(request_hash)
        start = int(np.searchsorted(self.keys, key))
        while start < self.keys.size and self.keys[start] == key:
            yield int(self.spans[start, 0]), int(self.spans[start, 1])
            start += 1


def encode(lines: Sequence[Line], replaces: Sequence[str] = ()) -> bytes:
    """A segment of these lines."""
    written = [json.dumps(asdict(line), ensure_ascii=True).encode() + b"\n" for line in lines]
    verdicts, place = [], 0
    for line, data in zip(lines, written, strict=True):
        if line.is_verdict:
            verdicts.append([line.request_hash[:16], place, len(data)])
        place += len(data)
    index = {
        "books": asdict(_books(lines)),
        "refusals": _refusals(lines),
        "replaces": list(replaces),
        "verdicts": verdicts,
    }
    head = json.dumps(index, separators=(",", ":")).encode() + b"\n"
    return b"".join([b"%0*d\n" % (_DIGITS, len(head)), head, *written])


def decode(data: bytes) -> list[Line]:
    """The lines of a segment; of a damaged one those that can be read."""
    return [line for _, _, line in _readable(data)]


def rescue(name: str, data: bytes) -> Segment:
    """What the index of a damaged segment would say about the lines that can be read."""
    found = list(_readable(data))
    lines = [line for *_, line in found]
    rows = sorted((_key(line.request_hash), start, size) for start, size, line in found if line.is_verdict)
    index = {"books": asdict(_books(lines)), "replaces": [], "refusals": _refusals(lines)}
    return _segment(name, len(data), index, rows)


def _readable(data: bytes) -> Iterator[tuple[int, int, Line]]:
    """First byte, length and content of every line that can be read."""
    start = 0
    for text in data.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            yield start, len(text) + 1, Line.read(text)
        start += len(text) + 1


def _books(lines: Sequence[Line]) -> Books:
    return sum((line.books for line in lines), Books())


def _refusals(lines: Sequence[Line]) -> int:
    return sum(line.is_verdict and line.kind != "ok" for line in lines)


def read_head(name: str, source: bytes | BinaryIO) -> Segment:
    """The index at the beginning of a segment; ValueError for a damaged one."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    first = stream.read(_FIRST_READ)
    if not (first[:_DIGITS].isdigit() and first[_DIGITS : _DIGITS + 1] == b"\n"):
        raise ValueError("no segment of the journal")
    begin = _DIGITS + 1
    end = begin + int(first[:_DIGITS])
    head = first[begin:end] + stream.read(max(0, end - len(first)))
    try:
        index = json.loads(head)
        rows = sorted((_key(key), end + start, length) for key, start, length in index["verdicts"])
        size = stream.seek(0, io.SEEK_END)
        if any(not 0 < start < start + length <= size for _, start, length in rows):
            raise ValueError("the segment is cut off")
        return _segment(name, size, index, rows)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no index of a segment: {error}") from None


def _segment(name: str, size: int, index: dict[str, Any], rows: list[tuple[np.uint64, int, int]]) -> Segment:
    return Segment(
        name=name,
        size=size,
        books=Books(**{name: int(count) for name, count in index["books"].items()}),
        refusals=int(index["refusals"]),
        replaces=tuple(map(str, index["replaces"])),
        keys=np.array([row[0] for row in rows], np.uint64),
        spans=np.array([row[1:] for row in rows], np.int64).reshape(-1, 2),
    )


def _key(request_hash: str) -> np.uint64:
    return np.uint64(int(request_hash[:16], 16))
