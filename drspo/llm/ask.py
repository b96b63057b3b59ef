"""Questions to a language model through any OpenAI compatible server: structured, cached, bounded.

Every question ends as an `Answer` of one kind: "ok"; "refusal" (the server or the model will not answer this
question); "unreadable" (nothing usable, also after asking again with the error named); "transient" (still
failing after all retries: asked again by the next start); "budget" (not sent). What concerns the whole run,
such as a rejected key, is raised once as UserError. A request that may have been paid for is a line of the
journal before anything else happens; a refusal by status and an unreadable answer become verdicts only once
the server has answered another question, so that an outage is none. The key is cut out of every text kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.hashing import content_hash, seed_from
from drspo.llm.account import Bill, LLMReport, bill
from drspo.llm.journal import FOLDER, Journal
from drspo.llm.pace import Pace
from drspo.llm.reading import read_object
from drspo.llm.reply import Failure, Garbage, Reply
from drspo.llm.segments import Line
from drspo.llm.settings import LLMSettings
from drspo.llm.template import Template
from drspo.llm.trust import Trust
from drspo.llm.wire import LATER, Wire

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one question. `content` is what was read of the reply, empty unless kind is "ok"."""

    request_hash: str
    kind: Literal["ok", "refusal", "unreadable", "transient", "budget"]
    content: str = ""
    reason: str = ""
    model: str = ""


class LLM:
    """One language model with its journal, its pace and its budget. Use it from one event loop."""

    def __init__(
        self,
        settings: LLMSettings,
        storage: Storage | None,
        folder: str = FOLDER,
        pace: Pace | None = None,
    ) -> None:
        self.settings = settings
        self.journal = Journal(storage, folder)
        self.wire = Wire(settings)
        self.pace = pace or Pace.of(settings)
        self.budget = self.pace.budget(settings, self.journal)
        self.report = LLMReport()
        self.fatal: UserError | None = None
        self.trust = Trust(self.journal.knows(self._server), self._refused)
        self._ended = asyncio.Event()  # set when nothing need be waited for any more
        self._failures_in_a_row = 0
        self._unconfirmed: list[Line] = []
        self._under_way: dict[str, asyncio.Future[Answer]] = {}

    async def ask(self, template: Template, schema: type[BaseModel], **fields: str | int) -> Answer:
        """The answer to a filled template, as JSON that `schema` accepts; equal questions are asked once.

        Raises UserError when no request can succeed: key rejected, unknown model, no server, quota used up.
        """
        read = partial(read_object, schema=schema)
        return await self.send(self._body(template, schema, fields), template.hash, read, again=_with_error)

    async def send(
        self,
        body: dict[str, Any],
        recipe: str,
        read: Callable[[Reply], str],
        *,
        picture_tokens: int = 0,
        again: Callable[[dict[str, Any], str], dict[str, Any]] = lambda body, error: body,
    ) -> Answer:
        """The answer to a whole request body, as the text that `read` takes from the reply.

        `read` raises Garbage for a reply that is no answer; `again` makes the request that follows it.
        `recipe` names the wording and whatever else tells this question from an equal body; `picture_tokens`
        is what its pictures may cost. Raises as `ask` does.
        """
        key = content_hash(recipe, json.dumps(body, sort_keys=True, ensure_ascii=True))
        if key not in self._under_way:
            self.trust.opened()
            question = _Question(key, body, read, again, picture_tokens)
            self._under_way[key] = asyncio.ensure_future(self._answer(question))
        try:
            return await asyncio.shield(self._under_way[key])
        finally:
            self._under_way.pop(key, None)

    async def close(self) -> None:
        """Close the connections, store the verdicts of a run that no failure ended, and leave few files."""
        await self.wire.close()
        if self._unconfirmed and self.fatal is None:
            await self.journal.add(*self._unconfirmed)
            self._unconfirmed = []
        await asyncio.to_thread(self.journal.close)

    def _body(self, template: Template, schema: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
        messages = template.messages(**fields)
        shape = schema.model_json_schema()
        body: dict[str, Any] = {"model": self.settings.model, "messages": messages}
        body[self.settings.output_limit_field] = self.settings.max_output_tokens
        if self.settings.temperature >= 0:
            body["temperature"] = self.settings.temperature
        if self.settings.structured == "json_schema":
            named = {"name": schema.__name__, "schema": shape, "strict": True}
            return {**body, "response_format": {"type": "json_schema", "json_schema": named}}
        wish = f"\n\nAnswer with one JSON object and nothing else. Its JSON schema: {json.dumps(shape)}"
        messages[0]["content"] += wish
        if self.settings.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body

    async def _answer(self, question: _Question) -> Answer:
        try:
            stored = await asyncio.to_thread(self.journal.get, question.key)
            if stored is not None:
                self.report.from_cache += 1
                answer = _as_answer(stored)
            else:
                answer = await self._attempts(question)
        finally:
            self.trust.closed()
        self.report.answers[answer.kind] = self.report.answers.get(answer.kind, 0) + 1
        return answer

    async def _attempts(self, question: _Question) -> Answer:
        """Ask until there is an answer or a reason to stop.

        A place among the requests under way is kept until what it cost is stored: however slow the storage,
        a kill costs no more than `concurrency` answers that were paid for.
        """
        body, failures, unreadable = question.body, 0, 0
        while True:
            most = bill(question.key, body, self.settings, question.picture_tokens)
            try:
                async with self.pace.slots:
                    held = await self.budget.reserve(most.most, self.journal.writer)
                    if not held:
                        reason = f"the token budget of {self.settings.token_budget} is used up"
                        return Answer(request_hash=question.key, kind="budget", reason=reason)
                    return await self._request(body, most, question, held)
            except Garbage as error:
                unreadable += 1
                if unreadable > self.settings.invalid_retries:
                    return await self._settle(question.key, "unreadable", error)
                body = question.again(question.body, self.wire.redact(str(error)))
            except Failure as error:
                failures += 1
                if error.kind != "transient":
                    return await self._settle(question.key, "refusal", error)
                if failures > self.settings.max_retries or error.wait > self.settings.max_retry_after:
                    reason = self.wire.redact(str(error))
                    return Answer(request_hash=question.key, kind="transient", reason=reason)
                await self._wait(error, question.key, failures)

    async def _request(self, body: dict[str, Any], most: Bill, question: _Question, held: int) -> Answer:
        """One request at its turn; what it cost is stored, whatever comes of it."""
        reply, line, used = None, None, most.most
        try:
            await self._until_ended(self.pace.ready, most.most)
            self.report.requests += 1
            reply = await self.wire.send(body)
            line = self._read(reply, most, question)
        except Failure as error:
            line = most.line(error.reply) if error.paid else None
            self._note(error.label, error)
            raise
        except Garbage as error:
            line = most.line(reply)
            self._note("unreadable", error)
            raise
        finally:
            try:
                used = await self._pay(line)
            finally:
                await self.budget.settle(held, used)
                await self.pace.give_back(most.most - used)
        return _as_answer(line)

    def _read(self, reply: Reply, most: Bill, question: _Question) -> Line:
        """The ledger's line for a reply: its answer, or the refusal that it is."""
        model = self.wire.redact(reply.model)
        if reply.refused:
            return most.line(reply, "refusal", reason=self.wire.redact(reply.problem), model=model)
        content = question.read(reply)
        if self.wire.secret and self.wire.secret in content:
            raise Garbage("the answer repeats the key")
        return most.line(reply, "ok", content=content, model=model)

    async def _pay(self, line: Line | None) -> int:
        """Store what a request cost; gives the tokens."""
        if line is None:
            return 0
        lines, news = [line], False
        if line.kind == "ok":
            # The server has answered: what it refuses is about the question.
            self._failures_in_a_row, news = 0, self.trust.answered()
            lines += self._unconfirmed
            self._unconfirmed = []
        self.report.count(line, self.settings)
        try:
            await self.journal.add(*lines)
            if news:
                await self._remember()
        except UserError as error:
            self._stop(error)
            raise
        return line.books.tokens

    async def _remember(self) -> None:
        """Mark the server as one that has answered: a hint for the next start, which can do without."""
        try:
            await asyncio.to_thread(self.journal.remember, self._server)
        except Exception as error:
            log.warning("the server could not be marked as one that answers: %s", error)

    @property
    def _server(self) -> str:
        return content_hash(self.settings.base_url, self.settings.model, length=16)

    async def _settle(self, key: str, kind: Literal["refusal", "unreadable"], error: Exception) -> Answer:
        """The verdict on a question, or that it is to be asked again while the server answers nobody."""
        believed, reason = await self.trust.believes(error), self.wire.redact(str(error))
        self._check_fatal()
        if not believed:
            reason += " (the server has answered no question yet in this start)"
            return Answer(request_hash=key, kind="transient", reason=reason)
        self._unconfirmed.append(Line(request_hash=key, kind=kind, reason=reason))
        return Answer(request_hash=key, kind=kind, reason=reason)

    def _check_fatal(self) -> None:
        if self.fatal is not None:
            raise self.fatal

    def _refused(self, why: Failure) -> None:
        self._stop(self.wire.end_of_run(why))

    def _stop(self, error: UserError) -> None:
        self.fatal = self.fatal or error
        self.trust.stopped()
        self._ended.set()

    async def _until_ended(self, wait: Callable[[float], Awaitable[None]], amount: float) -> None:
        """Wait, unless the run ends meanwhile, which is raised: nobody waits for a turn that never comes."""
        self._check_fatal()
        waits = asyncio.ensure_future(wait(amount)), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self._check_fatal()
            await waits[0]
        finally:
            for each in waits:
                each.cancel()

    def _note(self, label: str, error: Exception) -> None:
        """Count a failure; a long unbroken row of them means that the server is gone, not the rows bad."""
        self.report.failures[label] = self.report.failures.get(label, 0) + 1
        self._failures_in_a_row += 1
        if isinstance(error, Failure) and error.kind == "fatal":
            self._stop(self.wire.end_of_run(error))
        if self._failures_in_a_row >= self.settings.give_up_after:
            self._stop(
                UserError(
                    f"the language model failed {self._failures_in_a_row} times in a row, last with: "
                    + self.wire.redact(str(error)),
                    where=self.settings.base_url,
                    hint=f"{LATER} Where so many questions in a row deserve it, raise --llm.give-up-after.",
                )
            )
        self._check_fatal()

    async def _wait(self, error: Failure, key: str, attempt: int) -> None:
        """Wait as the server asks, everybody with it, or twice as long each time when it says nothing."""
        if error.wait > 0:
            await self.pace.pause(error.wait)
            return
        jitter = 0.75 + 0.5 * seed_from(key, attempt) / 2**31
        await self._until_ended(asyncio.sleep, min(30.0, self.wire.first_wait * 2 ** (attempt - 1)) * jitter)


@dataclass(frozen=True)
class _Question:
    """What is asked, how its reply is read, and what is asked after one that cannot be read."""

    key: str
    body: dict[str, Any]
    read: Callable[[Reply], str]
    again: Callable[[dict[str, Any], str], dict[str, Any]]
    picture_tokens: int


def _as_answer(line: Line) -> Answer:
    assert line.kind in ("ok", "refusal", "unreadable")
    return Answer(
        request_hash=line.request_hash,
        kind=line.kind,  # type: ignore[arg-type]
        content=line.content,
        reason=line.reason,
        model=line.model,
    )


def _with_error(body: dict[str, Any], error: str) -> dict[str, Any]:
    """The request once more, with what was wrong with its answer; in the same message, since some servers
    take only messages of alternating roles."""
    body = deepcopy(body)
    body["messages"][-1]["content"] += (
        f"\n\nYour last answer could not be used: {ascii(error)[1:-1]}. "
        "Answer again, with one JSON object of the shape asked for and nothing else."
    )
    return body
