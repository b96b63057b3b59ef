"""Our packages have plain names (train, eval, ...); this finds a file of the user's that shadows one."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from drspo.errors import UserError

PACKAGES = ("drspo", "miniature", "generate", "eval", "pipeline", "dataset_builder", "train")
ROOT = Path(__file__).resolve().parent.parent


def shadowed() -> dict[str, str]:
    """Package name -> the foreign file that Python would import instead of ours, or "" for nothing found."""
    foreign = {}
    for name in PACKAGES:
        origin = _origin(name)
        if origin != str(ROOT / name / "__init__.py"):
            foreign[name] = origin
    return foreign


def _origin(name: str) -> str:
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None):
        return os.path.realpath(str(loaded.__file__))
    spec = importlib.util.find_spec(name)
    if spec is None:
        return ""
    if spec.origin and spec.origin not in ("namespace", "built-in"):
        return os.path.realpath(spec.origin)
    return next(iter(spec.submodule_search_locations or []), "")


def drop_working_directory() -> None:
    """Takes the working directory off the import path, unless our packages live there.

    A console command has no business importing from the folder in which it is typed: a user's own
    `train.py` there would win over ours.
    """
    here = os.path.realpath(os.getcwd())
    if here != str(ROOT):
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]
        importlib.invalidate_caches()


def refuse_shadows() -> None:
    """Raises UserError naming the first file that shadows one of our packages."""
    for name, origin in shadowed().items():
        if not origin:
            raise UserError(
                f"our package {name!r} is missing beside {ROOT / 'drspo'}", hint="Install drspo anew."
            )
        raise UserError(
            f"{origin} shadows our package {name!r}",
            where="import path",
            hint=f"Rename it, work in another folder, or use the console command, for example: drspo {name}.",
        )
