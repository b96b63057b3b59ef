"""One gate for the language models of many actors: rates and pauses hold for all of them together."""

from __future__ import annotations

import asyncio
from typing import Any

from drspo.llm.pace import Pace
from drspo.llm.settings import LLMSettings


class Gate:
    """The gate itself, to be an asynchronous actor: its two rates, and until when nobody may ask."""

    def __init__(self, settings: LLMSettings) -> None:
        self.pace = Pace.of(settings)

    async def ready(self, tokens: float) -> None:
        """Wait until a request of about this many tokens may leave."""
        await self.pace.ready(tokens)

    async def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved and not used."""
        await self.pace.give_back(tokens)

    async def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet for this many seconds."""
        await self.pace.pause(seconds)


class SharedPace(Pace):
    """One event loop's way through a gate elsewhere; how many requests are under way is its own affair."""

    def __init__(self, gate: Any, concurrency: int) -> None:
        super().__init__(concurrency, 0, 0)
        self.gate = gate

    async def ready(self, tokens: float) -> None:
        """Wait until a request of about this many tokens may leave."""
        await asyncio.wrap_future(self.gate.ready.remote(tokens).future())

    async def give_back(self, tokens: float) -> None:
        """Return tokens that were reserved and not used."""
        self.gate.give_back.remote(tokens)

    async def pause(self, seconds: float) -> None:
        """Hold back every request that has not left yet for this many seconds."""
        await asyncio.wrap_future(self.gate.pause.remote(seconds).future())
