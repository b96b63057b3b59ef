"""The token budget of all who ask together: set aside before a request leaves, settled once it is paid for.

Nobody sends a request whose upper estimate (see `account.bill`) does not fit beside what was spent and what
is set aside for requests under way. So the books end above the budget by no more than what the answers under
way cost beyond their own estimates: by nothing where a server keeps to the longest answer asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from itertools import count

from drspo.llm.journal import Journal

# Seconds beyond a request's own timeout after which nobody is expected to settle it any more.
PATIENCE = 120.0


class Budget:
    """The tokens that its askers may spend beside what the journal says that others have; 0 has no end.

    `journal` is read only. What an asker has spent counts from its settlements, so that no listing that is
    seconds old can hide it; askers that died keep what they had set aside, since it may have been paid.
    """

    def __init__(
        self,
        tokens: int,
        journal: Journal,
        timeout: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tokens, self.journal, self.clock = tokens, journal, clock
        self.spent = 0
        self._patience = timeout + PATIENCE
        self._aside: dict[int, tuple[int, float]] = {}
        self._numbers = count(1)
        self._settled = asyncio.Event()

    async def reserve(self, tokens: int, writer: str) -> int:
        """Set tokens aside for one request of the asker with this journal; gives what `settle` wants back.

        Waits while requests under way may yet turn out to cost less than was set aside; 0 when it cannot fit.
        """
        if not self.tokens:
            return next(self._numbers)
        self.journal.counted.add(writer)
        while True:
            others = await asyncio.to_thread(self.journal.by_others)
            if others + self.spent + tokens + sum(aside for aside, _ in self._aside.values()) <= self.tokens:
                number = next(self._numbers)
                self._aside[number] = (tokens, self.clock())
                return number
            waits = [began + self._patience - self.clock() for _, began in self._aside.values()]
            waits = [seconds for seconds in waits if seconds > 0]
            if not waits or others + self.spent + tokens > self.tokens:
                return 0
            settled = self._settled
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(settled.wait(), min(waits))

    async def settle(self, number: int, used: int) -> None:
        """Say what a request has cost in the end."""
        if self._aside.pop(number, None) is None:
            return
        self.spent += used
        self._settled.set()
        self._settled = asyncio.Event()
