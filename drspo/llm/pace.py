"""How fast requests may leave: requests and tokens per minute, and pauses the server asks for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from drspo.llm.budget import Budget
from drspo.llm.journal import Journal
from drspo.llm.settings import LLMSettings


class TokenBucket:
    """A bucket that fills evenly up to one minute's worth; `take` waits until the amount is there.

    A rate of 0 means no limit. An amount above the bucket's size waits for a full bucket and leaves a debt,
    so that one large request is slow instead of impossible. Who came first leaves first.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        earlier: TokenBucket | None = None,
    ) -> None:
        """`earlier` is the bucket of an event loop that is over, which this one goes on with."""
        self.per_minute, self.clock, self.sleep = per_minute, clock, sleep
        self.level: float = earlier.level if earlier else per_minute
        self.seen: float = earlier.seen if earlier else clock()
        self.turn = asyncio.Lock()

    def _missing(self, amount: float) -> float:
        now = self.clock()
        self.level = min(self.per_minute, self.level + (now - self.seen) * self.per_minute / 60)
        self.seen = now
        return min(amount, self.per_minute) - self.level

    async def take(self, amount: float) -> None:
        """Wait until `amount` may be spent, then spend it."""
        if self.per_minute <= 0:
            return
        async with self.turn:
            while (missing := self._missing(amount)) > 1e-9:
                await self.sleep(missing * 60 / self.per_minute)
            self.level -= amount

    def give_back(self, amount: float) -> None:
        """Return what was reserved and not used; a negative amount is a correction downwards."""
        self.level = min(self.per_minute, self.level + amount)


class Pace:
    """The one gate every request passes: concurrency, both rates, and the server's Retry-After."""

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float,
        tokens_per_minute: float,
        earlier: Pace | None = None,
    ) -> None:
        """`earlier` is the gate of an event loop that is over, whose rates and pause go on."""
        self.slots = asyncio.Semaphore(concurrency)
        before = (earlier.requests, earlier.tokens) if earlier else (None, None)
        self.requests: TokenBucket = TokenBucket(requests_per_minute, earlier=before[0])
        self.tokens: TokenBucket = TokenBucket(tokens_per_minute, earlier=before[1])
        self.not_before: float = earlier.not_before if earlier else 0.0

    @classmethod
    def of(cls, settings: LLMSettings, earlier: Pace | None = None) -> Pace:
        """The gate for one program alone."""
        return cls(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute, earlier)

    def budget(self, settings: LLMSettings, journal: Journal) -> Budget:
        """The budget of those who pass this gate, for the one with this journal."""
        return Budget(settings.token_budget, journal, settings.timeout)

    async def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved and not used."""
        self.tokens.give_back(tokens)

    async def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet for this many seconds."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)

    async def ready(self, tokens: float) -> None:
        """Wait until a request of about this many tokens may leave."""
        await self.requests.take(1)
        await self.tokens.take(tokens)
        while (wait := self.not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)


def one_after_another(settings: LLMSettings) -> Callable[[], Pace]:
    """Makes the gates of event loops of which each begins when the one before is over: one limit over all."""
    last: list[Pace] = []

    def next_one() -> Pace:
        last[:] = [Pace.of(settings, *last)]
        return last[0]

    return next_one
