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
    undecided: Literal["keep", "drop"] = "drop"
    """what the rules do with an idea without any word they know, such as one in another language, where no
    language model is asked"""
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
        # A language model that is asked anyway decides better than a missing word.
        self.drop = settings.undecided == "drop" and "llm" not in settings.filters

    def __call__(self, row: Row) -> Objection | None:
        verdict = outdoor_by_rules(row["text"])
        if verdict is None:
            judged = bool(row["expander"])  # the idea was, and its expansion need not name it
            drop = self.drop and not judged
            return Objection("rules undecided: no word that names a scene") if drop else None
        outdoor, words = verdict
        return None if outdoor else Objection(f"rules not outdoor: {', '.join(words)}")


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
    """(outdoor, the words that say so), or None when no known word occurs; a tie goes to the subject."""
    rules = _rules()
    low = _LIKENESS.sub(" ", text.casefold())
    if found := rules.alone.search(low):
        return False, (found[0],)
    votes: dict[bool, dict[str, float]] = {True: {}, False: {}}
    subject: bool | None = None
    for match in rules.words.finditer(low):
        word = match[0] if match[0] in rules.weights else match[1]
        outdoor, weight = rules.weights[word]
        if subject is None and weight >= HEAVY:
            subject, weight = outdoor, 2 * weight
        votes[outdoor].setdefault(word, weight)
    scores = {side: sum(words.values()) for side, words in votes.items()}
    if not any(votes.values()):
        return None
    outdoor = scores[True] > scores[False] or (scores[True] == scores[False] and subject is True)
    return outdoor, tuple(votes[outdoor])


HEAVY = 3  # the weight of a word that can be a picture's subject
FOR = ("places", "landmarks", "signs")
# What only looks like something: "cookies shaped like clouds", "a mug with a mountain print", "beach-themed".
_LIKENESS = re.compile(
    r"\b(?:shaped like|in the (?:form|shape) of|printed with|(?:tattoo|mural|print|icon) of)\b[^,.;]*"
    r"|\b[\w-]+-(?:shaped|themed|colou?red|flavou?red|inspired|print|patterned)\b"
    r"|\b\w+ (?:print|motif|company|app|murals?)\b"
    r"|\b(?:words?|text|letters?)\s+(?:\"[^\"]*\"|'[^']*'|“[^”]*”|‘[^’]*’)"  # writing
)


@dataclass(frozen=True)
class _Rules:
    alone: re.Pattern[str]
    words: re.Pattern[str]
    weights: dict[str, tuple[bool, int]]


@cache
def _rules() -> _Rules:
    file = Path(__file__).parent / "words" / "outdoor.yaml"
    lists = yaml.safe_load(file.read_text(encoding="utf-8"))
    alone = lists.pop("against_alone")
    weights: dict[str, tuple[bool, int]] = {}
    for name, one in lists.items():
        for word in one["words"]:
            vote = (name in FOR, int(one["weight"]))
            weights.setdefault(word, vote)
            if re.search("[^aeiou]y$", word):
                weights.setdefault(f"{word[:-1]}ies", vote)
    return _Rules(_any_of(alone), _any_of(list(weights)), weights)


def _any_of(words: list[str]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, map(str, words)), key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(longest_first)})(?:s|es)?\b")
