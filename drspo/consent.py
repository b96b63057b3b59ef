"""What the person at the command line has named: only that makes foreign code run and keys travel.

A name of code in a YAML, a record, a run folder, a checkpoint or a data set is data. It becomes code when
the command line holds it too, as the value of an option or by `--allow-plugins MODULE`. The two parsers of
command lines (`drspo.cli.execute`, `drspo.config.load`) write this state, `drspo.registry.lookup` and
whatever hands out a key ask it, so a new place that looks something up is safe without knowing of it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from drspo.errors import UserError

FLAG = "--allow-plugins"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PLUGIN = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")


@dataclass
class _State:
    said: dict[str, set[str]] = field(default_factory=dict)
    """the values of each option on the command line"""
    allowed: set[str] = field(default_factory=set)
    """modules, and plugins by their whole name"""


_STATE = _State()


def take(argv: Sequence[str]) -> list[str]:
    """The command line without `--allow-plugins MODULE ...`; it is remembered as what the person said.

    Call it with what was typed and never with what a file holds. Raises UserError when the flag has no
    module, a word that is none, or one that is not installed.
    """
    rest: list[str] = []
    for option, equals, values in _options(argv):
        if option == FLAG:
            allow(*_modules(values))
            continue
        name = option.removeprefix("--").replace("-", "_")
        if option:
            say(name, *values)
        rest += [f"{option}={values[0]}", *values[1:]] if equals else [option, *values] if option else values
    return rest


def say(option: str, *values: str) -> None:
    """Remembers that the person gives these values to an option; a Python program says so for itself."""
    _STATE.said.setdefault(option, set()).update(values)
    _STATE.allowed.update(_plugins(values))


def allow(*names: str) -> None:
    """Lets plugins of these modules (with what lies below them), or of these whole names, be imported.

    For what a driver hands on to its workers, and for a Python program that names plugins itself.
    """
    for name in names:
        if not (_MODULE.fullmatch(name) or _PLUGIN.fullmatch(name)):
            raise UserError(f"{name!r} is no module's name", FLAG)
    _STATE.allowed.update(names)


def allowed() -> tuple[str, ...]:
    """Everything that was allowed, to be handed on to a worker's `allow`."""
    return tuple(sorted(_STATE.allowed))


def allows(plugin: str) -> bool:
    """Whether the plugin `module:Class` may be imported."""
    module = plugin.partition(":")[0]
    if not _PLUGIN.fullmatch(plugin):
        return False
    parents = (module[:end] for end in [i for i, c in enumerate(module) if c == "."] + [len(module)])
    return plugin in _STATE.allowed or any(parent in _STATE.allowed for parent in parents)


def said(option: str, value: str) -> bool:
    """Whether the command line gives this very value to the option (its dotted name: llm.base_url)."""
    return value in _STATE.said.get(option, ())


def values(*options: str) -> set[str]:
    """Everything that the command line gives to these options (dotted names)."""
    return set().union(*(_STATE.said.get(option, ()) for option in options))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """(option, whether its first value follows a "=", what follows) of a command line, in order."""
    option, equals, values = "", False, list[str]()
    for token in argv:
        if not token.startswith("--"):
            values.append(token)
            continue
        if option or values:
            yield option, equals, values
        option, sign, value = token.partition("=")
        equals, values = bool(sign), [value] if sign else []
    if option or values:
        yield option, equals, values


def _plugins(values: Iterable[str]) -> Iterator[str]:
    """The values that name a plugin, also behind a name for it: near=module:Class."""
    for value in values:
        target = value.rpartition("=")[2]
        if _PLUGIN.fullmatch(target):
            yield target


def _modules(values: Sequence[str]) -> Sequence[str]:
    if not values:
        raise UserError("which modules may be imported?", FLAG, f"For example {FLAG} my_module.")
    for value in values:
        top = value.partition(":")[0].partition(".")[0]
        if not (_MODULE.fullmatch(value) or _PLUGIN.fullmatch(value)):
            raise UserError(f"{value!r} is no module's name", FLAG, "Put prompts and the like before it.")
        if importlib.util.find_spec(top) is None:
            hint = "It must be installed, or lie in a folder on PYTHONPATH."
            raise UserError(f"there is no module {top!r}", FLAG, hint)
    return values
