"""Questions to a language model through any OpenAI compatible server: structured, cached, bounded.

Every request ends as an `Answer` of one kind: "ok"; "invalid" (garbage, also after asking again);
"permanent" (the server refuses this request); "transient" (still failing after all retries); "budget" (not
sent). What concerns the whole run, such as a rejected key, is raised once as UserError; everything answered
so far is stored. The key is cut out of every text that is kept.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.hashing import content_hash, seed_from
from drspo.llm.cache import FOLDER, Answer, AnswerCache
from drspo.llm.pace import Pace
from drspo.llm.settings import LLMSettings
from drspo.llm.template import Template
from drspo.llm.wire import Failure, Garbage, Reply, Wire


@dataclass
class LLMReport:
    """What the language model did since it was started; tokens are those the server reported."""

    requests: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    from_cache: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class LLM:
    """One language model with its cache, its pace and its budget. Use it from one event loop."""

    def __init__(self, settings: LLMSettings, storage: Storage | None, folder: str = FOLDER) -> None:
        self.settings = settings
        self.cache = AnswerCache(storage, folder)
        self.wire = Wire(settings)
        self.pace = Pace(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute)
        self.report = LLMReport()
        self.fatal: UserError | None = None
        self._spent = self.cache.spent() if settings.token_budget else {}
        self._tokens = sum(self._spent.get(key, 0) for key in ("prompt_tokens", "completion_tokens"))
        self._reserved = 0
        self._failures_in_a_row = 0
        self._under_way: dict[str, asyncio.Future[Answer]] = {}

    async def ask(self, template: Template, schema: type[BaseModel], **fields: str | int) -> Answer:
        """The answer to a filled template, as JSON that `schema` accepts; equal questions are asked once.

        Raises UserError when no request can succeed: key rejected, unknown model, no server, quota used up.
        """
        return await self.send(
            self._body(template, schema, fields), template.hash, partial(_validated, schema=schema)
        )

    async def send(
        self, body: dict[str, Any], recipe: str, read: Callable[[Reply], str], *, picture_tokens: int = 0
    ) -> Answer:
        """The answer to a whole request body, as the text that `read` takes from the reply.

        `read` raises Garbage for a reply that is no answer. `recipe` names the wording and whatever else
        tells this question from an equal body; `picture_tokens` is what its pictures may cost. Raises as
        `ask` does.
        """
        key = content_hash(recipe, json.dumps(body, sort_keys=True, ensure_ascii=True))
        if key not in self._under_way:
            estimate = _estimate(body, self.settings) + picture_tokens
            self._under_way[key] = asyncio.ensure_future(self._answer(key, body, read, estimate))
        try:
            return await asyncio.shield(self._under_way[key])
        finally:
            self._under_way.pop(key, None)

    async def close(self) -> None:
        """Close the connections."""
        await self.wire.close()

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

    async def _answer(
        self, key: str, body: dict[str, Any], read: Callable[[Reply], str], estimate: int
    ) -> Answer:
        stored = await asyncio.to_thread(self.cache.get, key)
        if stored is not None and stored.kind != "transient":
            self.report.from_cache += 1
            return self._count(stored)
        return self._count(await self._attempts(key, body, read, estimate))

    async def _store(self, answer: Answer) -> Answer:
        return await asyncio.to_thread(self.cache.put, answer)

    def _count(self, answer: Answer) -> Answer:
        self.report.answers[answer.kind] = self.report.answers.get(answer.kind, 0) + 1
        return answer

    async def _attempts(
        self, key: str, body: dict[str, Any], read: Callable[[Reply], str], estimate: int
    ) -> Answer:
        """Ask until there is a valid answer or a reason to stop, and store it.

        A place among the requests under way is kept until the answer is stored: however slow the storage, a
        kill costs no more than `concurrency` answers that were paid for.
        """
        spent = _Spent(key)
        failures = garbage = 0
        while True:
            if not self._reserve(estimate):
                reason = f"the token budget of {self.settings.token_budget} is used up"
                if spent.requests == 0:
                    return spent.answer("budget", reason)
                return await self._store(spent.answer("transient", reason))
            answer, failure = None, None
            async with self.pace.slots:
                try:
                    reply = await self._request(body, estimate, spent)
                    content = self._harmless(read(reply))
                    answer = spent.answer("ok", content=content, model=self.wire.redact(reply.model))
                except Garbage as error:
                    garbage += 1
                    if garbage > self.settings.invalid_retries:
                        answer = spent.answer("invalid", self.wire.redact(str(error)))
                except Failure as error:
                    failures, failure = failures + 1, error
                    last = error.kind == "permanent" or failures > self.settings.max_retries
                    if last or error.wait > self.settings.max_retry_after:
                        answer = spent.answer(error.kind, self.wire.redact(str(error)))
                if answer is not None:
                    return await self._store(answer)
            if failure is not None:
                await self._wait(failure, key, failures)

    async def _request(self, body: dict[str, Any], estimate: int, spent: _Spent) -> Reply:
        """One request at its turn; counts what it cost, whatever comes of it."""
        used = 0
        try:
            await self.pace.ready(estimate)
            self._check_fatal()
            self.report.requests += 1
            spent.requests += 1
            reply = await self.wire.send(body)
            used = reply.prompt_tokens + reply.completion_tokens
            self._pay(reply, spent)
            self._failures_in_a_row = 0
            return reply
        except Failure as error:
            self._note(error)
            raise
        except UserError as error:
            self.fatal = self.fatal or error
            raise
        finally:
            self._reserved -= estimate
            self.pace.tokens.give_back(estimate - used)

    def _harmless(self, content: str) -> str:
        if self.wire.key and self.wire.key in content:
            raise Garbage("the answer repeats the key")
        return content

    def _check_fatal(self) -> None:
        if self.fatal is not None:
            raise self.fatal

    def _note(self, error: Failure) -> None:
        """Count a failure; a long unbroken row of them means that the server is gone, not the rows bad."""
        self.report.failures[error.label] = self.report.failures.get(error.label, 0) + 1
        self._failures_in_a_row = 0 if error.kind == "permanent" else self._failures_in_a_row + 1
        self._check_fatal()
        if self._failures_in_a_row >= self.settings.give_up_after:
            self.fatal = UserError(
                f"the language model failed {self._failures_in_a_row} times in a row, last with: "
                + self.wire.redact(str(error)),
                where=self.settings.base_url,
                hint="Everything answered so far is stored; the same command continues later.",
            )
            raise self.fatal

    async def _wait(self, error: Failure, key: str, attempt: int) -> None:
        """Wait as the server asks, everybody with it, or twice as long each time when it says nothing."""
        if error.wait > 0:
            self.pace.pause(error.wait)
            return
        jitter = 0.75 + 0.5 * seed_from(key, attempt) / 2**31
        await asyncio.sleep(min(30.0, self.wire.first_wait * 2 ** (attempt - 1)) * jitter)

    def _reserve(self, tokens: int) -> bool:
        budget = self.settings.token_budget
        if budget and self._tokens + self._reserved + tokens > budget:
            return False
        self._reserved += tokens
        return True

    def _pay(self, reply: Reply, spent: _Spent) -> None:
        spent.prompt_tokens += reply.prompt_tokens
        spent.completion_tokens += reply.completion_tokens
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        self.report.prompt_tokens += reply.prompt_tokens
        self.report.completion_tokens += reply.completion_tokens
        self.report.cost += cost(self.settings, reply.prompt_tokens, reply.completion_tokens)


@dataclass
class _Spent:
    """The running account of one question."""

    request_hash: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0

    def answer(self, kind: Any, reason: str = "", content: str = "", model: str = "") -> Answer:
        return Answer(kind=kind, reason=reason, content=content, model=model, **asdict(self))


def cost(settings: LLMSettings, prompt_tokens: int, completion_tokens: int) -> float:
    """The price of so many tokens, in the currency of the settings' prices per million."""
    return (prompt_tokens * settings.price_input + completion_tokens * settings.price_output) / 1e6


def _estimate(body: dict[str, Any], settings: LLMSettings) -> int:
    """An upper estimate of one request's tokens: a token per three bytes asked, and the longest answer.

    What encoded pictures cost is not in their bytes.
    """
    return len(_PICTURE.sub("", json.dumps(body))) // 3 + settings.max_output_tokens


_PICTURE = re.compile(r"data:image/[^\"]*")


def summary(report: dict[str, Any]) -> str:
    """What a language model did and cost, in a line; of an LLMReport as a dict."""
    answers = ", ".join(f"{count} {kind}" for kind, count in sorted(report["answers"].items()))
    failures = ", ".join(f"{count} x {what}" for what, count in sorted(report["failures"].items()))
    parts = [f"{report['requests']} requests, {report['from_cache']} answers from the cache ({answers})"]
    parts += [f"retried {failures}"] if failures else []
    parts.append(f"{report['prompt_tokens']} tokens in, {report['completion_tokens']} out")
    parts += [f"price {report['cost']:.4f}"] if report["cost"] else []
    return "; ".join(parts)


def _validated(reply: Reply, schema: type[BaseModel]) -> str:
    """The reply's JSON in canonical form; raises Garbage when the schema does not accept it."""
    if reply.problem:
        raise Garbage(reply.problem)
    try:
        return schema.model_validate_json(reply.content).model_dump_json()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Garbage(
            f"the answer breaks the schema: {place + ': ' if place else ''}{first['msg']}"
        ) from None
