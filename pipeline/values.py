"""Numbers in ascending order, however many: runs of them lie sorted on disk and are merged there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

import numpy as np

RUN = 1 << 17
"""Numbers that are in memory at a time; so few need no file."""
_LEAF = 1 << 16  # numbers that are summed at once
_LEAST = 256  # numbers of a run that a merge has at a time
_BYTES = 8


class Values:
    """Finite numbers: all are added, in any order, then they are read in ascending order.

    They lie in files without names, gone when this is closed.
    """

    def __init__(self, spool: Callable[[], BinaryIO] = tempfile.TemporaryFile) -> None:
        """`spool` opens such a file."""
        self.size = 0
        self._spool = spool
        self._opened = ExitStack()
        self._waiting: list[np.ndarray] = []
        self._count = 0
        self._runs: list[int] = []
        self._file: BinaryIO | None = None
        self._sorted = False

    def __enter__(self) -> Values:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk back."""
        self._opened.close()

    def add(self, values: np.ndarray) -> None:
        """Add numbers. Raises ValueError once some were read."""
        if self._sorted:
            raise ValueError("numbers are added before any is read")
        for start in range(0, values.size, RUN):
            some = values[start : start + RUN].astype(float)
            self._waiting.append(some)
            self._count += some.size
            self.size += some.size
            if self._count >= RUN:
                self._flush()

    def read(self, start: int, count: int) -> np.ndarray:
        """So many numbers from the `start`-th smallest on, counted from 0."""
        self._sort()
        if self._file is None:
            return self._waiting[0][start : start + count]
        return _read(self._file, start, count)

    def at(self, place: int) -> float:
        """The `place`-th smallest, counted from 0."""
        return float(self.read(place, 1)[0])

    def above(self, limit: float) -> int:
        """How many are larger."""
        return sum(int((some > limit).sum()) for some in self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        """All numbers, some at a time."""
        return (self.read(start, min(_LEAF, self.size - start)) for start in range(0, self.size, _LEAF))

    def mean(self) -> float:
        """Their mean, to the bit that of NumPy, and a number too where that has none."""
        unit = self._unit()
        return float(self._sum(0, self.size, lambda some: some / unit) / self.size) * unit

    def deviation(self) -> float:
        """Their standard deviation, to the bit that of NumPy, and a number too where that has none."""
        unit = self._unit()
        mean = self.mean() / unit
        squares = self._sum(0, self.size, lambda some: np.square(some / unit - mean))
        return float(np.sqrt(squares / self.size)) * unit

    def quantile(self, share: float) -> float:
        """The number below which such a share of them lies, between two of them where that is so."""
        place, unit = (self.size - 1) * share, self._unit()
        return float(np.quantile(self.read(int(place), 2) / unit, place - int(place))) * unit

    def _unit(self) -> float:
        """1, or a power of two in which the squares of huge numbers are numbers too."""
        return 2.0**540 if max(-self.at(0), self.at(self.size - 1)) > 2.0**480 else 1.0

    def _sum(self, start: int, count: int, of: Callable[[np.ndarray], np.ndarray]) -> np.float64:
        """Halved as NumPy halves an array that it sums, so that the rounding is the same."""
        if count <= _LEAF:
            return np.float64(np.add.reduce(of(self.read(start, count))))
        half = count // 2 - count // 2 % 8
        return self._sum(start, half, of) + self._sum(start + half, count - half, of)

    def _flush(self) -> None:
        """Write what waits in memory as one more run."""
        if self._file is None:
            self._file = self._opened.enter_context(self._spool())
        self._file.write(np.sort(np.concatenate(self._waiting)).data)
        self._runs.append(self._count)
        self._waiting, self._count = [], 0

    def _sort(self) -> None:
        """Put all numbers in one order: in memory where they have never left it."""
        if self._sorted:
            return
        self._sorted = True
        if self._file is None:
            self._waiting = [np.sort(np.concatenate(self._waiting)) if self._waiting else np.zeros(0)]
            return
        if self._count:
            self._flush()
        merged = self._opened.enter_context(self._spool())
        for some in _merged(self._file, self._runs):
            merged.write(some.data)
        self._file.close()
        self._file = merged


def _merged(file: BinaryIO, runs: Sequence[int]) -> Iterator[np.ndarray]:
    """The numbers of sorted runs, which lie one behind the other, in one order."""
    share = max(_LEAST, RUN // len(runs))
    ends = np.cumsum(runs).tolist()
    places = [end - size for end, size in zip(ends, runs, strict=True)]
    held = [np.zeros(0)] * len(runs)
    while True:
        for index, end in enumerate(ends):
            if not held[index].size and places[index] < end:
                held[index] = _read(file, places[index], min(share, end - places[index]))
                places[index] += held[index].size
        # What is on disk yet is no smaller than the last number that is here of its run.
        last = [some[-1] for some, place, end in zip(held, places, ends, strict=True) if place < end]
        if not last:
            yield np.sort(np.concatenate(held))
            return
        cuts = [int(np.searchsorted(some, min(last), "right")) for some in held]
        yield np.sort(np.concatenate([some[:cut] for some, cut in zip(held, cuts, strict=True)]))
        held = [some[cut:] for some, cut in zip(held, cuts, strict=True)]


def _read(file: BinaryIO, start: int, count: int) -> np.ndarray:
    file.seek(start * _BYTES)
    return np.frombuffer(file.read(count * _BYTES))
