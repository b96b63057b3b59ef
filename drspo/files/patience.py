"""Waiting out what passes: an object store that is overloaded, fails now and then, or drops connections."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from drspo.errors import UserError

log = logging.getLogger(__name__)

# Seconds before each further attempt, less up to half of it, so that a hundred workers do not knock together.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
# What the clients of object stores make of "slow down", "internal error" and connections that broke.
_PASSING = {errno.EBUSY, errno.EIO, getattr(errno, "EREMOTEIO", errno.EIO), errno.EAGAIN}
_PERMANENT = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ClientError")

Result = TypeVar("Result")


class StoreFailsError(UserError):
    """A store that does not answer, which says nothing about what it holds."""


def patiently(call: Callable[[], Result], where: str) -> Result:
    """The call's result, tried again while it fails in passing. StoreFailsError when that does not end."""
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if wait is None:
                hint = "The same command continues once the store answers again."
                raise StoreFailsError(f"the object store keeps failing: {said}", where, hint) from error
            log.info("the object store failed (%s); again in about %g s", said, wait)
            time.sleep(wait * random.uniform(0.5, 1))
    raise AssertionError("the last wait is None")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later, as far as the error tells."""
    if isinstance(error, (FileNotFoundError, FileExistsError, PermissionError, UserError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PASSING
    library = type(error).__module__.partition(".")[0]
    return (
        library in ("botocore", "aiobotocore", "aiohttp", "fsspec") and type(error).__name__ not in _PERMANENT
    )
