"""What expanders and filters gave back, checked: code of others decides about its own rows, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drspo.files.texts import is_unicode
from pipeline.ideas.expanders import Expanded
from pipeline.ideas.filters import Objection
from pipeline.ideas.texts import LONGEST, clean, unusable
from pipeline.plugins import WrongAnswerError, kind, storable
from pipeline.records import DEAD, DROPPED, OK, UNFINISHED

_LEAVING = (DROPPED, DEAD, UNFINISHED)


def checked_expansion(answer: Any) -> Expanded:
    """The answer with clean prompts. Raises WrongAnswerError for texts that are no prompts, and for neither
    prompts nor a status and a reason why there are none."""
    if not isinstance(answer, Expanded):
        raise WrongAnswerError(f"gave {kind(answer)} instead of an Expanded")
    given = answer.prompts
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise WrongAnswerError(f"gave {kind(given)} instead of a list of prompts")
    for field in ("reason", "model", "request_hash"):
        if not isinstance(value := getattr(answer, field), str):
            raise WrongAnswerError(f"gave {kind(value)} instead of a text as {field}")
    if not given:
        _check_leaving(answer.status, answer.reason, "no prompts")
    elif answer.status != OK:
        raise WrongAnswerError(f"gave prompts with the status {answer.status!r}")
    return replace(
        answer,
        prompts=[_prompt(text) for text in given],
        reason=storable(answer.reason),
        model=storable(answer.model),
        request_hash=storable(answer.request_hash),
    )


def checked_verdict(answer: Any) -> Objection | None:
    """What the filter objects to, if anything. Raises WrongAnswerError for what does not say why."""
    if answer is None:
        return None
    objection = Objection(answer) if isinstance(answer, str) else answer
    if not isinstance(objection, Objection):
        raise WrongAnswerError(f"gave {kind(answer)} ({answer!r}) instead of None, a reason or an Objection")
    if not isinstance(objection.reason, str):
        raise WrongAnswerError(f"gave {kind(objection.reason)} instead of a text as reason")
    _check_leaving(objection.status, objection.reason, "an objection")
    return replace(objection, reason=storable(objection.reason))


def _check_leaving(status: Any, reason: str, what: str) -> None:
    """A row leaves by a status that says so, and never without a reason."""
    if not (isinstance(status, str) and status in _LEAVING):
        raise WrongAnswerError(f"gave {what} with the status {status!r}, not one of {', '.join(_LEAVING)}")
    if not reason.strip():
        raise WrongAnswerError(f"gave {what} without a reason")


def _prompt(text: Any) -> str:
    if not isinstance(text, str):
        raise WrongAnswerError(f"gave {kind(text)} instead of a text among the prompts")
    if not is_unicode(text):
        raise WrongAnswerError("gave a prompt that cannot be used: not UTF-8")
    # What is far too long is not even cleaned, as an idea is not.
    cleaned = text if len(text) > LONGEST else clean(text)
    if reason := unusable(cleaned):
        raise WrongAnswerError(f"gave a prompt that cannot be used: {reason}")
    return cleaned
