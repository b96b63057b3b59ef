"""Registries are dict literals of lazy `module:attribute` targets; this resolves them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from drspo.errors import UserError, did_you_mean


def lookup(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The object registered as `name`, imported on this first use.

    A name with a colon, such as `my_module:MyClass`, is resolved directly: that is the plugin
    system. `kind` (for example "generator") only words the errors. Raises UserError for an
    unknown name and for a plugin that cannot be imported.
    """
    if name in table:
        return resolve(table[name])
    if ":" in name:
        return _plugin(name, kind)
    raise UserError(f"unknown {kind} {name!r}", hint=did_you_mean(name, table))


def resolve(target: str) -> Any:
    """The attribute that `module:attribute` names."""
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _plugin(target: str, kind: str) -> Any:
    module = target.partition(":")[0]
    try:
        return resolve(target)
    except ModuleNotFoundError as error:
        # A missing dependency *inside* the plugin is its author's bug and keeps its traceback.
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise UserError(
            f"{kind} {target!r}: there is no module {error.name!r}",
            hint="A plugin is written module:attribute, and the module must be importable "
            "(installed, or in a folder on PYTHONPATH).",
        ) from error
    except AttributeError as error:
        raise UserError(
            f"{kind} {target!r}: {error}", hint="A plugin is written module:attribute."
        ) from error
