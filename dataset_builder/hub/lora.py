"""A LoRA as it is published: whole weights, true facts, and a card whose every line holds elsewhere."""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Any

import yaml

from drspo.errors import UserError
from drspo.files.lora import CARD, FACTS, FILE, KOHYA, PEFT_CONFIG, PEFT_FILE
from drspo.files.storage import Storage
from drspo.leaving import public
from drspo.licences import OF_BASE, check_licence

# What training leaves for others. Other pictures in the folder are somebody's own.
FILES = (CARD, "*.safetensors", FACTS, PEFT_CONFIG, "curves.png", "samples/*.png")
WRITTEN = (CARD, FILE, PEFT_FILE, KOHYA, FACTS, PEFT_CONFIG, "curves.png", "samples/timeline.png")
"""The names under which training itself writes."""
NEEDED = {"stage": str, "base_model": str, "base_fingerprint": str, "rank": int}
_AGAIN = "Take it from the training's folder."
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
# The two halves of a layer's LoRA, as peft, kohya and diffusers call them.
_DOWN = re.compile(r"\.(?:lora_A|lora_down|lora\.down)\.")
_UP = re.compile(r"\.(?:lora_B|lora_up|lora\.up)\.")


def files(storage: Storage, repo_id: str, licence: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """(path: bytes, path: name in the folder) of a LoRA's weights, facts, card and pictures; never
    checkpoints, caches or logs.

    UserError for weights that are damaged or no LoRA, facts that are missing or broken, and a card without a
    licence. Weights are read in full and pass as they are, but for places in their header.
    """
    names = [name for name in storage.list() if any(_matches(name, pattern) for pattern in FILES)]
    for name, made in ((CARD, "Training writes it when it ends."), (FACTS, "It says which base it is for.")):
        if name not in names:
            raise UserError(f"this LoRA has no {name}", storage.base, made)
    facts = _facts(storage)
    card = _card(storage.read(CARD).decode("utf-8", "replace"), repo_id, licence, facts)
    small = {name: storage.read(name) for name in names if not name.endswith(".safetensors")}
    small |= {CARD: card.encode(), FACTS: (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()}
    large = {}
    for name in (name for name in names if name.endswith(".safetensors")):
        data = storage.read(name)
        check_weights(data, storage.url(name))
        renamed = with_public_header(data)
        if renamed == data:
            large[name] = name
        else:
            small[name] = renamed
    return small, large


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/")


def _facts(storage: Storage) -> dict[str, Any]:
    """drspo.json, with names where it has places."""
    where = storage.url(FACTS)
    try:
        facts = json.loads(storage.read(FACTS))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{FACTS} is broken: {error}", where, _AGAIN) from error
    if not isinstance(facts, dict):
        raise UserError(f"{FACTS} holds no facts", where)
    for name, kind in NEEDED.items():
        if not isinstance(facts.get(name), kind):
            raise UserError(f"{FACTS} has no {name!r}", where, _AGAIN)
    found: dict[str, Any] = public(facts)
    return found


def check_weights(data: bytes, where: str) -> None:
    """UserError unless the bytes are a whole safetensors file with the two halves of every layer's LoRA, and
    all of it finite."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if data.startswith(b"version https://git-lfs"):
        raise UserError("this is a Git LFS pointer, not the weights", where, "Fetch them: git lfs pull.")
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        hint = "The file is cut off or no safetensors file."
        raise UserError(f"these weights cannot be read: {error}", where, hint) from error
    downs = {_DOWN.sub(".", name) for name in tensors if _DOWN.search(name)}
    ups = {_UP.sub(".", name) for name in tensors if _UP.search(name)}
    if not downs or downs != ups:
        raise UserError("this file holds no whole LoRA", where)
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(f"{len(broken)} of {len(tensors)} tensors are not finite, {broken[0]} first", where)


def with_public_header(data: bytes) -> bytes:
    """The safetensors file with names where its metadata has places; the same bytes where it has none."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = {key: _public_entry(key, text) for key, text in header.get("__metadata__", {}).items()}
    if metadata == header.get("__metadata__", {}):
        return data
    text = json.dumps({**header, "__metadata__": metadata}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _public_entry(key: str, text: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return str(public(text, key))
    renamed = public(values)
    return text if renamed == values else json.dumps(renamed, sort_keys=True)


def _card(text: str, repo_id: str, licence: str, facts: dict[str, Any]) -> str:
    """The card with its licence, and with the repository in place of the folder."""
    head, body = _parts(text)
    owed = OF_BASE.get(str(facts["base_model"])) or head.get("license", "")
    licence = check_licence(licence or owed)
    if owed and owed != licence:
        what = f"the card says {owed!r}, as the base model requires, and not {licence!r}"
        raise UserError(what, "--license", "Leave --license out to keep the card's.")
    head["license"] = licence
    body = _between("licence", body, f"`{licence}`" + (", as the base model requires." if owed else "."))
    body = _between("fetch", body, f"`hf download {repo_id} --local-dir lora` fetches it. ")
    body = body.replace("--lora THIS_FOLDER", "--lora lora").replace("THIS_FOLDER", repo_id)
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{body}"


def _parts(text: str) -> tuple[dict[str, Any], str]:
    """(YAML head, body) of a card."""
    found = _HEAD.match(text)
    if found is None:
        return {}, text
    try:
        head = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise UserError(f"the card's head is no YAML: {error}", CARD) from error
    if not isinstance(head, dict):
        raise UserError("the card's head names nothing", CARD)
    return public(head), text[found.end() :]


def _between(mark: str, body: str, text: str) -> str:
    """The body with this text between the comments that training left for it."""
    pattern = re.compile(f"<!-- {mark} -->.*?<!-- /{mark} -->", re.DOTALL)
    return pattern.sub(lambda _: text, body)
