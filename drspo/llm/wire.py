"""One HTTP exchange with the language model's server, and the names of everything that can go wrong in it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from drspo.errors import UserError
from drspo.llm.access import check_access, is_withheld, key_for, to_send_it
from drspo.llm.settings import LLMSettings

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1 << 20  # a body beyond this is not an answer; it is not read any further
_TRANSIENT = {408, 409, 425, 429}
_LATER = "Everything answered so far is stored; the same command continues."


class Failure(Exception):
    """A request without an answer. `wait` is what the server asked for in seconds, 0 when it said nothing."""

    def __init__(self, kind: Literal["permanent", "transient"], label: str, detail: str, wait: float = 0.0):
        super().__init__(f"{label}: {detail}" if detail else label)
        self.kind, self.label, self.wait = kind, label, wait


class Garbage(Exception):
    """An answer arrived and is not what was asked for."""


@dataclass(frozen=True)
class Reply:
    """The text of the first choice, the model that wrote it, and the tokens it cost.

    `problem` says what makes the reply useless; it has been paid for all the same.
    """

    content: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problem: str = ""
    first: tuple[tuple[str, float], ...] = ()
    """The likeliest first tokens with their log probabilities, where they were asked for and given."""


class Wire:
    """Sends request bodies and gives replies; raises Failure, Garbage, or UserError for the whole run."""

    first_wait = 0.5  # seconds before the first retry

    def __init__(self, settings: LLMSettings) -> None:
        self.settings = settings
        check_access(settings)
        self.key = key_for(settings)
        if is_withheld(settings):
            log.warning("%s: %s", settings.base_url, to_send_it(settings))
        self._client: Any = None

    async def send(self, body: dict[str, Any]) -> Reply:
        """One request, one reply, within the timeout from start to end."""
        import openai

        try:
            async with asyncio.timeout(self.settings.timeout):
                data = await self._exchange(body)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from None
        except (TimeoutError, openai.APITimeoutError):
            raise Failure("transient", "timeout", f"no answer within {self.settings.timeout:g} s") from None
        except (openai.APIConnectionError, OSError) as error:
            raise Failure("transient", "connection", str(error.__cause__ or error)) from None
        return _reply(data)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def redact(self, text: str) -> str:
        """The text without the key, and no longer than an error message may be."""
        return (text.replace(self.key, "***") if self.key else text)[:500]

    async def _exchange(self, body: dict[str, Any]) -> bytes:
        """The body of a successful response, read only up to the largest size an answer can have."""
        data = bytearray()
        create = self._open().chat.completions.with_streaming_response.create
        async with create(**body) as response:
            chunks = response.iter_bytes()
            while chunk := await _next(chunks):
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise Garbage(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return bytes(data)

    def _open(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI, Omit

            for library in ("httpx", "httpx2", "openai"):  # a line per request would bury everything else
                logging.getLogger(library).setLevel(logging.WARNING)
            # Retries are ours: the library gives up on long waits and cannot hold back the other rows.
            # The library sends the account's names from the environment: no stranger needs them either.
            silent = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
            self._client = AsyncOpenAI(
                api_key=self.key or "none",
                base_url=self.settings.base_url,
                timeout=self.settings.timeout,
                max_retries=0,
                default_headers=silent if is_withheld(self.settings) else None,
            )
        return self._client

    def _status_failure(self, error: Any) -> Exception:
        status, detail = error.status_code, self.redact(_message(error))
        where = self.settings.base_url
        if status in (401, 403):
            if is_withheld(self.settings):
                hint = to_send_it(self.settings)
                return UserError(
                    f"the language model's server wants a key (HTTP {status}): {detail}", where, hint
                )
            hint = f"Set {self.settings.key_variable or 'a key'} to a key that may use this model. {_LATER}"
            return UserError(
                f"the language model's server rejects the key (HTTP {status}): {detail}", where, hint
            )
        if status == 404:
            hint = f"Check --llm.model ({self.settings.model}) and --llm.base-url."
            return UserError(
                f"the server does not know this model or address (HTTP 404): {detail}", where, hint
            )
        if status == 402 or getattr(error, "code", None) == "insufficient_quota":
            return UserError(f"the account's quota is used up (HTTP {status}): {detail}", where, _LATER)
        if status in _TRANSIENT or status >= 500:
            return Failure("transient", f"HTTP {status}", detail, retry_after(error.response.headers))
        return Failure("permanent", f"HTTP {status}", detail)


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next bytes of a body, empty at its end; a connection that breaks here is a passing failure."""
    try:
        return await anext(chunks, b"")
    except Exception as error:  # the transport's own errors: openai wraps them only up to the headers
        raise Failure("transient", "connection", f"cut in the middle of the answer ({error})") from None


def retry_after(headers: Any, now: float | None = None) -> float:
    """Seconds a response asks to wait (Retry-After-Ms; Retry-After, seconds or a date); 0 if silent."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "")
        if not text:
            return 0.0
        if text.strip().replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - (now or time.time()))
    except (ValueError, TypeError):
        return 0.0


def _message(error: Any) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message or "")[:2000]


def _reply(data: bytes) -> Reply:
    """The first choice of a chat completion, whatever the server sent."""
    try:
        body = json.loads(data)
        choice, message = body["choices"][0], body["choices"][0]["message"]
        usage = body.get("usage") or {}
        content, refusal = message.get("content"), message.get("refusal")
        asked, answered = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        problem = _problem(content, refusal, choice.get("finish_reason"))
        model = ascii(str(body.get("model") or ""))[1:-1][:200]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Reply(problem="the answer is not a chat completion")
    first = () if refusal else _first_tokens(choice.get("logprobs"))
    return Reply("" if problem else content, model, asked, answered, problem=problem, first=first)


def _first_tokens(logprobs: object) -> tuple[tuple[str, float], ...]:
    """The likeliest first tokens, as far as they can be believed: none of them when any is no probability."""
    try:
        some = logprobs["content"][0]["top_logprobs"]  # type: ignore[index]
        found = tuple((str(one["token"]), float(one["logprob"])) for one in some)
    except (LookupError, TypeError, ValueError, OverflowError):
        return ()
    likely = all(-1e4 <= value <= 1e-3 for _, value in found)
    return found if likely and sum(math.exp(value) for _, value in found) < 1.01 else ()


def _problem(content: object, refusal: object, finish_reason: object) -> str:
    if refusal:
        return f"the model refuses: {ascii(str(refusal))[1:200]}"
    if finish_reason == "length":
        return "the answer was cut off at the longest length allowed"
    if not isinstance(content, str) or not content.strip():
        return "the answer is empty"
    return "" if content.isascii() or _is_unicode(content) else "the answer is not valid Unicode"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(tokens: object) -> int:
    """A reported number of tokens, as far as it can be believed."""
    return tokens if isinstance(tokens, int) and 0 <= tokens <= 10_000_000 else 0
