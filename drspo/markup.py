"""Text that others wrote, set into Markdown so that it reads as it was written and does nothing else.

HTML pages need none of this: their templates escape by themselves.
"""

from __future__ import annotations

import re

# CommonMark lets each ASCII punctuation mark be escaped; these begin markup, links, entities or formulas
# within a line, the leading ones a block. An underscore within a word begins nothing.
_MARKS = re.compile(r"([\\`*\[\]<>|~&$@]|(?<![^\W_])_|_(?![^\W_]))")
_SELF_LINKING = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)")
_LEADING = re.compile(r"^([-+=#])|^(\d+)(?=[.)])")


def inline(text: object) -> str:
    """The text as one line of Markdown without markup, also in a table's cell or an image's caption."""
    flat = _MARKS.sub(r"\\\1", " ".join(str(text).split()))
    # A bare address becomes a link by itself; a character that shows as nothing stops that.
    flat = _SELF_LINKING.sub(lambda found: f"{found[0]}&#8203;", flat)
    return _LEADING.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}&#8203;", flat)


def code(text: object, cell: bool = False) -> str:
    """The text as inline code; in a table's `cell` even there a vertical bar is escaped."""
    flat = " ".join(str(text).split())
    flat = flat.replace("|", r"\|") if cell else flat
    ticks = "`" * (_longest("`", flat) + 1)
    edge = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{ticks}{edge}{flat}{edge}{ticks}" if flat else ""


def fenced(text: str, language: str = "") -> str:
    """The text as a block of code whose fence no line of it closes."""
    fence = "~" * max(3, _longest("~", text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest(mark: str, text: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(mark)}+", text)), default=0)
