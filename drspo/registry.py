"""Registries are dict literals of lazy `module:attribute` targets; this resolves them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drspo import consent
from drspo.errors import UserError, did_you_mean


def lookup(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The object registered as `name`, imported on this first use.

    A name with a colon, such as `my_module:MyClass`, is a plugin: it is imported where the command
    line names it (see `drspo.consent`), and never for a file's sake. `kind` (for example "generator")
    only words the errors. Raises UserError for an unknown name, a plugin that nobody asked for, and
    one that cannot be imported.
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


def package_folder(reference: str) -> Path:
    """The folder that `package:NAME/sub/folder` names inside an installed package, which is not imported.

    Raises UserError when there is no such package or folder, and for a name that leads out of it.
    """
    package, _, inside = reference.removeprefix("package:").partition("/")
    # A dotted name would make Python import the package above it, and a reference may stand in a file.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package {package!r} is not installed", where=reference)
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inside).resolve()
    if not folder.is_relative_to(root):
        raise UserError("the name leads out of its package", where=reference)
    if not folder.is_dir():
        hint = f"Install it anew; our own are made with `python -m {package}.fit`."
        raise UserError(f"the package {package!r} holds no {inside!r}", where=str(folder), hint=hint)
    return folder


def _plugin(target: str, kind: str) -> Any:
    module = target.partition(":")[0]
    if not consent.allows(target):
        raise UserError(
            f"the {kind} {target!r} is code from outside, and only a file names it",
            hint=f"If you trust it, add: {consent.FLAG} {module}"
            if module.replace(".", "_").isidentifier()
            else "A plugin is written module:attribute.",
        )
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
