"""`drspo view RUN`: the gallery of a run or an export, written as one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset_builder.report.gallery import read_gallery, render
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage

PAGE = "gallery/index.html"


def main(argv: list[str]) -> int:
    """Write the gallery and say where it is."""
    parser = argparse.ArgumentParser("drspo view", description="The gallery of a run's groups and pairs.")
    parser.add_argument(
        "source", metavar="RUN", help="a run folder or its URL, also unfinished, or an export"
    )
    parser.add_argument("--out", default="", metavar="FILE", help=f"where to write; default RUN/{PAGE}")
    parser.add_argument(
        "--groups", type=int, default=24, help="prompts to show, evenly over all; 0 shows all"
    )
    parser.add_argument("--height", type=int, default=256, help="most pixels of a picture's height")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    asked = parser.parse_args(argv)
    if asked.height < 16:
        raise UserError(f"a picture of {asked.height} pixels cannot be seen", "--height")
    place = write(asked.source, asked.out, asked.groups, asked.height)
    print(place)
    if asked.open:
        import webbrowser

        webbrowser.open(place if "://" in place else Path(place).absolute().as_uri())
    return 0


def write(source: str, out: str = "", groups: int = 24, height: int = 256) -> str:
    """Write the gallery to a file, or into the run, and give its place."""
    storage = RunDir(source)
    with storage.understood():
        page = render(read_gallery(source, groups, height)).encode()
    if out:
        target = Path(out)
        Storage(target.parent).write(target.name, page)
        return str(target)
    storage.write(PAGE, page)
    return storage.url(PAGE)
