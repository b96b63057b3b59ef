"""The one exception that is meant for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake its user can mend: what is wrong, where (file:line, flag, path), and what to do.

    Programs print it without a traceback and exit with code 2.
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        advice = f"\n  {self.hint}" if self.hint else ""
        return f"{self.what}{place}{advice}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """One sentence with the nearest known name, or the list of all when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names)}." if names else ""
