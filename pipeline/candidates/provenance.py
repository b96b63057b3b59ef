"""Which weights made a run's images, one small file for each; and which scorers judged them, one for all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from drspo.errors import UserError
from drspo.files.storage import Storage
from drspo.files.texts import parse_json
from pipeline.units import DamagedFile, UnitStore

MODELS = "models/"
SCORERS = "scorers.json"


def record_model(storage: Storage, family: Any) -> None:
    """Leave what identifies the loaded weights in the run folder; the same weights leave one file."""
    facts = {
        "model": family.model_id,
        "revision": family.commit,
        "weights": family.fingerprint,
    }
    storage.create(f"{MODELS}{family.fingerprint}.json", _encode(facts))


def read_models(storage: Storage) -> list[dict[str, str]]:
    """{model, revision, weights} of each model that made images of the run; more than one is a mixture."""
    names = [name for name in storage.list(MODELS) if name.endswith(".json")]
    return [_read(storage, name, ("model", "revision", "weights")) for name in names]


def claim_scorers(store: UnitStore, versions: Mapping[str, str]) -> None:
    """Say which scorers judge the run's images. UserError where other versions have judged some.

    Numbers on two scales would make pairs of what is no better; images of two weights are still images,
    which is why these are only told of.
    """
    if not store.storage.exists(SCORERS):
        store.storage.create(SCORERS, _encode(_versions_in_units(store) or versions))
    there = read_scorers(store)
    if there == versions:
        return
    name = next(name for name in sorted({*there, *versions}) if there.get(name) != versions.get(name))
    raise UserError(
        f"the scores of {name!r} are by {there.get(name)}, and the scorer is {versions.get(name)} now",
        store.storage.url(SCORERS),
        "Restore the scorer, or judge all images by the new one in another folder; "
        f"--prompts.source {store.storage.base} takes the prompts from here.",
    )


def read_scorers(store: UnitStore) -> dict[str, str]:
    """{column: checkpoint, its hash, and the view} of the scorers that judged the run; empty before."""
    storage = store.storage
    if not storage.exists(SCORERS):  # a run of an earlier version
        return _versions_in_units(store)
    return {name: str(version) for name, version in _read(storage, SCORERS).items()}


def _versions_in_units(store: UnitStore) -> dict[str, str]:
    """What the first scored unit says."""
    for unit in store.done():
        with contextlib.suppress(DamagedFile):
            groups = store.read(unit, ["candidates.list.element.scorer_versions"]).to_pylist()
            for candidate in (one for group in groups for one in group["candidates"] or []):
                if versions := {k: v for k, v in (candidate["scorer_versions"] or {}).items() if v}:
                    return versions
    return {}


def _read(storage: Storage, name: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    found = parse_json(storage.read(name), storage.url(name))
    if not (isinstance(found, dict) and found.keys() >= set(needed)):
        what = f"this file does not say {', '.join(needed)}" if needed else "this file names no scorers"
        raise UserError(what, storage.url(name))
    return found


def _encode(facts: Mapping[str, str]) -> bytes:
    return (json.dumps(facts, indent=1) + "\n").encode()
