"""The model card of a trained LoRA: what it is, how to load it, how it was trained, how it measured."""

import json
import math
from pathlib import Path
from string import Template
from typing import Any

from drspo.config import dump
from drspo.files.storage import Storage
from train.config import TrainConfig
from train.report.curves import draw_curves
from train.report.metrics import JsonLines

CURVES = "curves.png"
TIMELINE = "samples/timeline.png"
TEMPLATE = Path(__file__).parent / "card_template.md"

LICENCES = {
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
"""Licences of base models whose derivatives must carry them; for others the card asks the publisher to
choose."""


def write_card(out: Path, facts: dict[str, Any], config: TrainConfig, base: str) -> None:
    """Writes OUT/README.md, and OUT/curves.png where there are at least two measurements."""
    records = JsonLines(out / "validation.jsonl").records()
    curves = draw_curves(records, out / CURVES)
    text = Template(TEMPLATE.read_text()).substitute(
        header=_header(base, config),
        stage=config.stage,
        base=base,
        fingerprint=facts["base_fingerprint"],
        dataset=config.data.source,
        canvas="x".join(map(str, facts["canvas"])),
        windows=_windows(facts),
        rank=facts["rank"],
        alpha=f"{facts['alpha']:g}",
        pairs=facts["pairs"],
        step=facts["step"],
        pairs_per_step=facts["pairs_per_step"],
        notes=_notes(facts),
        measurements=_table(records),
        curves=f"![Held-out curves]({CURVES})" if curves else "Too few measurements for a curve.",
        samples=_samples(out),
        config=dump(config).rstrip(),
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        licence=_licence(base),
    )
    Storage(out).write("README.md", text.encode())


def _header(base: str, config: TrainConfig) -> str:
    """The YAML head that the Hub reads; a dataset is named only when it is a Hub id."""
    lines = ["library_name: diffusers", "tags: [lora, text-to-image, drspo, dpo, panorama]"]
    if _is_hub_id(base):
        lines.append(f"base_model: {base}")
    if base in LICENCES:
        lines.append(f"license: {LICENCES[base]}")
    if _is_hub_id(config.data.source):
        lines.append(f"datasets: [{json.dumps(config.data.source)}]")
    return "\n".join(lines)


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "package:")) and not Path(name).exists()


def _windows(facts: dict[str, Any]) -> str:
    if facts["stage"] == "blueprint":
        return "the whole canvas as one window"
    window = "x".join(map(str, facts["window"]))
    return f"windows of {window}, {facts['stride']} apart, micro-conditioning `{facts['time_ids']}`"


def _notes(facts: dict[str, Any]) -> str:
    notes = []
    if facts["skipped_steps"]:
        notes.append(f"{facts['skipped_steps']} non-finite steps were skipped.")
    if facts["stopped"]:
        notes.append(f"Stopped early: {facts['stopped']}.")
    return " ".join(notes)


def _table(records: list[dict[str, Any]]) -> str:
    """First, best and last measurement on held-out pairs."""
    if not records:
        return "No held-out pairs were measured."
    best = min(records, key=lambda record: record.get("loss", math.inf))
    chosen = {"before training": records[0], "lowest loss": best, "last": records[-1]}
    lines = [
        "| | step | loss | preference loss | implicit accuracy | of pairs | margin | winner drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shown = ("loss", "preference_loss", "accuracy", "pair_accuracy", "margin")
    for name, record in chosen.items():
        cells = [f"{record[key]:.4f}" if key in record else "-" for key in shown]
        drift = f"{100 * record['winner_drift_share']:+.2f} %" if "winner_drift_share" in record else "-"
        lines.append(f"| {name} | {record['step']} | {' | '.join(cells)} | {drift} |")
    return "\n".join(lines)


def _samples(out: Path) -> str:
    return f"![Samples over the run]({TIMELINE})" if (out / TIMELINE).exists() else "No samples were drawn."


def _licence(base: str) -> str:
    if base in LICENCES:
        return f"`{LICENCES[base]}`, as the base model {base} requires of its derivatives."
    return f"That of the base model {base}; state it here before publishing."
