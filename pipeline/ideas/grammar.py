"""A small grammar: a vocabulary file, the words it hears in an idea, and the prompt composed from both.

A vocabulary has `axes` (such as time of day) with values; each value lists the words by which it is `heard`
in an idea and the phrases it contributes. A value that is heard is kept, other axes are drawn from a seed
that depends on the idea alone. `forms` are sentences over the axes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.texts import load_yaml, read_text
from drspo.hashing import content_hash, seed_from

FOLDER = Path(__file__).parent / "words"
_SLOT = re.compile(r"\{(a )?(\w+)(?:\.(\w+))?\}")
_TOKEN = re.compile(r"\w+")


@dataclass(frozen=True)
class Value:
    """One value of an axis: the words that name it in an idea, and its phrases by kind."""

    name: str
    heard: tuple[str, ...]
    phrases: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Vocabulary:
    """The axes and forms of one vocabulary file."""

    name: str
    hash: str
    axes: Mapping[str, tuple[Value, ...]]
    unheard: Mapping[str, str]
    forms: tuple[str, ...]
    shared: Mapping[str, tuple[str, ...]]

    def hear(self, idea: str) -> dict[str, Value]:
        """The values that the idea names, at most one per axis: the one whose word comes first."""
        tokens = _TOKEN.findall(idea.casefold())
        found: dict[str, Value] = {}
        for start in range(len(tokens)):
            for length in self.lengths:
                for axis, value in self.index.get(" ".join(tokens[start : start + length]), ()):
                    found.setdefault(axis, value)
        return found

    @cached_property
    def index(self) -> dict[str, list[tuple[str, Value]]]:
        """{a word, also in the plural: the (axis, value)s it stands for}."""
        table: dict[str, list[tuple[str, Value]]] = {}
        for axis, values in self.axes.items():
            for value in values:
                for form in (word + ending for word in value.heard if word for ending in ("", "s")):
                    table.setdefault(form, []).append((axis, value))
        return table

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """How many words the heard expressions have, the longest first."""
        return tuple(sorted({len(word.split()) for word in self.index}, reverse=True))

    def draw(self, idea: str, idea_id: str, seed: int, index: int) -> dict[str, Value]:
        """A value for every axis: what the idea names, else a draw from (idea, seed, index)."""
        heard = self.hear(idea)
        return {
            axis: heard.get(axis) or self._unheard(axis, seed_from(idea_id, seed, index, axis))
            for axis in self.axes
        }

    def compose(self, idea: str, idea_id: str, seed: int = 0, index: int = 0) -> str:
        """One prompt for the idea; the same arguments give the same prompt."""
        values = self.draw(idea, idea_id, seed, index)
        form = _pick(self.forms, idea_id, seed, index, "form")

        def fill(slot: re.Match[str]) -> str:
            phrases = self._phrases(slot[2], slot[3] or "say", values)
            phrase = idea if slot[2] == "idea" else _pick(phrases, idea_id, seed, index, slot[0])
            return _with_article(phrase) if slot[1] else phrase

        return " ".join(_SLOT.sub(fill, form).split())

    def _phrases(self, name: str, kind: str, values: Mapping[str, Value]) -> Sequence[str]:
        if name in values:
            return values[name].phrases[kind]
        if name in self.shared:
            return self.shared[name]
        # A word of a value's own, such as the preposition before a ground: the last axis with one decides.
        owners = [value.phrases[name] for value in values.values() if name in value.phrases]
        return owners[-1] if owners else ("",)

    def _unheard(self, axis: str, seed: int) -> Value:
        values = self.axes[axis]
        fixed = self.unheard.get(axis)
        if fixed:
            return next(value for value in values if value.name == fixed)
        return values[seed % len(values)]


@cache
def load_words(name: str) -> Vocabulary:
    """The vocabulary of this name that ships with the package, or the YAML file at this path."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        text = read_text(path)
    except UserError as error:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "outdoor"))
        what = f"cannot read the vocabulary {name!r}: {error.what}"
        raise UserError(what, str(path), f"Known: {known}.") from None
    data = load_yaml(text, str(path))
    try:
        return _vocabulary(path.stem, text, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"not a vocabulary: {error}", str(path)) from None


def _vocabulary(name: str, text: str, data: Any) -> Vocabulary:
    axes = {axis: tuple(_value(n, v) for n, v in values.items()) for axis, values in data["axes"].items()}
    shared = {word: tuple(phrases) for word, phrases in data.get("shared", {}).items()}
    forms = tuple(data["forms"])
    if not forms or not all(axes.values()):
        raise ValueError("it needs at least one form, and one value on every axis")
    vocabulary = Vocabulary(name, content_hash(text), axes, data.get("unheard", {}), forms, shared)
    _check_forms(vocabulary)
    return vocabulary


def _value(name: str, data: dict[str, Any]) -> Value:
    heard = tuple(" ".join(_TOKEN.findall(str(word).casefold())) for word in (name, *data.get("heard", ())))
    phrases = {kind: tuple(words) for kind, words in data.items() if kind != "heard"}
    return Value(name, heard, phrases)


def _check_forms(words: Vocabulary) -> None:
    """Every slot of every form must be filled by an axis, a shared word, the idea, or a value's own word."""
    own = {kind for values in words.axes.values() for value in values for kind in value.phrases}
    for form in words.forms:
        for _, name, kind in _SLOT.findall(form):
            if name in words.axes:
                missing = [v.name for v in words.axes[name] if not v.phrases.get(kind or "say")]
                if missing:
                    raise ValueError(f"{name} {missing[0]!r} has no phrase of kind {kind or 'say'!r}")
            elif name not in words.shared and name not in own and name != "idea":
                raise ValueError(f"a form asks for {name!r}, which is nowhere defined")


def _pick(options: Sequence[str], *key: str | int) -> str:
    return options[seed_from("pick", *key) % len(options)]


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"
