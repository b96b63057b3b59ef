"""Text, JSON and YAML from elsewhere: bounded in size and depth, and every fault of theirs a clear error.

YAML's aliases can say in 300 bytes what fills a machine's memory, and nested brackets can exhaust a parser,
so neither gets far. JSON's NaN and Infinity are no numbers here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import yaml

from drspo.errors import UserError

MOST_BYTES = 1 << 20  # of a configuration, a vocabulary, a template: a thousand times what ours have
MOST_JSON = 64 << 20  # of the JSON that programs write: lists of pairs, manifests
MOST_LEVELS = 64


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The file's text; UserError when it is missing, no file, larger than `most` bytes or not UTF-8."""
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            raise UserError(
                "this is a folder, not a file" if path.is_dir() else "there is no such file", str(path)
            )
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot read the file: {error.strerror}", str(path)) from error
    if len(data) > most:
        raise UserError(f"the file is larger than {most} bytes, which no such file is", str(path))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError("the file is not UTF-8 text", str(path)) from error


def read_json(path: Path, most: int = MOST_JSON, *, infinite: bool = False) -> Any:
    """The JSON value in the file; UserError as `read_text` and `parse_json` say."""
    return parse_json(read_text(path, most), str(path), infinite=infinite)


def parse_json(text: str | bytes, where: str, *, infinite: bool = False, hint: str = "") -> Any:
    """The JSON value; UserError for what is none, is nested beyond reason, or holds NaN or Infinity.

    `infinite` lets Infinity and -Infinity through, which diffusers writes for a bound that does not bind.
    """
    try:
        return json.loads(text, parse_constant=_no_nan if infinite else _no_number)
    except RecursionError as error:
        raise UserError("this JSON is nested too deeply", where, hint) from error
    except ValueError as error:
        raise UserError(f"this is not JSON: {error}", where, hint) from error


def compose_yaml(text: str, where: str) -> yaml.Node | None:
    """The YAML document as nodes with their lines; UserError, with the line, for what is not to be read."""
    try:
        node: yaml.Node | None = _composed(text)
        return node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise UserError(f"not valid YAML: {getattr(error, 'problem', None) or error}", place) from error


def load_yaml(text: str, where: str) -> Any:
    """The YAML document as plain values; UserError as `compose_yaml`, and for a value that is malformed."""
    node = compose_yaml(text, where)
    if node is None:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {getattr(error, 'problem', None) or error}", where) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a 13th month, an unhashable key
        raise UserError(f"a value in this YAML is malformed: {error}", where) from error


def _no_nan(name: str) -> float:
    return float(name) if name.endswith("Infinity") else _no_number(name)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _composed(text: str) -> Any:
    loader = _Composer(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


class _Composer(yaml.SafeLoader):
    """Composes without aliases and to a bounded depth; PyYAML calls itself for every level."""

    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
        if self.levels >= MOST_LEVELS:
            raise yaml.composer.ComposerError(None, None, "it is nested too deeply", event.start_mark)
        self.levels += 1
        try:
            return super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        finally:
            self.levels -= 1


def is_unicode(text: str) -> bool:
    """Whether the text can be stored: a lone surrogate, such as a byte that is not UTF-8 becomes, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
