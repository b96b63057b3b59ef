"""In which order windows run, and when each may be back-propagated: integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from generate.canvas.windows import Window


@dataclass(frozen=True, slots=True)
class WindowOrder:
    """Micro-batches of window indices in running order, and which micro-batches are complete after each."""

    groups: tuple[tuple[int, ...], ...]
    release: tuple[tuple[int, ...], ...]

    @property
    def peak(self) -> int:
        """Most windows alive at once when running in this order."""
        alive, peak = 0, 0
        for group, done in zip(self.groups, self.release, strict=True):
            alive += len(group)
            peak = max(peak, alive)
            alive -= sum(len(self.groups[k]) for k in done)
        return peak


@lru_cache(maxsize=64)
def window_order(windows: tuple[Window, ...], micro_batch: int = 1) -> WindowOrder:
    """The order with the fewest windows alive, of row by row and column by column.

    A micro-batch is complete when the last window that overlaps any of its windows has run. On one row of
    windows, micro-batches of one, that keeps ceil(window / stride) alive; on a grid about one strip along its
    shorter side.
    """
    by_row = sorted(range(len(windows)), key=lambda i: (windows[i].y0, windows[i].x0))
    by_column = sorted(range(len(windows)), key=lambda i: (windows[i].x0, windows[i].y0))
    orders = [_grouped(windows, order, micro_batch) for order in (by_row, by_column)]
    return min(orders, key=lambda order: order.peak)


def _grouped(windows: Sequence[Window], order: Sequence[int], micro_batch: int) -> WindowOrder:
    groups = [tuple(order[k : k + micro_batch]) for k in range(0, len(order), micro_batch)]
    step_of = {index: step for step, group in enumerate(groups) for index in group}
    last = [max(step_of[j] for i in group for j in _overlapping(windows, i)) for group in groups]
    release = [tuple(k for k, end in enumerate(last) if end == step) for step in range(len(groups))]
    return WindowOrder(tuple(groups), tuple(release))


def _overlapping(windows: Sequence[Window], index: int) -> list[int]:
    """The windows that share at least one latent with this one, itself included."""
    a = windows[index]
    return [j for j, b in enumerate(windows) if a.y0 < b.y1 and b.y0 < a.y1 and a.x0 < b.x1 and b.x0 < a.x1]
