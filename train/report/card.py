"""The model card of a trained LoRA: what it is, how to load it, how it was trained, how it measured."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from string import Template
from typing import Any

import yaml

from drspo.config import to_dict
from drspo.files.storage import Storage
from drspo.leaving import public, public_name
from drspo.licences import OF_BASE
from drspo.markup import code, fenced, inline
from train.config import TrainConfig
from train.report.curves import draw_curves
from train.report.metrics import JsonLines

CURVES = "curves.png"
TIMELINE = "samples/timeline.png"
TEMPLATE = Path(__file__).parent / "card_template.md"


def write_card(out: Path, facts: dict[str, Any], config: TrainConfig, base: str) -> None:
    """Writes OUT/README.md, and OUT/curves.png where there are at least two measurements.

    base: what the base model's name stands for: a Hub id, a folder, or package:NAME/FOLDER. Places of this
    machine become names. Publication fills in what stands between comments: licence, and how to fetch.
    """
    records = JsonLines(out / "validation.jsonl").records()
    curves = draw_curves(records, out / CURVES)
    facts, base = public(facts), public_name(base)
    settings = yaml.safe_dump(public(to_dict(config)), sort_keys=False, allow_unicode=True)
    text = Template(TEMPLATE.read_text()).substitute(
        header=_header(base, facts),
        stage=inline(facts["stage"]),
        base=inline(_called(base)),
        fingerprint=code(facts["base_fingerprint"], cell=True),
        dataset=inline(facts["dataset"]),
        canvas=_canvas(facts),
        windows=_windows(facts),
        snippet=fenced(_snippet(base), "python"),
        command=fenced(_command(facts["base_model"], base), "sh"),
        rank=facts["rank"],
        alpha=f"{facts['alpha']:g}",
        targets=code(", ".join(facts["targets"]), cell=True),
        pairs=facts["pairs"],
        step=facts["step"],
        pairs_per_step=facts["pairs_per_step"],
        notes=_notes(facts),
        measurements=_table(records),
        curves=f"![Held-out curves]({CURVES})" if curves else "Too few measurements for a curve.",
        samples=_samples(out),
        config=fenced(settings, "yaml"),
        versions=inline(", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        licence=_licence(base),
    )
    Storage(out).write("README.md", text.encode())


def _header(base: str, facts: dict[str, Any]) -> str:
    """The YAML head that the Hub reads; base and data set are named only when they are on the Hub."""
    head: dict[str, Any] = {
        "library_name": "diffusers",
        "tags": ["lora", "text-to-image", "drspo", "dpo", "panorama"],
    }
    if _on_hub(base):
        head["base_model"] = base
    if base in OF_BASE:
        head["license"] = OF_BASE[base]
    if _on_hub(facts["dataset"]):
        head["datasets"] = [facts["dataset"]]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip()


def _on_hub(name: str) -> bool:
    """Whether a public name is a Hub id: a folder's has no slash."""
    return name.count("/") == 1 and not name.startswith("package:")


def _called(base: str) -> str:
    if base.startswith("package:"):
        return f"{base.removeprefix('package:')}, which ships inside that package"
    return base if _on_hub(base) else f"{base}, a model that is not on the Hub"


def _snippet(base: str) -> str:
    """Python that paints with the LoRA; weights of a package lie inside it, those of a folder anywhere."""
    lines = ["from diffusers import DiffusionPipeline", ""]
    where = repr(base)
    if base.startswith("package:"):
        package, _, folder = base.removeprefix("package:").partition("/")
        lines = ["from importlib.resources import files", "", *lines]
        where = f"str(files({package!r}) / {folder!r})"
    elif not _on_hub(base):
        where = repr(f"FOLDER_OF/{base}")
    lines += [f"pipe = DiffusionPipeline.from_pretrained({where})"]
    return "\n".join([*lines, 'pipe.load_lora_weights("THIS_FOLDER")'])


def _command(model: str, base: str) -> str:
    """The command of ours; `model` is what it calls the base."""
    known = _on_hub(base) or base.startswith("package:")
    argument = shlex.quote(model if known else f"FOLDER_OF/{base}")
    return f'python -m generate "a lighthouse at dusk" --model {argument} --lora THIS_FOLDER --out scroll.png'


def _canvas(facts: dict[str, Any]) -> str:
    size = "x".join(map(str, facts["canvas"]))
    return f"any aspect, with no more than {size}" if facts.get("sizes") == "own" else size


def _windows(facts: dict[str, Any]) -> str:
    if facts["stage"] == "blueprint":
        return "the whole canvas as one window"
    window = "x".join(map(str, facts["window"]))
    return f"windows of {window}, {facts['stride']} apart, micro-conditioning {code(facts['time_ids'])}"


def _notes(facts: dict[str, Any]) -> str:
    notes = []
    if facts["skipped_steps"]:
        notes.append(f"{facts['skipped_steps']} non-finite steps were skipped.")
    if facts["stopped"]:
        notes.append(f"Stopped early: {inline(facts['stopped'])}.")
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
    if base in OF_BASE:
        return f"{code(OF_BASE[base])}, as the base model {inline(base)} requires of its derivatives."
    return f"That of the base model {inline(base)}; `drspo publish --license ID` states it."
