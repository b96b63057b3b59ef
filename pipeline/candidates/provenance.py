"""Which weights made a run's images: one small file for each model that an actor loaded."""

from __future__ import annotations

import json
from typing import Any

from drspo.files.storage import Storage

MODELS = "models/"


def record_model(storage: Storage, family: Any) -> None:
    """Leave what identifies the loaded weights in the run folder; the same weights leave one file."""
    facts = {
        "model": family.model_id,
        "revision": family.commit,
        "weights": family.fingerprint,
    }
    storage.create(f"{MODELS}{family.fingerprint}.json", (json.dumps(facts, indent=1) + "\n").encode())


def read_models(storage: Storage) -> list[dict[str, str]]:
    """{model, revision, weights} of each model that made images of the run; more than one is a mixture."""
    return [json.loads(storage.read(name)) for name in storage.list(MODELS)]
