"""Whether a benchmark only adds to one that lies in its folder: then nothing that is there is made again."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from drspo.config import to_dict
from drspo.errors import UserError
from eval.benchmark.methods import rows
from eval.benchmark.prompt_lists import all_prompts
from eval.config import EvalConfig

log = logging.getLogger(__name__)
FREE = ("out", "device", "workers", "baseline", "judges")
"""What changes no picture. A number is kept under its own metric's identity, so that judges may change."""
GROWING = ("methods", "options")
PICTURES_GROWING = ("prompts", "limit", "seeds")


def extends(config: EvalConfig, old: dict[str, Any]) -> bool:
    """Whether every picture of the configuration `old` (as a run folder keeps it) is one of `config`'s.

    Rows, prompts, seeds and judges may be added; a row that is there keeps its model, settings and LoRAs, and
    size and steps stay.
    """
    try:
        pictures = replace(
            config.pictures,
            prompts=tuple(old["pictures"]["prompts"]),
            limit=old["pictures"]["limit"],
            seeds=old["pictures"]["seeds"],
        )
        before = replace(
            config, methods=tuple(old["methods"]), options=tuple(old["options"]), pictures=pictures
        )
        if _fixed(to_dict(before)) != _fixed(old):
            return False
        there, asked = rows(before), rows(config)
        kept = all(asked.get(name) == setup for name, setup in there.items())
        kept = kept and set(all_prompts(before)) <= set(all_prompts(config))
    except (LookupError, TypeError, UserError):
        return False
    kept = kept and before.pictures.seeds <= config.pictures.seeds
    if kept and (added := [name for name in asked if name not in there]):
        log.info("rows added to the benchmark: %s", ", ".join(added))
    return kept


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in both."""
    pictures = {key: value for key, value in config["pictures"].items() if key not in PICTURES_GROWING}
    rest = {key: value for key, value in config.items() if key not in (*FREE, *GROWING)}
    return {**rest, "pictures": pictures}
