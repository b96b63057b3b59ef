"""The stages of phases 2 and 3: callables from row dicts to row dicts, the same for every executor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.llm.ask import LLM
from drspo.llm.pace import Pace
from drspo.llm.settings import LLMSettings
from drspo.registry import lookup
from pipeline import EXPANDERS, FILTERS
from pipeline.ideas.answers import checked_expansion, checked_verdict
from pipeline.ideas.expanders import ExpandSettings
from pipeline.ideas.filters import FilterSettings
from pipeline.plugins import WrongAnswerError, contained, describe
from pipeline.records import DEAD, OK, prompt_id

Row = dict[str, Any]
NewPace = Callable[[], Pace]  # a gate of one event loop
KEEPS_THE_IDEA = ("none", "grammar")  # expanders whose prompts show what the idea names, only more of it


class TextStage:
    """What both stages share: one event loop, and one language model, made on first use."""

    batch_rows = 4096
    names: Sequence[str] = ()
    """of what the stage calls, for messages"""

    def __init__(self, llm: LLMSettings, storage: Storage | str, pace: NewPace | None = None) -> None:
        self._settings, self._storage, self._pace = llm, storage, pace
        self._model: LLM | None = None
        self._runner: asyncio.Runner | None = None

    def __call__(self, rows: list[Row]) -> list[Row]:
        """The rows after this stage, from ordinary code; call `batch` from a running event loop instead."""
        self._runner = self._runner or asyncio.Runner()
        try:
            return self._runner.run(self.batch(rows))
        except SystemExit as error:  # of a task that a plugin began: the loop ends without saying whose row
            raise UserError(
                f"a plugin tried to end the program ({describe(error)})",
                ", ".join(self.names),
                "It does so in a task of its own, where no row can answer for it.",
            ) from error

    async def batch(self, rows: list[Row]) -> list[Row]:
        """The rows after this stage, all under way at once, in order."""
        done = await asyncio.gather(*map(self._guarded, rows), return_exceptions=True)
        task, found = asyncio.current_task(), []
        for row, outcome in zip(rows, done, strict=True):
            if isinstance(outcome, asyncio.CancelledError) and not (task and task.cancelling()):
                # Nobody ordered it: the row's own task did.
                whose = " or ".join(map(_short, self.names))
                found.append({**row, "status": DEAD, "reason": f"{whose}: it cancelled its own task"})
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found += outcome
        return found

    def report(self) -> dict[str, Any]:
        """What the language model did for this stage: requests, tokens, cost, failures; empty without one."""
        return asdict(self._model.report) if self._model else {}

    def close(self) -> None:
        """End the stage's connections and its event loop."""
        if self._runner is not None:
            if self._model is not None:
                self._runner.run(self._model.close())
            self._runner.close()
            self._runner = None

    def __enter__(self) -> TextStage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _llm(self) -> LLM:
        if self._model is None:
            storage = self._storage if isinstance(self._storage, Storage) else Storage(self._storage)
            self._model = LLM(self._settings, storage, pace=self._pace() if self._pace else None)
        return self._model

    async def _guarded(self, row: Row) -> list[Row]:
        """The row's outcome; a failure of a plugin kills the row, a UserError ends the run."""
        if row["status"] != OK:
            return [row]
        try:
            return await self._one(row)
        except WrongAnswerError as error:
            return [{**row, "status": DEAD, "reason": describe(error)}]

    async def _one(self, row: Row) -> list[Row]:
        raise NotImplementedError


class ExpandStage(TextStage):
    """Idea rows in; for each, its prompts or one dropped or dead row out."""

    def __init__(
        self,
        settings: ExpandSettings,
        llm: LLMSettings,
        storage: Storage | str,
        pace: NewPace | None = None,
    ) -> None:
        super().__init__(llm, storage, pace)
        if settings.per_idea < 1:
            raise UserError(f"{settings.per_idea} prompts per idea leave nothing", "--expand.per-idea")
        made = lookup(EXPANDERS, settings.expander, "expander")(settings, self._llm)
        self.expander = _checked(made, settings.expander)
        self.names = (settings.expander,)

    async def _one(self, row: Row) -> list[Row]:
        with contained(_short(self.names[0]), UserError):
            found = checked_expansion(await self.expander.expand(dict(row)))
        marks = {"expander": self.expander.name, "model": found.model, "request_hash": found.request_hash}
        if not found.prompts:
            return [{**row, **marks, "status": found.status, "reason": found.reason}]
        return [{**row, **marks, **_child(row, text)} for text in found.prompts]


class FilterStage(TextStage):
    """Rows in, the same rows out, those that a filter objects to as dropped.

    `what` is shown: "idea", rows before they are expanded, or "prompt", rows after it. `asking` takes only
    the filters that cost questions to a language model, or only those that do not; None takes all.
    """

    def __init__(
        self,
        settings: FilterSettings,
        llm: LLMSettings,
        storage: Storage | str,
        what: Literal["idea", "prompt"] = "prompt",
        asking: bool | None = None,
        pace: NewPace | None = None,
    ) -> None:
        super().__init__(llm, storage, pace)
        self.what = what
        found: list[Any] = [(name, lookup(FILTERS, name, "filter")) for name in settings.filters]
        shown = [(name, f) for name, f in found if what in getattr(f, "judges", ("prompt",))]
        chosen = [(name, f) for name, f in shown if asking is None or getattr(f, "asks", False) == asking]
        self.filters: list[tuple[str, Any]] = [
            (name, f(settings, self._llm) if isinstance(f, type) else f) for name, f in chosen
        ]
        self.names = tuple(name for name, _ in chosen)

    async def _one(self, row: Row) -> list[Row]:
        kept = self.what == "prompt" and row["expander"] in KEEPS_THE_IDEA
        for name, judge in self.filters:
            if kept and "idea" in getattr(judge, "judges", ()):
                continue  # it has judged the idea, and nothing of that is lost
            with contained(_short(name), UserError):
                verdict = judge(dict(row))
                verdict = await verdict if isinstance(verdict, Awaitable) else verdict
                objection = checked_verdict(verdict)
            if objection is not None:
                return [{**row, "status": objection.status, "reason": objection.reason}]
        return [row]


def _checked(expander: Any, target: str) -> Any:
    if not hasattr(expander, "expand") or not isinstance(getattr(expander, "name", None), str):
        hint = "It needs a text `name` and `async def expand(self, row)`: see docs/prompts.md."
        raise UserError(f"{target!r} is no expander", "--expand.expander", hint)
    return expander


def _short(name: str) -> str:
    """What a filter or an expander is called: a plugin, by its class or function."""
    return name.rpartition(":")[2]


def _child(row: Row, text: str) -> Row:
    own = prompt_id(text)
    parent = row["prompt_id"] if own != row["prompt_id"] else row["parent_id"]
    return {"prompt_id": own, "text": text, "parent_id": parent}
