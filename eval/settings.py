"""How metrics, and everything else that has a name and settings, are chosen in a configuration.

A choice is `name`, `module:Class` or `own_name=name`; its settings are words of `drspo.options`.
"""

from __future__ import annotations

from collections.abc import Sequence

from drspo.errors import UserError


def named(entries: Sequence[str], where: str) -> dict[str, str]:
    """Each choice by the name of its settings and column; UserError for a name no column can have."""
    found: dict[str, str] = {}
    for entry in entries:
        name, given, target = entry.partition("=")
        if given and not (name.isidentifier() and target):
            hint = "write name=scorer; a name has letters, digits and underscores"
            raise UserError(f"{entry!r} does not name a scorer", where, hint)
        found[name] = target or name
    return found


def short_names(names: Sequence[str], hint: str = "") -> tuple[str, ...]:
    """Registered names as they are, and the class of a module:Class plugin. UserError when two are equal."""
    short = tuple(name.rpartition(":")[2] for name in names)
    twice = [name for name in dict.fromkeys(short) if short.count(name) > 1]
    if twice:
        hint = hint or f"name each scorer once, or one of them otherwise: second={twice[0]}"
        raise UserError(f"a name is used twice: {', '.join(twice)}", "", hint)
    return short
