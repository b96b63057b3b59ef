"""One HTTP exchange with the language model's server, and the names of everything that can go wrong in it."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from drspo.errors import UserError
from drspo.llm.access import check_access, is_withheld, key_for, to_send_it
from drspo.llm.reply import Failure, Garbage, Reply, error_kind, read_reply
from drspo.llm.settings import LLMSettings

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1 << 20  # a body beyond this is not an answer; it is not read any further
LATER = "Everything answered so far is stored; the same command continues."


class Wire:
    """Sends request bodies and gives replies; raises Failure, or Garbage for a body without end."""

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
            told = f"no answer within {self.settings.timeout:g} s"
            raise Failure("transient", "timeout", told, paid=True) from None
        except (openai.APIConnectionError, OSError) as error:
            cause = error.__cause__ or error
            # A connection that was never made has cost nothing; one that broke later may have.
            paid = "Connect" not in type(cause).__name__ and not isinstance(cause, ConnectionRefusedError)
            raise Failure("transient", "connection", str(cause), paid=paid) from None
        return read_reply(data)

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

    def _status_failure(self, error: Any) -> Failure:
        status, detail = error.status_code, self.redact(_message(error))
        kind = error_kind(status, getattr(error, "code", None), getattr(error, "type", None))
        wait = retry_after(error.response.headers) if kind == "transient" else 0.0
        return Failure(kind, f"HTTP {status}", detail, wait=wait, status=status)

    def end_of_run(self, failure: Failure) -> UserError:
        """What a failure means that concerns every request."""
        where, status = self.settings.base_url, f"{failure.label}: {failure.detail}"
        if failure.status in (401, 403) or (failure.kind == "fatal" and "key" in failure.detail.casefold()):
            if is_withheld(self.settings):
                hint = to_send_it(self.settings)
                return UserError(f"the language model's server wants a key ({status})", where, hint)
            hint = f"Set {self.settings.key_variable or 'a key'} to a key that may use this model. {LATER}"
            return UserError(f"the language model's server rejects the key ({status})", where, hint)
        if failure.kind == "fatal":
            return UserError(f"the account's quota is used up ({status})", where, LATER)
        hint = f"Check --llm.model ({self.settings.model}) and --llm.base-url."
        return UserError(f"the server does not know this model or address ({status})", where, hint)


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next bytes of a body, empty at its end; a connection that breaks here is a passing failure."""
    try:
        return await anext(chunks, b"")
    except Exception as error:  # the transport's own errors: openai wraps them only up to the headers
        told = f"cut in the middle of the answer ({error})"
        raise Failure("transient", "connection", told, paid=True) from None


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
