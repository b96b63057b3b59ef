"""Which prompts stay: an outdoor test by rules, or by a language model's verdict."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from drspo.llm.ask import LLM
from drspo.ranges import Natural, Share
from pipeline.ideas.expanders import failed, one_line
from pipeline.ideas.questions import OutdoorVerdict, load_template
from pipeline.records import DROPPED

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """Which prompts are accepted."""

    filters: tuple[str, ...] = ("rules",)
    """rules, llm, or module:Class, in this order; the first that objects decides"""
    undecided: Literal["keep", "drop"] = "keep"
    """what the rules do with a text without indoor and outdoor words, such as one in another language"""
    template: str = "outdoor"
    """messages to the language model: outdoor, or a Markdown file"""
    near_duplicates: Share = 0.8
    """drop a prompt that shares this part of its five-letter shingles with an earlier one; 0 keeps all"""
    accept: Natural = 0
    """accept so many prompts, the first that pass, and drop the rest as surplus; 0 accepts all that pass"""


@dataclass(frozen=True)
class Objection:
    """Why a row leaves: "dead" when the filter failed on it, "unfinished" when that may pass."""

    reason: str
    status: Literal["dropped", "dead", "unfinished"] = "dropped"


class Filter(Protocol):
    """Objects to rows or not. Made as `Filter(settings, llm)`; a plugin may also be a plain function.

    `judges` says what it is shown: "idea", what the person asked, and "prompt", what an expander made of it;
    one that does not say is shown prompts alone. `asks` says that it costs questions to a language model.
    """

    name: str
    judges: tuple[str, ...]
    asks: bool

    def __call__(self, row: Row) -> Objection | str | None | Awaitable[Objection | str | None]:
        """None to keep the row, else the reason to drop it."""
        ...


class OutdoorRules:
    """Judges by words what the person asked; of what a model made of it, only whether it went indoors."""

    name = "rules"
    judges = ("idea", "prompt")

    def __init__(self, settings: FilterSettings, llm: Callable[[], LLM]) -> None:
        self.undecided = settings.undecided

    def __call__(self, row: Row) -> Objection | None:
        verdict = outdoor_by_rules(row["text"])
        if verdict is None:
            judged = bool(row["expander"])  # the idea was, and its expansion need not name it
            drop = self.undecided == "drop" and not judged
            return Objection("rules undecided: no indoor or outdoor word") if drop else None
        outdoor, words = verdict
        return None if outdoor else Objection(f"rules indoor: {', '.join(words)}")


class LLMOutdoor:
    """Asks a language model whether the prompt shows an outdoor scene."""

    name = "llm"
    judges = ("idea", "prompt")
    asks = True

    def __init__(self, settings: FilterSettings, llm: Callable[[], LLM]) -> None:
        self.llm, self.template = llm, load_template(settings.template)

    async def __call__(self, row: Row) -> Objection | None:
        answer = await self.llm().ask(self.template, OutdoorVerdict, prompt=row["text"])
        if answer.kind != "ok":
            status, reason = failed(answer)
            return Objection(reason, status)
        verdict = OutdoorVerdict.model_validate_json(answer.content)
        return None if verdict.outdoor else Objection(f"llm indoor: {one_line(verdict.because)}", DROPPED)


def outdoor_by_rules(text: str) -> tuple[bool, tuple[str, ...]] | None:
    """(outdoor, the words that say so), or None when no known word occurs. A tie is outdoor."""
    phrases, indoor, outdoor = _patterns()
    low = text.casefold()
    if found := phrases.search(low):
        return False, (found[0],)
    inside = tuple(dict.fromkeys(indoor.findall(low)))
    outside = tuple(dict.fromkeys(outdoor.findall(low)))
    if not inside and not outside:
        return None
    return (True, outside) if len(outside) >= len(inside) else (False, inside)


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    file = Path(__file__).parent / "words" / "outdoor.yaml"
    lists = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tuple(_any_of(lists[name]) for name in ("indoor_phrases", "indoor", "outdoor"))  # type: ignore[return-value]


def _any_of(words: list[str]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(longest_first)})(?:s|es)?\b")
