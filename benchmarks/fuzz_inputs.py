"""What the fuzzed readers share: a whole run to damage, copies of folders, and quiet libraries."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "golden" / "models" / "tiny-sdxl"


class Reader(Protocol):
    """Prepares a folder with a mutated input, and reads it as a program of ours does."""

    def prepare(self, folder: Path, rng: random.Random) -> None: ...
    def read(self, folder: Path) -> None: ...


def quiet() -> None:
    """Libraries' warnings about mutated files are not what is looked at."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ImportError):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        diffusers_logging.set_verbosity(100)
        transformers_logging.set_verbosity(100)


@functools.cache
def finished_run() -> Path:
    """A small finished run of the dataset builder, made with fake models."""
    from tests.building import build, fake_config

    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build(fake_config(folder, folder / "run"))
    return folder / "run"


def linked(source: Path, target: Path) -> None:
    """A copy of a folder whose files are links to the same data: `mutate_file` breaks the one it changes."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
