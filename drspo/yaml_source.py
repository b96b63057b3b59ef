"""A YAML file as command-line tokens, each of which knows the file and line that it came from."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import yaml

from drspo.errors import UserError, did_you_mean
from drspo.files.texts import compose_yaml, read_text

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
NULL_TAG = "tag:yaml.org,2002:null"
INFINITIES = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One configured field: its dotted key, the tokens that set it, and where it was written."""

    key: str
    tokens: tuple[str, ...]
    text: str
    where: str
    expects: str
    variadic: bool
    positional: str | tuple[str, ...] | None = None
    """The value of a positional, which no token can set; None for an option."""


def fields_by_key(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every leaf field of a nested dataclass."""
    leaves: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind, key = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            leaves.update(fields_by_key(kind, key + "."))
        else:
            leaves[key] = kind
    return leaves


def read_entries(path: Path, cls: type) -> dict[str, Entry]:
    """The entries of a YAML file by dotted key, checked against the fields of `cls`.

    Raises UserError with file and line for bad YAML, an unknown or doubled key, a missing value.
    """
    root = compose_yaml(read_text(path), str(path))
    if root is None:
        return {}
    entries: dict[str, Entry] = {}
    _walk(root, cls, "", path, entries)
    return entries


def _walk(node: yaml.Node, cls: type, prefix: str, path: Path, entries: dict[str, Entry]) -> None:
    if not isinstance(node, yaml.MappingNode):
        name = prefix.rstrip(".") or "the file"
        raise UserError(f"{name} must be a mapping of names to values", where=_where(path, node))
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name = str(key_node.value)
        where = _where(path, key_node)
        if name not in names:
            raise UserError(f"unknown key {prefix + name!r}", where=where, hint=did_you_mean(name, names))
        if name in seen:
            raise UserError(f"the key {prefix + name!r} is given twice", where=where)
        seen.add(name)
        kind = hints[name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            _walk(value_node, kind, f"{prefix}{name}.", path, entries)
        else:
            annotated = typing.get_type_hints(cls, include_extras=True)[name]
            entries[prefix + name] = _entry(
                prefix + name, kind, annotated, value_node, _where(path, value_node)
            )


def _entry(key: str, kind: Any, annotated: Any, node: yaml.Node, where: str) -> Entry:
    values = _values(key, kind, node, where)
    variadic = typing.get_origin(kind) in (tuple, list, dict, set, frozenset)
    positional = any("Positional" in repr(mark) for mark in getattr(annotated, "__metadata__", ()))
    tokens: tuple[str, ...]
    if not variadic and len(values) != 1:
        raise UserError(f"{key} is one value, not a list", where=where)
    if kind is bool:
        tokens = boolean_tokens(key, _truth(key, values[0], where))
    elif positional:
        tokens = ()
    else:
        tokens = _option_tokens(key, values, where)
    expects = expected(kind)
    return Entry(
        key=key,
        tokens=tokens,
        text=" ".join(values),
        where=where,
        expects=expects,
        variadic=variadic,
        positional=(tuple(values) if variadic else values[0]) if positional else None,
    )


def expected(kind: Any) -> str:
    """What a field of this type takes, in words."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    return str(kind).replace("typing.", "") if inner else getattr(kind, "__name__", str(kind))


def _values(key: str, kind: Any, node: yaml.Node, where: str) -> list[str]:
    """The scalar texts below a node, as they were written."""
    if isinstance(node, yaml.SequenceNode):
        return [text for item in node.value for text in _values(key, kind, item, where)]
    if isinstance(node, yaml.MappingNode):
        if typing.get_origin(kind) is not dict:
            raise UserError(f"{key} is one value, not a mapping", where=where)
        return [text for pair in node.value for item in pair for text in _values(key, kind, item, where)]
    if node.tag == NULL_TAG and type(None) not in typing.get_args(kind):
        raise UserError(
            f"{key} has no value", where=where, hint='Write "" for an empty text, [] for an empty list.'
        )
    numeric = float in (kind, *typing.get_args(kind))
    return [INFINITIES.get(str(node.value).lower(), node.value) if numeric else str(node.value)]


def _truth(key: str, text: str, where: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise UserError(f"{key} does not accept {text!r}", where=where, hint="It takes true or false.")
    return text.lower() in TRUE


def boolean_tokens(key: str, value: bool) -> tuple[str]:
    """tyro's spelling of a switch: `--a.flag` or `--a.no-flag`."""
    path, dot, name = key.rpartition(".")
    return (f"--{path}{dot}{'' if value else 'no-'}{name}".replace("_", "-"),)


def _option_tokens(key: str, values: list[str], where: str) -> tuple[str, ...]:
    option = "--" + key.replace("_", "-")
    dashed = [value for value in values if value.startswith("-") and not _is_number(value)]
    if not dashed:
        return (option, *values)
    if len(values) > 1:
        raise UserError(f"a list may not hold {dashed[0]!r}: it reads like a flag", where=where)
    return (f"{option}={values[0]}",)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return not text.lower().startswith("-inf")


def _where(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"
