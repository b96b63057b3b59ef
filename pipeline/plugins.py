"""Calls of others' code: whatever it raises, even to end the program, is its own failure and has its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class WrongAnswerError(Exception):
    """A plugin failed, or answered what its contract does not allow."""


@contextlib.contextmanager
def contained(name: str = "", *passing: type[BaseException]) -> Iterator[None]:
    """Whatever the block raises, SystemExit too, becomes a WrongAnswerError that says whose it is.

    Ctrl-C and SIGTERM pass as they are, so does the end of the task that the block runs in, and `passing`.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, *passing)) or _is_ordered(error):
            raise
        said = describe(error)
        raise WrongAnswerError(f"{name}: {said}" if name else said) from error


def describe(error: BaseException) -> str:
    """A failure on one line that can be stored; a WrongAnswerError says itself what was wrong."""
    try:
        said = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as worse:
        said = f"(its message cannot be read: {type(worse).__name__})"
    text = storable(" ".join(said.split()))[:500]
    return text if isinstance(error, WrongAnswerError) else f"{type(error).__name__}: {text}"


def storable(text: str) -> str:
    """The text with what is not Unicode, such as half of a pair or a byte of a file's name, written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def kind(value: object) -> str:
    """What a value is, for a message: "None", "a str"."""
    return "None" if value is None else f"a {type(value).__name__}"


def _is_ordered(error: BaseException) -> bool:
    """Whether this is the end that somebody ordered for the running task; a plugin may raise the like."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop: nobody can have ordered it
        return False
    return task is not None and task.cancelling() > 0
