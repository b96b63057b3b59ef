"""From one idea to k scroll prompts: by a language model, by a small grammar, or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from drspo.llm.ask import LLM, Answer
from drspo.ranges import Range, Seed
from pipeline.ideas.grammar import load_words
from pipeline.ideas.questions import Expansion, load_template
from pipeline.records import DEAD, DROPPED, OK, UNFINISHED, Status, normalise_text

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ExpandSettings:
    """How ideas become prompts."""

    expander: str = "grammar"
    """none, grammar, llm, or module:Class"""
    per_idea: Annotated[int, Range(1, 64)] = 1
    """prompts to write for one idea"""
    words: str = "scroll"
    """vocabulary of the grammar: scroll, miniature, or a YAML file"""
    template: str = "expand"
    """messages to the language model: expand, or a Markdown file"""
    max_words: Annotated[int, Range(1, 10_000)] = 60
    """longest prompt a language model may write; CLIP reads 77 tokens, about 60 English words"""
    seed: Seed = 0
    """changes what the grammar draws"""


@dataclass(frozen=True, kw_only=True)
class Expanded:
    """The prompts for one idea; without any, `status` and `reason` say why there are none."""

    prompts: Sequence[str] = ()
    status: Status = "ok"
    reason: str = ""
    model: str = ""
    request_hash: str = ""


class Expander(Protocol):
    """Writes prompts for an idea. Made as `Expander(settings, llm)`; `llm()` gives the language model."""

    name: str

    async def expand(self, row: Row) -> Expanded:
        """The prompts for the idea in `row["text"]`."""
        ...


class NoExpander:
    """Takes the ideas as prompts."""

    name = "none"

    def __init__(self, settings: ExpandSettings, llm: Callable[[], LLM]) -> None:
        pass

    async def expand(self, row: Row) -> Expanded:
        return Expanded(prompts=(row["text"],))


class GrammarExpander:
    """Composes prompts from a vocabulary file; needs no language model."""

    name = "grammar"

    def __init__(self, settings: ExpandSettings, llm: Callable[[], LLM]) -> None:
        self.settings = settings
        self.words = load_words(settings.words)

    async def expand(self, row: Row) -> Expanded:
        seed, count = self.settings.seed, self.settings.per_idea
        prompts = [self.words.compose(row["text"], row["prompt_id"], seed, index) for index in range(count)]
        return Expanded(prompts=tuple(dict.fromkeys(prompts)), model=f"words:{self.words.name}")


class LLMExpander:
    """Asks a language model, and takes from its answer only texts that look like prompts."""

    name = "llm"

    def __init__(self, settings: ExpandSettings, llm: Callable[[], LLM]) -> None:
        self.settings, self.llm = settings, llm
        self.template = load_template(settings.template)

    async def expand(self, row: Row) -> Expanded:
        llm, template = self.llm(), self.template
        limits = {"count": self.settings.per_idea, "max_words": self.settings.max_words}
        answer = await llm.ask(template, Expansion, idea=row["text"], **limits)
        traced = {"model": answer.model or llm.settings.model, "request_hash": answer.request_hash}
        if answer.kind != "ok":
            status, reason = failed(answer)
            return Expanded(status=status, reason=reason, **traced)
        return _checked(Expansion.model_validate_json(answer.content), self.settings, traced)


def failed(answer: Answer) -> tuple[Literal["dead", "unfinished"], str]:
    """What an answer without content means: what may pass leaves the row unfinished, the rest kills it."""
    passes = answer.kind in ("transient", "budget")
    return UNFINISHED if passes else DEAD, f"llm {answer.kind}: {answer.reason}"


def _checked(answer: Expansion, settings: ExpandSettings, traced: dict[str, str]) -> Expanded:
    if answer.unsuitable.strip() and not answer.prompts:
        return Expanded(status=DROPPED, reason=f"llm unsuitable: {one_line(answer.unsuitable)}", **traced)
    texts = dict.fromkeys(normalise_text(text) for text in answer.prompts)
    problems = {text: not_a_prompt(text, settings.max_words) for text in texts}
    good = [text for text, problem in problems.items() if not problem][: settings.per_idea]
    if good:
        return Expanded(prompts=tuple(good), status=OK, **traced)
    why = next(iter(problems.values()), "the list of prompts is empty")
    return Expanded(status=DROPPED, reason=f"llm unfit: {why}", **traced)


def one_line(text: str, length: int = 200) -> str:
    """The text without control characters, on one line, cut to `length`."""
    return "".join(c if c.isprintable() else " " for c in text)[:length].strip()


_MARKUP = re.compile(r"https?://|www\.|[<>{}\[\]\\|`=*#_]|\$\(|\n")
_TALK = re.compile(
    r"\b(as an ai|i cannot|i can't|i'm sorry|i am sorry|language model|system prompt|"
    r"(ignore|disregard|forget|override|follow)\w* (\w+ ){0,4}(instruction|prompt|rule)s?|password)\b",
    re.IGNORECASE,
)


def not_a_prompt(text: str, max_words: int) -> str:
    """Why a text cannot be a scroll prompt, or the empty string when it can be one."""
    words = text.split()
    if len(text) > 10 * max_words:
        return f"a prompt of {len(text)} characters"
    if len(words) > max_words:
        return f"a prompt of {len(words)} words, {max_words} are allowed"
    if len(text) < 12:
        return "a prompt of less than 12 characters"
    if not text.isprintable():
        return "a prompt with control characters"
    if match := _MARKUP.search(text):
        return f"a prompt with markup ({match[0]!r})"
    if match := _TALK.search(text):
        return f"a prompt that talks to or about a model ({match[0]!r})"
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return "" if letters >= 0.7 * len(text) else "a prompt that is mostly not letters"
