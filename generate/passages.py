"""Prompts along a scroll: which words hold from where to where, as shares of its width."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.texts import load_yaml, read_text
from drspo.ranges import Share

WHERE = "--along"
FORM = 'For example "pine forest: 0-0.4; harbour at dusk | people: 0.4-1"; what stands after | is unwanted.'
TOUCH = 1e-6
"""Shares nearer than this are one place."""
_KEYS = {"prompt", "negative_prompt", "from", "to"}
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE]-?[0-9]+)?"
_RANGE = re.compile(rf"(?P<words>.*):\s*(?P<start>{_NUMBER})\s*-\s*(?P<stop>{_NUMBER})\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What a part of the scroll shows."""

    prompt: str
    negative_prompt: str = ""
    """what it should not show; empty: what holds for the whole scroll"""
    start: Share
    stop: Share


def read_along(text: str) -> tuple[Passage, ...]:
    """The passages of `PROMPT: FROM-TO; PROMPT | NEGATIVE: FROM-TO`, or of a YAML file's list.

    UserError for what cannot be read, and as `check_passages`.
    """
    if text.strip().lower().endswith((".yaml", ".yml")):
        passages = _from_yaml(Path(text.strip()))
    else:
        passages = tuple(_passage(part) for part in text.split(";") if part.strip())
        if not passages:
            raise UserError("no passage is named", WHERE, FORM)
    check_passages(passages)
    return passages


def check_passages(passages: Sequence[Passage]) -> None:
    """UserError unless the passages have words and cover a scroll from 0 to 1, each place once, in order."""
    for one in passages:
        if not one.prompt.strip():
            raise UserError(f"nothing is said for {_span(one)}", WHERE, FORM)
        if not 0 <= one.start < one.stop <= 1:  # also false for NaN
            raise UserError(
                f"{one.prompt!r} holds for {_span(one)}: a range goes up, and from 0 to 1 at most",
                WHERE,
                FORM,
            )
    for one, following in pairwise(passages):
        if following.start < one.stop - TOUCH:
            what = "overlap" if following.stop > one.start + TOUCH else "are not in order"
            raise UserError(
                f"{one.prompt!r} ({_span(one)}) and {following.prompt!r} ({_span(following)}) {what}",
                WHERE,
                "Let each range begin where the one before ends; windows across a border blend the two.",
            )
        if following.start > one.stop + TOUCH:
            raise UserError(f"nothing is said from {one.stop:g} to {following.start:g}", WHERE, FORM)
    if passages and passages[0].start > TOUCH:
        raise UserError(f"nothing is said from 0 to {passages[0].start:g}", WHERE, FORM)
    if passages and passages[-1].stop < 1 - TOUCH:
        raise UserError(f"nothing is said from {passages[-1].stop:g} to 1", WHERE, FORM)


def in_words(passages: Sequence[Passage]) -> str:
    """All passages as one prompt: what names and judges the scroll, and what no window is told."""
    return "; ".join(passage.prompt for passage in passages)


def within(passages: Sequence[Passage], start: float, stop: float) -> tuple[Passage, ...]:
    """The passages of a part of the scroll (shares of the whole), as shares of that part."""
    wide = stop - start
    cut = [
        replace(one, start=max(0.0, (one.start - start) / wide), stop=min(1.0, (one.stop - start) / wide))
        for one in passages
        if one.stop > start + TOUCH and one.start < stop - TOUCH
    ]
    if cut:
        cut[0], cut[-1] = replace(cut[0], start=0.0), replace(cut[-1], stop=1.0)
    return tuple(cut)


def _passage(text: str) -> Passage:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UserError(f"{text.strip()!r} is no PROMPT: FROM-TO", WHERE, FORM)
    prompt, _, negative = found["words"].partition("|")
    return Passage(
        prompt=prompt.strip(),
        negative_prompt=negative.strip(),
        start=float(found["start"]),
        stop=float(found["stop"]),
    )


def _from_yaml(path: Path) -> tuple[Passage, ...]:
    listed = load_yaml(read_text(path), str(path))
    if not isinstance(listed, list) or not listed:
        raise UserError("a list of passages is needed", str(path), _yaml_form())
    return tuple(_item(item, f"{path}, passage {number + 1}") for number, item in enumerate(listed))


def _item(item: Any, where: str) -> Passage:
    if not isinstance(item, dict) or not set(item) <= _KEYS or not _KEYS - {"negative_prompt"} <= set(item):
        raise UserError(
            "a passage has prompt, from and to, and may have negative_prompt", where, _yaml_form()
        )
    texts, places = (item["prompt"], item.get("negative_prompt", "")), (item["from"], item["to"])
    if not all(isinstance(text, str) for text in texts):
        raise UserError("prompts are texts", where, _yaml_form())
    if any(isinstance(place, bool) or not isinstance(place, (int, float)) for place in places):
        raise UserError("from and to are numbers from 0 to 1", where, _yaml_form())
    return Passage(prompt=texts[0], negative_prompt=texts[1], start=float(places[0]), stop=float(places[1]))


def _yaml_form() -> str:
    return "For example - {prompt: pine forest, negative_prompt: people, from: 0, to: 0.4}"


def _span(passage: Passage) -> str:
    return f"{passage.start:g}-{passage.stop:g}"
