"""`drspo view RUN`: the page of whatever the folder holds, by the program that wrote it."""

from __future__ import annotations

from importlib import import_module

from drspo.errors import UserError
from drspo.files.run import MANIFEST, RunDir

PAGES = {"train": "train.report.view"}
"""Whose runs have a page of their own; all else is a gallery of pairs."""
GALLERY = "dataset_builder.report.view"


def main(argv: list[str]) -> int:
    """Writes the page and says where it is."""
    places = [argument for argument in argv if not argument.startswith("-")]
    module = PAGES.get(_program(places[0]), GALLERY) if places else GALLERY
    return int(import_module(module).main(argv))


def _program(place: str) -> str:
    """The program whose run the folder is; empty where it is none."""
    run = RunDir(place)
    try:
        return str(run.manifest()["program"]) if run.exists(MANIFEST) else ""
    except UserError:
        return ""
