"""One gate for the language models of many actors: rates, pauses and the budget hold for all together.

It also knows how far the blocks of prompts are, so that none is asked long after enough prompts were found.
"""

from __future__ import annotations

import asyncio
from typing import Any

from drspo.files.storage import Storage
from drspo.llm.budget import Budget
from drspo.llm.journal import Journal
from drspo.llm.pace import Pace
from drspo.llm.settings import LLMSettings


class Gate:
    """The gate itself, to be an asynchronous actor: its two rates, until when nobody may ask, the budget.

    `askers` is how many actors ask a block each at a time, and `url` the run whose journal says what was
    spent before and by others.
    """

    def __init__(self, settings: LLMSettings, url: str = "", askers: int = 1) -> None:
        self.pace = Pace.of(settings)
        self.budget = self.pace.budget(settings, Journal(Storage(url) if url else None))
        self.ahead = 2 * askers
        self.finished, self.finishers, self.ended = 0, 0, False
        self.moved = asyncio.Condition()

    async def ready(self, tokens: float) -> None:
        """Wait until a request of about this many tokens may leave."""
        await self.pace.ready(tokens)

    async def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved and not used."""
        await self.pace.give_back(tokens)

    async def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet for this many seconds."""
        await self.pace.pause(seconds)

    async def reserve(self, tokens: int, writer: str) -> int:
        """Set tokens of the budget aside for one request; 0 when they do not fit."""
        return await self.budget.reserve(tokens, writer)

    async def settle(self, number: int, used: int) -> None:
        """Say what a request has cost in the end."""
        await self.budget.settle(number, used)

    async def may_ask(self, block: int) -> bool:
        """Whether a block is to be asked, once it is less than two for each asker ahead of those finished."""
        async with self.moved:
            await self.moved.wait_for(lambda: self.ended or block < self.finished + self.ahead)
            return not self.ended

    async def begin(self) -> None:
        """A finisher begins. What an earlier one had in its memory is lost, so nobody waits for that."""
        self.finishers += 1
        await self.progress(self.finished, self.finishers > 1)

    async def progress(self, finished: int, ended: bool) -> None:
        """Say how many blocks are finished, and whether no further one can be or need be."""
        async with self.moved:
            self.finished, self.ended = max(self.finished, finished), self.ended or ended
            self.moved.notify_all()


class SharedPace(Pace):
    """One event loop's way through a gate elsewhere; how many requests are under way is its own affair."""

    def __init__(self, gate: Any, concurrency: int) -> None:
        super().__init__(concurrency, 0, 0)
        self.gate = gate

    def budget(self, settings: LLMSettings, journal: Journal) -> Budget:
        """The gate's budget; one of one's own where it has no end."""
        return SharedBudget(self.gate, journal) if settings.token_budget else Budget(0, journal)

    async def ready(self, tokens: float) -> None:
        """Wait until a request of about this many tokens may leave."""
        await _answer(self.gate.ready.remote(tokens))

    async def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved and not used."""
        self.gate.give_back.remote(tokens)

    async def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet for this many seconds."""
        await _answer(self.gate.pause.remote(seconds))


class SharedBudget(Budget):
    """One asker's way to the budget that a gate holds."""

    def __init__(self, gate: Any, journal: Journal) -> None:
        super().__init__(0, journal)
        self.gate = gate

    async def reserve(self, tokens: int, writer: str) -> int:
        """Set tokens of the budget aside for one request; 0 when they do not fit."""
        return int(await _answer(self.gate.reserve.remote(tokens, writer)))

    async def settle(self, number: int, used: int) -> None:
        """Say what a request has cost in the end."""
        self.gate.settle.remote(number, used)


async def _answer(call: Any) -> Any:
    return await asyncio.wrap_future(call.future())
