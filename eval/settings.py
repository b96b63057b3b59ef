"""How metrics, and everything else that has a name and settings, are chosen in a configuration.

A choice is `name`, `module:Class` or `own_name=name`; a setting is `name.key=value`. The same words work for
the benchmark, for the dataset builder and for plugins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from drspo.errors import UserError
from drspo.files.texts import load_yaml


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


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Registered names as they are, and the class of a module:Class plugin. UserError when two are equal."""
    short = tuple(name.rpartition(":")[2] for name in names)
    if len(set(short)) < len(short):
        raise UserError(f"a name is used twice: {', '.join(short)}")
    return short


def options_of(options: Iterable[str], name: str) -> dict[str, Any]:
    """The settings meant for `name` among name.key=value entries; values are YAML scalars."""
    found: dict[str, Any] = {}
    for entry in options:
        path, equals, value = entry.partition("=")
        owner, dot, key = path.rpartition(".")
        if not (equals and dot and owner and key):
            raise UserError(f"{entry!r} is not name.key=value", "options")
        if owner == name:
            found[key] = load_yaml(value, f"options: {entry}")
    return found


def check_options(options: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raise UserError for an option of something that is not used: it would change nothing."""
    for entry in options:
        owner = entry.partition("=")[0].rpartition(".")[0]
        if owner not in names:
            raise UserError(f"{entry!r} sets an option of {owner!r}, which this run does not use", where)
