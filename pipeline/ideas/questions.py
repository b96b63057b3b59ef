"""What the builder asks of a language model: its templates and the shapes of the answers."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from drspo.llm.template import Template, read_template

FOLDER = Path(__file__).parent / "templates"


def load_template(name: str) -> Template:
    """The template of this name that ships with the package, or the file at this path."""
    return read_template(Path(name) if name.endswith(".md") else FOLDER / f"{name}.md", name)


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
