"""A question's wording: a Markdown file with a system and a user message, and fields that hold data only."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from drspo.errors import UserError
from drspo.files.texts import read_text
from drspo.hashing import content_hash

_FIELD = re.compile(r"\{\{(\w+)\}\}")
_PART = re.compile(r"^## (System|User)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Template:
    """A system and a user message with {{fields}}; `hash` names the exact wording."""

    name: str
    system: str
    user: str
    hash: str

    def messages(self, **fields: str | int) -> list[dict[str, str]]:
        """The two messages. A text becomes a JSON string without angle brackets and cannot close its tag."""
        values = {name: _as_data(value) for name, value in fields.items()}
        return [
            {"role": "system", "content": _FIELD.sub(lambda match: values[match[1]], self.system)},
            {"role": "user", "content": _FIELD.sub(lambda match: values[match[1]], self.user)},
        ]


@cache
def read_template(path: Path, name: str) -> Template:
    """The template in this file, called `name`."""
    text = read_text(path)
    parts = _PART.split(text)
    if parts[1::2] != ["System", "User"]:
        raise UserError("a template has one '## System' and then one '## User' section", str(path))
    return Template(name, parts[2].strip(), parts[4].strip(), content_hash(text))


def _as_data(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")
