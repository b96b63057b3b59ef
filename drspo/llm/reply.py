"""What a server's body means: an answer, a refusal of this question, a passing failure, the end of the run.

A body is believed only where it is a chat completion with a choice. A page in HTML, half a body, an error
inside a success, an empty list of choices are failures that pass; a filter's or the model's own refusal is
about this question alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

TRANSIENT_STATUS = {408, 409, 425, 429}
_REFUSALS = ("content_filter", "content_policy", "moderation", "safety", "invalid_prompt", "prohibited")
_QUOTA = ("insufficient_quota", "billing", "insufficient_credit")
_KEY = ("invalid_api_key", "authentication", "unauthorized")


class Failure(Exception):
    """A request without an answer.

    "transient": to be asked again. "refused": the server will not take this request. "doubtful": refused in
    words that fit the whole run as well, such as a wrong model's name. "fatal": no request can succeed.
    `wait` is what the server asked for in seconds, 0 when it said nothing; `paid` says that the server may
    have worked for it and billed it, and `reply` what came of it.
    """

    def __init__(
        self,
        kind: Literal["transient", "refused", "doubtful", "fatal"],
        label: str,
        detail: str,
        *,
        wait: float = 0.0,
        status: int = 0,
        paid: bool = False,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(f"{label}: {detail}" if detail else label)
        self.kind, self.label, self.detail, self.wait = kind, label, detail, wait
        self.status, self.paid, self.reply = status, paid, reply


class Garbage(Exception):
    """An answer arrived and cannot be read as what was asked for."""


@dataclass(frozen=True)
class Reply:
    """The text of the first choice, the model that wrote it, and the tokens it cost.

    `problem` says what makes the reply useless to whoever wants its content, and `refused` that the model or
    a filter will not answer; it has been paid for all the same. Without `usage` the tokens are not known.
    """

    content: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage: bool = False
    problem: str = ""
    refused: bool = False
    first: tuple[tuple[str, float], ...] = ()
    """The likeliest first tokens with their log probabilities, where they were asked for and given."""
    size: int = 0
    """Bytes of the body, for an estimate where usage is not told."""


def read_reply(data: bytes) -> Reply:
    """The first choice of a chat completion. Raises Failure for a body that is none, whatever its status."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    paid = Reply(size=len(data), **_usage(body.get("usage") if isinstance(body, dict) else None))
    if not isinstance(body, dict):
        raise Failure("transient", "no completion", _no_completion(data), paid=True, reply=paid)
    if body.get("error"):
        raise _inner_error(body["error"], paid)
    try:
        choice, message = body["choices"][0], body["choices"][0]["message"]
        content, refusal = _text(message.get("content")), message.get("refusal")
        finish, failed = choice.get("finish_reason"), choice.get("error")
    except (LookupError, TypeError, AttributeError):
        told = "the answer is not a chat completion: it has no choices"
        raise Failure("transient", "no completion", told, paid=True, reply=paid) from None
    if failed or finish == "error":
        raise _inner_error(failed or "finish_reason error", paid)
    refused, problem = _problem(content, refusal, finish)
    return replace(
        paid,
        content="" if problem else content,
        model=ascii(str(body.get("model") or ""))[1:-1][:200],
        problem=problem,
        refused=refused,
        first=() if refused else _first_tokens(choice.get("logprobs")),
    )


def error_kind(status: int, *names: object) -> Literal["transient", "refused", "doubtful", "fatal"]:
    """What an error's status and its names (code, type) mean."""
    said = " ".join(str(name).casefold() for name in names)
    if any(word in said for word in _QUOTA) or status == 402:
        return "fatal"
    if any(word in said for word in _REFUSALS):
        return "refused"
    if status == 401 or any(word in said for word in _KEY):
        return "fatal"
    if status in (403, 404):
        return "doubtful"
    return "refused" if 400 <= status < 500 and status not in TRANSIENT_STATUS else "transient"


def _inner_error(error: Any, reply: Reply) -> Failure:
    """The failure that a body with an error describes although its status says success."""
    fields = error if isinstance(error, dict) else {"message": error}
    code, kind = fields.get("code"), fields.get("type")
    digits = str(fields.get("status") if isinstance(fields.get("status"), int) else code)
    status = int(digits) if digits.isdigit() and len(digits) == 3 else 0
    detail = ascii(str(fields.get("message") or kind or code or ""))[1:-1][:500]
    sort = error_kind(status, code, kind)
    label = f"an error inside the answer {status or code or ''}".strip()
    # An error is not billed unless its body says so.
    return Failure(sort, label, detail, status=status, paid=reply.usage, reply=reply)


def _no_completion(data: bytes) -> str:
    start = ascii(data[:60].decode("utf-8", "replace").strip())[1:-1]
    return f"the answer is not a chat completion: it begins {start!r}" if start else "the body is empty"


def _text(content: Any) -> Any:
    """The content; where it comes in parts, the text of all of them."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content


def _problem(content: object, refusal: object, finish: object) -> tuple[bool, str]:
    """(whether it is a refusal, what is wrong with a reply)."""
    if refusal:
        return True, f"the model refuses: {ascii(str(refusal))[1:200]}"
    if finish == "content_filter":
        return True, "the server's content filter stopped the answer"
    if finish == "length":
        return False, "the answer was cut off at the longest length allowed"
    if not isinstance(content, str) or not content.strip():
        return False, "the answer is empty"
    return False, "" if content.isascii() or _is_unicode(content) else "the answer is not valid Unicode"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _usage(usage: Any) -> dict[str, Any]:
    """The tokens that a reply says it cost, as far as they can be believed."""
    names = ("prompt_tokens", "completion_tokens")
    counts = {name: usage.get(name) for name in names} if isinstance(usage, dict) else {"": None}
    if not all(type(count) is int and 0 <= count <= 10_000_000 for count in counts.values()):
        return {}
    return {**counts, "usage": True} if any(counts.values()) else {}


def _first_tokens(logprobs: object) -> tuple[tuple[str, float], ...]:
    """The likeliest first tokens, as far as they can be believed: none of them when any is no probability."""
    try:
        some = logprobs["content"][0]["top_logprobs"]  # type: ignore[index]
        found = tuple((str(one["token"]), float(one["logprob"])) for one in some)
    except (LookupError, TypeError, ValueError, OverflowError):
        return ()
    likely = all(-1e4 <= value <= 1e-3 for _, value in found)
    return found if likely and sum(math.exp(value) for _, value in found) < 1.01 else ()
