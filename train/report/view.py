"""`drspo view TRAINING`: the page of a training run, an HTML file beside its pictures."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.files.storage import Storage
from train.report.page import read_training, render

PAGE = "index.html"


def main(argv: list[str]) -> int:
    """Write the page and say where it is."""
    parser = argparse.ArgumentParser("drspo view", description="The page of a training run.")
    parser.add_argument(
        "source", metavar="TRAINING", help="the --out folder of python -m train, also unfinished"
    )
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    asked = parser.parse_args(argv)
    place = write(asked.source)
    print(place)
    words = shlex.join(["python", "-m", "generate", "a lighthouse at dusk", "--lora", asked.source])
    print(f"next      open it in a browser; {words} --out scroll.png")
    if asked.open:
        import webbrowser

        webbrowser.open(place.absolute().as_uri())
    return 0


def write(source: str) -> Path:
    """Write the page into the run's folder, whose pictures it shows; gives its place."""
    if "://" in source:
        raise UserError("a training's page is written beside its pictures", source, "copy the folder first")
    with RunDir(source).understood():
        page = render(read_training(Path(source)), "")
    Storage(source).write(PAGE, page.encode())
    return Path(source) / PAGE
