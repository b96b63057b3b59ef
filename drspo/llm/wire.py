"""One HTTP exchange with the language model's server, and the names of everything that can go wrong in it."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from drspo.errors import UserError
from drspo.llm.access import check_access, is_withheld, key_for, to_send_it
from drspo.llm.reply import KEY, About, Failure, Garbage, Reply, error_kind, parsed, read_reply
from drspo.llm.settings import LLMSettings

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1 << 20  # a body beyond this is not an answer; it is not read any further
CONNECTING = 0.8  # the share of the timeout in which a connection must be made
PLAIN = "host accept accept-encoding connection content-type content-length transfer-encoding user-agent"
"""Headers that tell nothing of who asks."""
SECRET = 8  # characters that a key has at least; what is shorter is a word that any answer may hold
UNCONNECTED = ("Connect", "Pool", "Proxy", "UnsupportedProtocol")
"""What the names of errors hold that come before a connection."""
LATER = "Everything answered so far is stored; the same command continues."

_LEFT: ContextVar[list[str]] = ContextVar("_LEFT")
"""The addresses to which requests of the running call have left."""


class Wire:
    """Sends request bodies and gives replies; raises Failure, or Garbage for a body without end."""

    first_wait = 0.5  # seconds before the first retry

    def __init__(self, settings: LLMSettings) -> None:
        self.settings = settings
        check_access(settings)
        self.key = key_for(settings)
        self.secret = self.key if len(self.key) >= SECRET else ""
        """The key where it is one: shorter ones are placeholders that local servers get ("none", "x")."""
        if is_withheld(settings):
            log.warning("%s: %s", settings.base_url, to_send_it(settings))
        self._client: Any = None

    async def send(self, body: dict[str, Any]) -> Reply:
        """One request, one reply, within the timeout from start to end."""
        left: list[str] = []
        _LEFT.set(left)
        try:
            completions = self._open().chat.completions  # loading the library is none of the server's time
            async with asyncio.timeout(self.settings.timeout):
                data = await self._exchange(completions.with_streaming_response.create(**body))
        except (Failure, Garbage):
            raise
        except TimeoutError:
            raise self._late(paid=bool(left)) from None
        except Exception as error:
            raise self._broken(error, bool(left)) from None
        return read_reply(data, self.secret)

    def _broken(self, error: Exception, left: bool) -> Failure:
        """The failure behind what a library raised; a request that it could not even write is no good itself.

        Once a request has left, nobody but the server can say so.
        """
        cause = error.__cause__ or error
        if isinstance(cause, Failure):
            return cause
        name = type(cause).__name__
        if self._client is not None and not left and isinstance(error, (TypeError, ValueError)):
            # A field that the library does not know fits the whole run; a text that is no Unicode does not.
            about: About = "question" if isinstance(error, UnicodeError) else ""
            said = f"{name}: {ascii(str(error))[1:-1]}"
            return Failure("refused", "request", self.redact(said), about=about)
        # A connection that was never made has cost nothing; one that broke later may have.
        unmade = any(word in name for word in UNCONNECTED) or isinstance(cause, ConnectionRefusedError)
        paid = left and not unmade
        if "Timeout" in type(error).__name__ or "Timeout" in name:
            return self._late(paid)
        return Failure("transient", "connection", self.redact(str(cause) or name), paid=paid)

    def _late(self, paid: bool) -> Failure:
        told = f"no answer within {self.settings.timeout:g} s" if paid else "no connection in time"
        return Failure("transient", "timeout", told, paid=paid)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def redact(self, text: str) -> str:
        """The text without the key, and no longer than an error message may be.

        A placeholder is left in: cutting "x" or "token" out would garble all messages and hide nothing.
        """
        return (text.replace(self.secret, KEY) if self.secret else text)[:500]

    async def _exchange(self, request: Any) -> bytes:
        """The body of a successful response, read only up to the largest size an answer can have."""
        data = bytearray()
        async with request as response:
            chunks = response.iter_bytes()
            while chunk := await _next(chunks):
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise Garbage(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        return bytes(data)

    def _open(self) -> Any:
        if self._client is None:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

            for library in ("httpx", "httpx2", "openai"):  # a line per request would bury everything else
                logging.getLogger(library).setLevel(logging.WARNING)
            # What is not connected by then was not paid for; the rest of the time is for the answer.
            first = CONNECTING * self.settings.timeout
            bare = [self._bare] if is_withheld(self.settings) else []
            hooks = {"request": [*bare, _leaves], "response": [self._meant]}
            # Retries are ours: the library gives up on long waits and cannot hold back the other rows.
            self._client = AsyncOpenAI(
                api_key=self.key or "none",
                base_url=self.settings.base_url,
                timeout=Timeout(self.settings.timeout, connect=first, pool=first),
                max_retries=0,
                http_client=DefaultAsyncHttpxClient(event_hooks=hooks),
            )
        return self._client

    async def _bare(self, request: Any) -> None:
        """Take from a request to a stranger what the library adds from the environment."""
        for name in list(request.headers):
            if name.lower() not in PLAIN.split() and not name.lower().startswith("x-stainless-"):
                del request.headers[name]
        request.headers["Authorization"] = "Bearer none"  # some want one, whichever it is

    async def _meant(self, response: Any) -> None:
        """Raise what a status that is no success means; its body is read as far as an answer's would be.

        The body may take a share of the timeout, so that one that stalls does not become a paid silence.
        """
        if response.is_success or response.has_redirect_location:
            return
        data = bytearray()
        with contextlib.suppress(Exception):  # the status stands, however its body breaks off
            async with asyncio.timeout(min(5.0, 0.1 * self.settings.timeout)):
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_ANSWER_BYTES:
                        break
        raise self._status_failure(response, bytes(data))

    def _status_failure(self, response: Any, data: bytes) -> Failure:
        status, body = response.status_code, parsed(data, self.secret)
        fields = body.get("error", body) if isinstance(body, dict) else body
        fields = fields if isinstance(fields, dict) else {"message": fields}
        said = fields.get("message") or self.redact(data.decode("utf-8", "replace")).strip()[:100]
        kind, about = error_kind(status, fields.get("code"), fields.get("type"))
        wait = retry_after(response.headers) if kind == "transient" else 0.0
        return Failure(kind, f"HTTP {status}", self.redact(str(said)), about=about, wait=wait)

    def end_of_run(self, failure: Failure) -> UserError:
        """What a failure means that concerns every request."""
        where, status = self.settings.base_url, f"{failure.label}: {failure.detail}"
        if failure.about == "key":
            if is_withheld(self.settings):
                hint = to_send_it(self.settings)
                return UserError(f"the language model's server wants a key ({status})", where, hint)
            hint = f"Set {self.settings.key_variable or 'a key'} to a key that may use this model. {LATER}"
            return UserError(f"the language model's server rejects the key ({status})", where, hint)
        if failure.about == "quota":
            return UserError(f"the account's quota is used up ({status})", where, LATER)
        hint = f"Check --llm.model ({self.settings.model}) and --llm.base-url. {LATER}"
        return UserError(f"the server does not know this model or address ({status})", where, hint)


async def _leaves(request: Any) -> None:
    """Note that a request of the running call leaves; whatever fails before is none of the server's."""
    _LEFT.get().append(str(request.url))


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
    except (ValueError, TypeError, OverflowError):  # a date beyond all calendars
        return 0.0
