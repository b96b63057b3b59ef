"""What the text of an idea or a prompt may be, whoever wrote it."""

from __future__ import annotations

import re
import unicodedata

from pipeline.records import normalise_text

LONGEST = 100_000
"""Characters: what is longer is no prompt by any setting."""
# Controls, the byte order mark, and marks that turn the direction of text: invisible, never part of a scene.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def clean(text: str) -> str:
    """The text in the form that is identified: no hidden characters, NFC, single spaces."""
    return normalise_text(_HIDDEN.sub("", text))


def unusable(text: str, most: int = LONGEST) -> str:
    """Why a clean text of at most so many characters is no prompt; empty when it is one."""
    if not text:
        return "empty"
    if len(text) > most:
        return f"too long: {len(text)} characters"
    if not any(unicodedata.category(character)[0] == "L" for character in text):
        return "no letters"
    return ""
