"""Which weights made a run's images: one small file for each model that an actor loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drspo.files.storage import Storage

MODELS = "models/"


def record_model(storage: Storage, family: Any) -> None:
    """Leave what identifies the loaded weights in the run folder; the same weights leave one file."""
    facts = {
        "model": family.model_id,
        "revision": hub_revision(family.model_id),
        "weights": family.fingerprint,
    }
    storage.create(f"{MODELS}{family.fingerprint}.json", (json.dumps(facts, indent=1) + "\n").encode())


def read_models(storage: Storage) -> list[dict[str, str]]:
    """{model, revision, weights} of each model that made images of the run; more than one is a mixture."""
    return [json.loads(storage.read(name)) for name in storage.list(MODELS)]


def hub_revision(model: str) -> str:
    """The commit of a Hub model that lies in this machine's cache; empty for a folder or a package."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "model_index.json")
    except HFValidationError:
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""
