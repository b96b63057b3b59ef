"""The page of every setting, written from the dataclasses: python -m drspo.reference > docs/reference.md"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from drspo.config import to_dict
from drspo.ranges import Range
from drspo.registry import resolve

PROGRAMS = {
    "generate": ("drspo generate", "generate.program.config:Config"),
    "build": ("drspo build", "dataset_builder.config:BuildConfig"),
    "train": ("drspo train", "train.config:TrainConfig"),
    "eval": ("drspo eval", "eval.config:EvalConfig"),
    "score": ("drspo score", "dataset_builder.score:ScoreConfig"),
    "eval-score": ("drspo eval score", "eval.score:ScoreConfig"),
    "study": ("drspo study", "drspo.study.command:StudyConfig"),
    "demo": ("drspo demo", "drspo.demo.config:DemoConfig"),
}
HEAD = """# Every setting

Written by `python -m drspo.reference` from the dataclasses, whose names, types, ranges and defaults these
are. How presets, files and flags come together is told in [configuration](configuration.md). A flag
`--a.b-c` is the key `a: {b_c: ...}` of a YAML file. Groups that several programs share stand here once,
where they first occur. Commands that are not listed have few flags: `drspo COMMAND --help`.
"""
_SCALARS = {str: "text", int: "a whole number", float: "a number", bool: "a switch"}


def page() -> str:
    """The whole page as Markdown."""
    seen: dict[type, str] = {}
    parts = [HEAD]
    for command, target in PROGRAMS.values():
        parts += _group(resolve(target), command, "", seen)
    return "\n".join(parts)


def _group(cls: type, command: str, prefix: str, seen: dict[type, str]) -> Iterator[str]:
    """One dataclass as a heading and a table, and behind it those of its fields that are new."""
    heading = f"{command} --{prefix.rstrip('.')}" if prefix else command
    seen[cls] = heading
    said, hints = documented(cls), typing.get_type_hints(cls, include_extras=True)
    rows, below = [], []
    for field in dataclasses.fields(cls):
        flag, kind = f"--{prefix}{field.name}".replace("_", "-"), hints[field.name]
        if dataclasses.is_dataclass(kind):
            if kind not in seen:
                below.append((typing.cast(type, kind), f"{prefix}{field.name}.".replace("_", "-")))
                place = f"{command} {flag}"
            else:
                place = seen[typing.cast(type, kind)]
            about = f"{said[field.name].rstrip('.')}. " if field.name in said else ""
            meaning = f"{about}[These]({_anchor(place)}).{_differs(field, kind)}"
            rows.append(f"| `{flag}.…` | a group | | {meaning} |")
            continue
        name = field.name.upper() if _is_positional(kind) else flag
        rows.append(f"| `{name}` | {_kind(kind)} | {_default(field)} | {_cell(said.get(field.name, ''))} |")
    yield f"## {heading}\n" if not prefix else f"### {heading}\n"
    yield _cell(inspect.getdoc(cls) or "").split(". ")[0].rstrip(".") + ".\n"
    yield "| flag | what it takes | default | what it does |\n|---|---|---|---|"
    yield "\n".join(rows) + "\n"
    for kind, deeper in below:
        if kind not in seen:
            yield from _group(kind, command, deeper, seen)


def documented(cls: type) -> dict[str, str]:
    """The text that stands below each field of a dataclass, its parents' fields included."""
    found: dict[str, str] = {}
    for one in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]).body
        for field, text in zip(body, body[1:]):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = inspect.cleandoc(str(text.value.value))  # type: ignore[attr-defined]
    return found


def _kind(kind: Any) -> str:
    """What a field takes, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        ranges = [str(extra) for extra in arguments[1:] if isinstance(extra, Range)]
        whole = arguments[0] is int and ranges and ranges[0].startswith("a number")
        said = ranges[0].replace("a number", "a whole number", 1) if whole else "".join(ranges)
        return _cell(said or _kind(arguments[0]))
    if origin is Literal:
        return ", ".join(f"`{value}`" if value != "" else "nothing" for value in arguments)
    if origin is tuple:
        return f"several: {_kind(arguments[0])}"
    return _SCALARS.get(kind, _cell(getattr(kind, "__name__", str(kind))))


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return " ".join(f"`{item}`" for item in value)
    return f"`{value}`" if value != "" else ""


def _differs(field: dataclasses.Field[Any], kind: Any) -> str:
    """Defaults of a group that are other ones where this field has it."""
    if field.default_factory is dataclasses.MISSING or field.default_factory is kind:
        return ""
    usual, here = to_dict(kind()), to_dict(field.default_factory())
    other = ", ".join(f"`{name}` is `{here[name]}`" for name in usual if usual[name] != here[name])
    return f" Here {other}." if other else ""


def _is_positional(kind: Any) -> bool:
    return "Positional" in str(kind) or "positional" in str(getattr(kind, "__metadata__", "")).lower()


def _anchor(heading: str) -> str:
    """The address that MkDocs gives a heading."""
    return "#" + re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
