"""`drspo view RUN`: the gallery of a run or an export, an HTML file with its scrolls beside it."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from dataset_builder.report.gallery import read_gallery, render
from dataset_builder.report.pictures import SCROLLS
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage

PAGE = "gallery/index.html"
HEIGHT = 384


def main(argv: list[str]) -> int:
    """Write the gallery and say where it is."""
    parser = argparse.ArgumentParser("drspo view", description="The gallery of a run's groups and pairs.")
    parser.add_argument(
        "source", metavar="RUN", help="a run folder or its URL, also unfinished, or an export"
    )
    place = f"where to write the page, its pictures into {SCROLLS}/ beside it; default RUN/{PAGE}"
    parser.add_argument("--out", default="", metavar="FILE", help=place)
    parser.add_argument(
        "--groups", type=int, default=24, help="prompts to show, evenly over all; 0 shows all"
    )
    reduced = "most pixels of a picture's height on the page; a click opens the original"
    parser.add_argument("--height", type=int, default=HEIGHT, help=reduced)
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    asked = parser.parse_args(argv)
    if asked.height < 16:
        raise UserError(f"a picture of {asked.height} pixels cannot be seen", "--height")
    place = write(asked.source, asked.out, asked.groups, asked.height)
    print(place)
    if (run := RunDir(asked.source)).exists("run.json"):
        voting = f"; drspo vote {shlex.quote(asked.source)} asks people" if run.level("units/") else ""
        print(f"next      open it in a browser{voting}")
    if asked.open:
        import webbrowser

        webbrowser.open(place if "://" in place else Path(place).absolute().as_uri())
    return 0


def write(source: str, out: str = "", groups: int = 24, height: int = HEIGHT) -> str:
    """Write the gallery to a file, or into the run, with its pictures beside it, and give its place.

    The pictures go first, so that a page is never without them.
    """
    run = RunDir(source)
    where = out if out else run.url(PAGE)
    folder = Storage(Path(out).parent) if out else Storage(where.removesuffix("/index.html"))

    def keep(name: str, data: bytes) -> None:
        if not folder.exists(name):
            folder.write(name, data)

    with run.understood():
        page = render(read_gallery(source, groups, height, keep), height).encode()
    folder.write(Path(out).name if out else "index.html", page)
    return where
