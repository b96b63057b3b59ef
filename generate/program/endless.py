"""An endless scroll from the command: strip by strip into one file."""

from __future__ import annotations

from typing import Any

from drspo.errors import UserError
from drspo.files.storage import Storage
from generate.methods.continued import Endless, added
from generate.program.config import Config
from generate.program.jobs import Job
from generate.program.long_png import LongPicture
from generate.program.metadata import KEY, written
from generate.program.session import Session
from generate.request import OWN, Callback


def check_endless(config: Config, folder: str, name: str) -> None:
    """UserError for options that an endless scroll excludes, before anything is loaded."""
    if config.width == OWN:
        raise UserError("how long?", "--endless", "Give --width in pixels.")
    if name.endswith(".webp") or config.format == "webp":
        raise UserError("WebP ends at 16383 pixels", "--endless", "Write a .png.")
    if not Storage(folder).is_local:
        raise UserError("strips wait on the local disk", "--out", "Name a local file.")
    excluded = {
        "--extend": bool(config.extend),
        "--repaint": bool(config.repaint),
        "--upscale": config.upscale != 1,
        "--blueprint": bool(config.blueprint),
        "--blueprints": bool(config.blueprints),
        "--save-steps": config.save_steps,
        "--save-extras": config.save_extras,
    }
    for flag, given in excluded.items():
        if given:
            raise UserError("an endless scroll takes none", flag, "Leave it out.")


def write_strips(
    session: Session, generator: Endless, job: Job, store: Storage, callback: Callback | None
) -> None:
    """Paints the scroll and writes it, with its record, holding no more than a canvas of it."""
    request, facts = job.request, dict[str, Any]()
    target = store.local_path(job.name)
    assert target is not None
    generator.check([request])
    with LongPicture(target, request.height, request.width) as picture:
        for columns, made in generator.paint(request, callback):
            picture.add(columns)
            facts = added(facts, made.facts)
        picture.write(KEY, written(session.record(request, facts)))
