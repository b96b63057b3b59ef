"""What a server's body means: an answer, a refusal of this question, a passing failure, the end of the run.

A body is believed only where it is a chat completion with a choice. A page in HTML, half a body, an error
inside a success, an empty list of choices are failures that pass; a filter's or the model's own refusal is
about this question alone.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from drspo.files.texts import is_unicode

Kind = Literal["transient", "refused", "doubtful", "fatal"]
About = Literal["", "question", "key", "quota", "address"]
"""What an error speaks of: its own question, or something of the whole run; "" where it does not say."""

_PASSING = {408, 409, 421, 423, 425, 429, 499}  # of those below 500 that say nothing about the request
_OF_THE_REQUEST = {400, 413, 414, 422, 451}
_REFUSALS = ("content_filter", "content_policy", "moderation", "safety", "invalid_prompt", "prohibited")
_QUOTA = ("insufficient_quota", "billing", "insufficient_credit")
_KEY = ("invalid_api_key", "authentication", "unauthorized")
_MODEL = ("model_not_found", "deploymentnotfound", "deployment_not_found")


class Failure(Exception):
    """A request without an answer.

    "transient": to be asked again. "refused": the server will not take this request. "doubtful": refused in
    words that fit the whole run as well, such as a wrong model's name. "fatal": no request can succeed, for
    want of what `about` names. `wait` is what the server asked for in seconds, 0 when it said nothing; `paid`
    says that the server may have worked for it and billed it, and `reply` what came of it.
    """

    def __init__(
        self,
        kind: Kind,
        label: str,
        detail: str,
        *,
        about: About = "",
        wait: float = 0.0,
        paid: bool = False,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(f"{label}: {detail}" if detail else label)
        self.kind, self.label, self.detail, self.about = kind, label, detail, about
        self.wait, self.paid, self.reply = wait, paid, reply


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


def read_reply(data: bytes, key: str = "") -> Reply:
    """The first choice of a chat completion. Raises Failure for a body that is none, whatever its status.

    Nothing of what it gives or raises holds the key: an answer that repeats it is useless.
    """
    body = parsed(data, key)
    told = bool(key) and body != parsed(data)
    paid = Reply(size=len(data), **_usage(body.get("usage") if isinstance(body, dict) else None))
    if not isinstance(body, dict):
        raise Failure("transient", "no completion", _no_completion(data, key), paid=True, reply=paid)
    if body.get("error"):
        raise _inner_error(body["error"], paid)
    try:
        choice, message = body["choices"][0], body["choices"][0]["message"]
        content, refusal = _text(message.get("content")), message.get("refusal")
        finish, failed = choice.get("finish_reason"), choice.get("error")
    except (LookupError, TypeError, AttributeError):
        said = "the answer is not a chat completion: it has no choices"
        raise Failure("transient", "no completion", said, paid=True, reply=paid) from None
    if failed or finish == "error":
        raise _inner_error(failed or "finish_reason error", paid)
    refused, problem = _problem(content, refusal, finish)
    if told and not problem and KEY in content:
        problem = "the answer repeats the key"
    return replace(
        paid,
        content="" if problem else content,
        model=_plain(body.get("model"))[:200],
        problem=problem,
        refused=refused,
        first=() if refused else _first_tokens(choice.get("logprobs")),
    )


def parsed(data: bytes, key: str = "") -> Any:
    """A body's JSON with `KEY` in place of the key, in all its texts; None where it is no JSON.

    Names stay as they are: no message quotes one, and a key may be a word that names hold.
    """
    try:
        body = json.loads(data)
        return _without(body, key) if key else body
    except (ValueError, RecursionError):
        return None


KEY = "***"
"""What stands where the key was."""


def _without(node: Any, key: str) -> Any:
    if isinstance(node, str):
        return node.replace(key, KEY)
    if isinstance(node, list):
        return [_without(each, key) for each in node]
    if isinstance(node, dict):
        return {name: _without(each, key) for name, each in node.items()}
    return node


def _plain(value: Any) -> str:
    """A text or a number as one line of ASCII; none of a list or object, whose names may hold a key."""
    return ascii(str(value))[1:-1] if isinstance(value, (str, int)) else ""


def error_kind(status: int, *names: object) -> tuple[Kind, About]:
    """What an error's status (0: none was given) and its names (code, type) mean, and what they speak of.

    A server that fails is never believed to refuse, whatever it calls that.
    """
    said = " ".join(str(name).casefold() for name in names)

    def has(words: tuple[str, ...]) -> bool:
        return any(word in said for word in words)

    if not (status == 0 or 400 <= status < 500):
        return "transient", ""
    if status == 402 or has(_QUOTA):  # which some send as 429
        return "fatal", "quota"
    if status in _PASSING:
        return "transient", ""
    if has(_REFUSALS):
        return "refused", "question"
    if status == 401 or has(_KEY):
        return "fatal", "key"
    if has(_MODEL):
        return "fatal", "address"
    if status == 0:
        return "transient", ""
    if status in _OF_THE_REQUEST:
        return "refused", ""
    return "doubtful", "key" if status == 403 else "address"


def _inner_error(error: Any, reply: Reply) -> Failure:
    """The failure that a body with an error describes although its status says success."""
    fields = error if isinstance(error, dict) else {"message": error}
    code, kind = fields.get("code"), fields.get("type")
    digits = str(fields.get("status") if isinstance(fields.get("status"), int) else code)
    status = int(digits) if re.fullmatch("[0-9]{3}", digits) else 0
    detail = next(filter(None, map(_plain, (fields.get("message"), kind, code))), "")[:500]
    sort, about = error_kind(status, code, kind)
    label = f"an error inside the answer {status or _plain(code)[:60]}".strip()
    # An error is not billed unless its body says so.
    return Failure(sort, label, detail, about=about, paid=reply.usage, reply=reply)


def _no_completion(data: bytes, key: str) -> str:
    text = data.decode("utf-8", "replace")
    start = ascii((text.replace(key, KEY) if key else text)[:60].strip())[1:-1]
    return f"the answer is not a chat completion: it begins {start!r}" if start else "the body is empty"


def _text(content: Any) -> Any:
    """The content; where it comes in parts, the text of all of them."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content


def _problem(content: object, refusal: object, finish: object) -> tuple[bool, str]:
    """(whether it is a refusal, what is wrong with a reply)."""
    if refusal:
        return True, f"the model refuses: {_plain(refusal)[:199]}"
    if finish == "content_filter":
        return True, "the server's content filter stopped the answer"
    if finish == "length":
        return False, "the answer was cut off at the longest length allowed"
    if not isinstance(content, str) or not content.strip():
        return False, "the answer is empty"
    return False, "" if is_unicode(content) else "the answer is not valid Unicode"


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
