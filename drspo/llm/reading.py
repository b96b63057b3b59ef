"""The JSON object in what a model wrote: alone, in a fence, after its thoughts, or among other words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from drspo.llm.reply import Garbage, Reply

# No pattern with a repetition: what a stranger writes may be a megabyte, and search must stay linear.
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_MOST_TRIED = 64  # opening braces at which an object is looked for
_LONGEST_OBJECT = 1 << 16


def read_object(reply: Reply, schema: type[BaseModel]) -> str:
    """The reply's object that `schema` accepts, as JSON; Garbage with the reason when there is none.

    Of several the last counts: drafts come before the answer.
    """
    if reply.problem:
        raise Garbage(reply.problem)
    text = reply.content
    if ends := [found.end() for found in _END_OF_THOUGHT.finditer(text)]:
        text = text[ends[-1] :]
    whole = _accepted(text.strip(), schema)
    if isinstance(whole, str):
        return whole
    error: ValidationError | None = None
    for part in _objects(text):
        found = _accepted(part, schema)
        if isinstance(found, str):
            return found
        error = error or found
    raise Garbage(f"the answer breaks the schema: {_why(error or whole)}")


def _accepted(text: str, schema: type[BaseModel]) -> str | ValidationError:
    try:
        return schema.model_validate_json(text).model_dump_json()
    except ValidationError as error:
        return error


def _objects(text: str) -> Iterator[str]:
    """JSON objects within a text, the last first: those in fences, then any."""
    fenced = [part[part.find("{") :].strip() for part in text.split("```")[1::2] if "{" in part]
    yield from reversed(fenced[-_MOST_TRIED:])
    decoder, end = json.JSONDecoder(), 0
    starts: list[str] = []
    for brace in re.finditer(r"\{", text):
        if brace.start() < end or len(starts) >= _MOST_TRIED:
            continue
        piece = text[brace.start() : brace.start() + _LONGEST_OBJECT]
        try:
            _, length = decoder.raw_decode(piece)
        except (ValueError, RecursionError):
            starts.append("")
            continue
        end = brace.start() + length
        starts.append(piece[:length])
    yield from (found for found in reversed(starts) if found)


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place + ': ' if place else ''}{first['msg']}"
