"""Settings of things that are chosen by name, as words: name.key=value, values as YAML has them.

The same words work for scorers, for generators of the builder and of a benchmark, and for plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from drspo.errors import UserError
from drspo.files.texts import load_yaml


def options_of(options: Iterable[str], *names: str, where: str = "options") -> dict[str, Any]:
    """The settings meant for a thing, which may go by several names; name.a.b=1 is nested.

    UserError for an entry that is no name.key=value, whosever it is, and for a value that cannot be read.
    """
    found: dict[str, Any] = {}
    for entry in options:
        path, equals, value = entry.partition("=")
        owner, dot, key = path.rpartition(".")
        if not (equals and dot and owner and key):
            raise UserError(f"{entry!r} is not name.key=value", where)
        name = next((name for name in names if path.startswith(f"{name}.")), None)
        if name is None:
            continue
        *above, last = path.removeprefix(f"{name}.").split(".")
        place = found
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"{entry!r} goes into {part!r}, which has a value", where)
        place[last] = load_yaml(value, f"{where}: {entry}")
    return found


def check_options(options: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raise UserError for an option of something that is not used: it would change nothing."""
    for entry in options:
        path = entry.partition("=")[0]
        if not any(path.startswith(f"{name}.") for name in names):
            owner = path.rpartition(".")[0]
            raise UserError(f"{entry!r} sets an option of {owner!r}, which this run does not use", where)
