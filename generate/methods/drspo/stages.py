"""The two stages and the LoRAs that belong to them."""

from __future__ import annotations

from pathlib import Path

from drspo.errors import UserError
from generate.models.family import ModelFamily
from generate.models.loras import read_facts

STAGES = ("blueprint", "highres")


def lora_stages(path: str) -> tuple[str, ...]:
    """The stages that a LoRA is for, by the `drspo.json` beside it; both when there is none."""
    stage = str(read_facts(Path(path).expanduser()).get("stage", ""))
    return (stage,) if stage in STAGES else STAGES


def check_conditioning(family: ModelFamily, time_ids: str) -> None:
    """UserError when the windows' LoRA was trained with another micro-conditioning than it would be used
    with."""
    trained = family.loras.get("highres", {}).get("time_ids", time_ids)
    if trained != time_ids:
        raise UserError(
            f"the LoRA of the windows was trained with micro-conditioning {trained!r}, not {time_ids!r}",
            hint=f"Set windows.time_ids to {trained} (--drspo.windows.time-ids {trained}).",
        )
