"""When a refusal is a verdict on its question, and when it says that the server is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from drspo.llm.reply import Failure

DOUBTS = 5
"""So many questions without an answer, before any has one, are no verdicts; so many refused in words that fit
the whole run end it."""


class Trust:
    """What a server's refusals are worth: nothing until it has answered somebody, so they wait for that.

    One that answered in an earlier start is believed about a few questions, and not when it refuses many, or
    gives garbage, and answers none: it may be another behind the same address by now. Refusals that name
    their question's content are not counted.
    """

    def __init__(self, worked: bool, end: Callable[[Failure], None]) -> None:
        """`worked` says that it has answered before; `end` ends the run for the failure that it is given."""
        self._worked, self._end = worked, end
        self.works = False
        """Whether it has answered since."""
        self._over = False
        self._known = asyncio.Event()  # set when it is known whether the server works at all
        self._doubts: list[Failure] = []
        self._open = self._waiting = self._unanswered = 0

    def opened(self) -> None:
        """A question is asked."""
        self._open += 1

    def closed(self) -> None:
        """A question has come to its end."""
        self._open -= 1
        self._judge()

    def answered(self) -> bool:
        """The server has answered; gives whether that is news."""
        news, self.works = not self.works, True
        self._known.set()
        return news

    def stopped(self) -> None:
        """The run has ended: nobody waits any longer."""
        self._over = True
        self._known.set()

    async def believes(self, error: Exception) -> bool:
        """Whether what became of a question is a verdict on it, once that is known."""
        if self.works:
            return True
        self._waiting += 1
        if not (isinstance(error, Failure) and error.about == "question"):
            self._unanswered += 1
        if isinstance(error, Failure) and error.kind == "doubtful":
            self._doubts.append(error)
        self._judge()
        await self._known.wait()
        self._waiting -= 1
        if not (self._waiting or self.works or self._over):
            self._known.clear()
        return self.works or (self._worked and self._unanswered < DOUBTS)

    def _judge(self) -> None:
        """Decide, when all open questions wait for it or enough were refused."""
        if self.works or self._known.is_set() or not self._waiting:
            return
        alone = self._waiting >= self._open
        if len(self._doubts) >= DOUBTS or (self._doubts and alone and not self._worked):
            self._end(self._doubts[0])
        elif alone:
            self._known.set()
