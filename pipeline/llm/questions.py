"""What is asked of the language model: the template files and the shapes of the answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from drspo.errors import UserError
from drspo.files.texts import read_text
from drspo.hashing import content_hash

FOLDER = Path(__file__).parent / "templates"
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
def load_template(name: str) -> Template:
    """The template of this name that ships with the package, or the file at this path."""
    path = Path(name) if name.endswith(".md") else FOLDER / f"{name}.md"
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


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Expansion(_Answer):
    """Scroll prompts for one idea, or the reason why there are none."""

    prompts: list[str] = Field(max_length=64)
    unsuitable: str = Field(max_length=2000)


class OutdoorVerdict(_Answer):
    """Whether a prompt shows an outdoor scene."""

    outdoor: bool
    because: str = Field(max_length=2000)
