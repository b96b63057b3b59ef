"""What every HTML page of the project shares: the viewer in which a scroll is inspected."""

from __future__ import annotations

from pathlib import Path


def viewer() -> str:
    """The viewer as markup for the end of a page's body: a style and a script, nothing to load.

    A click on `<a data-scroll href="FILE"><img alt="WHAT IT IS" ...></a>` opens the file over the page; an
    href that begins with `#` stands for the image's own source. Links with the same text in `data-scroll`
    belong together: the viewer leafs through them at the same place, or stacks them, and they pan and
    zoom as one. `data-caption` names a scroll in place of the image's `alt`, and `data-about` is said beside
    it (a prompt). Without scripts a link opens its file.
    """
    here = Path(__file__).parent
    style = (here / "viewer.css").read_text(encoding="utf-8")
    script = (here / "viewer.js").read_text(encoding="utf-8")
    return f"<style>\n{style}</style>\n<script>\n{script}</script>"
