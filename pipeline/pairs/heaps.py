"""Rows put in the order of ids, or matched by them, on disk: heaps by an id's first digit, then the next.

Ids are hashes, so that sixteen heaps are about as high; a heap that is too high is put on sixteen more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import polars as pl

from drspo.files.storage import Storage
from pipeline.spill import Spill

ROWS_PER_PART = 1 << 14
"""Rows that are in memory at a time."""
_WAITING = 512  # rows of a heap in memory before they are written
_DEEPEST = 8  # digits of an id that are looked at: enough for billions


def by_unit(storage: Storage, rows: Spill, digit: int = 0) -> Iterator[pl.DataFrame]:
    """The rows in the order of units' ids, in pieces of whole units; a unit's rows stay in their order."""
    if rows.height <= ROWS_PER_PART or digit == _DEEPEST:
        if rows.height:
            yield rows.whole()
        return
    with ExitStack() as opened:
        for _, heap in sorted(_heaps(storage, rows, "unit_id", digit, opened).items()):
            with heap:
                yield from by_unit(storage, heap, digit + 1)


def matched(
    storage: Storage, left: Spill, right: Spill, column: str, digit: int = 0
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The rows of both in pieces; all those with the same id are in one. Where the left has none, none."""
    if max(left.height, right.height) <= ROWS_PER_PART or digit == _DEEPEST:
        if left.height:
            yield left.whole(), right.whole()
        return
    with ExitStack() as opened:
        lefts, rights = (_heaps(storage, rows, column, digit, opened) for rows in (left, right))
        for key, heap in sorted(lefts.items()):
            with heap, rights.get(key) or Spill(storage) as other:
                yield from matched(storage, heap, other, column, digit + 1)


def put_together(pieces: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Small pieces as one, as far as a part goes."""
    waiting: list[pl.DataFrame] = []
    count = 0
    for piece in pieces:
        if waiting and count + piece.height > ROWS_PER_PART:
            yield pl.concat(waiting)
            waiting, count = [], 0
        waiting.append(piece)
        count += piece.height
    if waiting:
        yield pl.concat(waiting)


def _heaps(storage: Storage, rows: Spill, column: str, digit: int, opened: ExitStack) -> dict[str, Spill]:
    """The rows, put on a heap for each digit that their ids have in that place."""
    heaps: dict[str, Spill] = {}
    for piece in rows:
        told = piece.with_columns(_digit=pl.col(column).str.slice(digit, 1))
        for (key,), own in told.group_by("_digit", maintain_order=True):
            if str(key) not in heaps:
                heaps[str(key)] = opened.enter_context(Spill(storage, _WAITING))
            heaps[str(key)].add(own.drop("_digit"))
    return heaps
