"""Configuration: nested frozen dataclasses are the truth, YAML and flags give the values.

A YAML file is flattened into `--a.b value` tokens that stand ahead of the user's own flags, and
tyro parses all of them: one parser, one type system, one style of error, and flags win. Scalars
travel as the text that was written, so `1e-5` is a float where the field is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from drspo import consent
from drspo.errors import UserError, did_you_mean
from drspo.ranges import check_ranges
from drspo.yaml_source import Entry, expected, read_entries

T = TypeVar("T")

GENERAL_FLAGS = """
--config NAME|FILE.yaml   a preset's name or a YAML file; may be repeated, the later one wins
--print-config            print the resolved configuration as YAML, which reproduces the run, and exit
--allow-plugins MODULE ... let plugins of these modules be imported that only a file names
--debug                   show tracebacks and debug messages
"""


def load(
    cls: type[T],
    argv: Sequence[str],
    *,
    package: str,
    prog: str,
    description: str = "",
) -> T:
    """The configuration that presets, YAML files and flags give together.

    `package` is the package whose `presets/` folder `--config NAME` refers to. Raises UserError
    (with file, line and the nearest name) for a bad YAML; a bad flag exits with code 2 through
    tyro; `--help` and `--print-config` print and exit with code 0.
    """
    sources, print_config, flags = _split_argv(consent.take(argv))
    entries: dict[str, Entry] = {}
    for source in sources:
        entries.update(read_entries(find_config(source, package), cls))
    config = _parse(cls, entries, flags, prog, description, presets(package))
    typed = {token.partition("=")[0].removeprefix("--").replace("-", "_") for token in flags}
    check_ranges(config, {key: entry.where for key, entry in entries.items() if key not in typed})
    if print_config:
        sys.stdout.write(dump(config))
        raise SystemExit(0)
    return config


def presets(package: str) -> dict[str, Path]:
    """The YAML files in `<package>/presets`, by name without suffix."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    roots = spec.submodule_search_locations if spec else None
    found: dict[str, Path] = {}
    for root in roots or []:
        for path in sorted((Path(root) / "presets").glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_config(source: str, package: str) -> Path:
    """The file that `--config source` means: a path when it looks like one, else a preset."""
    if source.endswith((".yaml", ".yml")) or "/" in source:
        path = Path(source)
        if not path.is_file():
            raise UserError(f"there is no configuration file {source!r}", where="--config")
        return path
    known = presets(package)
    if source not in known:
        hint = did_you_mean(source, known) or f"{package} ships no presets."
        hint += " A file is given by its path, ending in .yaml."
        raise UserError(f"{package} has no preset {source!r}", where="--config", hint=hint)
    return known[source]


def _split_argv(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """(configs, whether to print, remaining flags) of a command line."""
    sources: list[str] = []
    rest: list[str] = []
    print_config = False
    queue = list(argv)
    while queue:
        token = queue.pop(0)
        if token == "--config":
            if not queue or queue[0].startswith("--"):
                raise UserError("--config needs a preset's name or a YAML file")
            sources.append(queue.pop(0))
        elif token.startswith("--config="):
            sources.append(token.partition("=")[2])
        elif token == "--print-config":
            print_config = True
        else:
            rest.append(token)
    return sources, print_config, rest


def _parse(
    cls: type[T],
    entries: Mapping[str, Entry],
    flags: Sequence[str],
    prog: str,
    description: str,
    known_presets: Mapping[str, Path],
) -> T:
    # Options that take many values stand first, so that they cannot swallow a positional of the user.
    ordered = sorted(entries.values(), key=lambda entry: not entry.variadic)
    tokens = [token for entry in ordered for token in entry.tokens]
    _check_entries(cls, ordered, prog)
    # A positional cannot be overridden by a later token, so a file's value becomes its default.
    positional = {entry.key: entry.positional for entry in ordered if entry.positional is not None}
    default = cls(**positional) if positional else None
    text = _describe(description, known_presets)
    return _tyro(cls, tokens + _spell_booleans(cls, flags), prog, text, default)


def _describe(description: str, known_presets: Mapping[str, Path]) -> str:
    names = f"\nPresets: {', '.join(known_presets)}." if known_presets else ""
    return f"{description}\n{GENERAL_FLAGS.rstrip()}{names}".strip()


def _tyro(
    cls: type[T],
    args: Sequence[str],
    prog: str,
    description: str = "",
    default: T | None = None,
    quiet: bool = False,
) -> T:
    import tyro  # only here: help and dispatch answer without it

    # Given only where there is one, since None would be taken for a default as well.
    extra: dict[str, Any] = {} if default is None else {"default": default}
    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        parsed: T = tyro.cli(cls, args=list(args), prog=prog, description=description, **extra)
    return parsed


def _check_entries(cls: type, entries: Sequence[Entry], prog: str) -> None:
    """Names file and line of the first YAML value that its field does not accept."""
    try:
        _tyro(cls, [token for entry in entries for token in entry.tokens], prog, quiet=True)
        return
    except SystemExit:
        pass
    for entry in entries:
        try:
            _tyro(cls, entry.tokens, prog, quiet=True)
        except SystemExit:
            raise UserError(
                f"{entry.key} does not accept {entry.text!r}",
                where=entry.where,
                hint=f"It takes {entry.expects}.",
            ) from None


def _spell_booleans(cls: type, flags: Sequence[str]) -> list[str]:
    """Accepts `--flag True` and `--flag=false` beside tyro's `--flag` and `--no-flag`."""
    from drspo.yaml_source import boolean_tokens, fields_by_key

    switches = {key for key, kind in fields_by_key(cls).items() if kind is bool}
    spelled: list[str] = []
    queue = list(flags)
    while queue:
        token = queue.pop(0)
        key, equals, value = token.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if token.startswith("--") and key in switches:
            if not equals and queue and queue[0].lower() in ("true", "false"):
                value = queue.pop(0)
            if value.lower() in ("true", "false"):
                spelled += boolean_tokens(key, value.lower() == "true")
                continue
        spelled.append(token)
    return spelled


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts, lists and scalars, ready for JSON and YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    return str(value) if isinstance(value, PurePath) else value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass that `to_dict` was given.

    UserError for an unknown key, with the nearest name, for a value of another type than its field's, and
    for a number out of its range: the values may come from a file.
    """
    config = _from_dict(cls, values)
    check_ranges(config)
    return config


def _from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in values:
        if key not in known:
            raise UserError(f"{cls.__name__} has no field {key!r}", hint=did_you_mean(key, known))
    typed = {}
    for key, value in values.items():
        try:
            typed[key] = _typed(hints[key], value)
        except (TypeError, ValueError):
            hint = f"It takes {expected(hints[key])}."
            raise UserError(f"{key} of {cls.__name__} does not accept {value!r:.200}", hint=hint) from None
    return cls(**typed)


def _typed(kind: Any, value: Any) -> Any:
    """The value as its field's type has it; TypeError or ValueError for one of another kind."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else _from_dict(kind, _only(Mapping, value))
    if origin is tuple:
        items = _only((list, tuple), value)
        kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else list(inner)
        return tuple(_typed(each, item) for each, item in zip(kinds, items, strict=True))
    if origin is list:
        return [_typed(inner[0], item) for item in _only((list, tuple), value)]
    if origin is dict:
        return {key: _typed(inner[1], item) for key, item in _only(Mapping, value).items()}
    if origin is typing.Literal:
        return inner[inner.index(value)]
    return _scalar(kind, value)


def _scalar(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(value)
    if kind is float and not isinstance(value, bool):
        return float(_only((int, float, str), value))  # YAML takes 1e-5 for a text
    if kind in (int, str, bool):
        return _only(kind, value)
    return value


def _only(kinds: Any, value: Any) -> Any:
    if not isinstance(value, kinds) or (kinds is int and isinstance(value, bool)):
        raise TypeError
    return value


def dump(config: Any) -> str:
    """A configuration as YAML that `--config` reads back to an equal configuration."""
    text: str = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=100)
    return text


def config_hash(obj: Any, length: int = 12) -> str:
    """The first hex digits of the SHA-256 over the canonical JSON of a configuration or plain value."""
    text = json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:length]
