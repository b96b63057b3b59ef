"""Mutations of files for `fuzz.py`: of their bytes, and of the values that JSON and YAML hold."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 7
WEIRD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**40, 0.0, -0.5, 1e308, float("nan"), float("inf"),
    "", "a", "a" * 5000, "-1", "nan", "1e-5", "\x00", "\ud800", "é" * 9, [], {}, [[]], [None], {"a": 1},
    "evil_module:Method", "os:system", "../../etc/passwd", "/etc/hostname", "package:evil_module/x",
    "owner/name", "http://127.0.0.1:9/x", [1, 2, 3], {"": {}}, [[[[[[[[1]]]]]]]],
]  # fmt: skip


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few faults: flipped, cut, doubled, filled, replaced, or exchanged for a pointer's."""
    faults = (_flip, _flip, _cut, _drop, _double, _fill, _insert, _number)
    if rng.random() < 0.03:
        return rng.choice([b"", POINTER, b"\x00" * 100, b"<html></html>", data[:1], b"[" * 5000])
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        if found:
            rng.choice(faults)(found, rng)
    return bytes(found)


def _span(data: bytearray, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 2, 8, 64, 1024]))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _drop(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    del data[start:end]


def _double(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    data[start:start] = data[start:end]


def _fill(data: bytearray, rng: random.Random) -> None:
    start, end = _span(data, rng)
    data[start:end] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * (end - start)


def _insert(data: bytearray, rng: random.Random) -> None:
    start, _ = _span(data, rng)
    data[start:start] = rng.randbytes(rng.choice([1, 4, 100]))


def _number(data: bytearray, rng: random.Random) -> None:
    width = rng.choice([2, 4, 8])
    start = rng.randrange(len(data))
    value = rng.choice([0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1, 2**15])
    data[start : start + width] = (value % 2 ** (8 * width)).to_bytes(width, rng.choice(["little", "big"]))


def mutate_value(value: Any, rng: random.Random) -> Any:
    """The JSON value with one to three of its places changed, removed, renamed or added."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = _mutated(found, rng)
    return found


def _mutated(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return copy.deepcopy(rng.choice(WEIRD))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    kind = rng.random()
    if kind < 0.15:
        del value[key]
    elif kind < 0.25 and isinstance(value, dict):
        value[rng.choice(["", "x", f"{key}_", "__class__", "format"])] = value.pop(key)
    elif kind < 0.35 and isinstance(value, dict):
        value[rng.choice(["more", "0", "config"])] = copy.deepcopy(rng.choice(WEIRD))
    else:
        value[key] = _mutated(value[key], rng)
    return value


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """A JSON text with changed values, or now and then with changed bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(text, rng)
    return json.dumps(mutate_value(json.loads(text), rng)).encode("utf-8", "surrogatepass")


def mutate_yaml(text: bytes, rng: random.Random) -> bytes:
    """A YAML text with changed values, changed bytes, or something that only YAML can say."""
    import yaml

    if rng.random() < 0.3:
        return mutate_bytes(text, rng)
    if rng.random() < 0.15:
        tail = [
            b"x: &a [*a]\n",
            b"a: &a {b: *a}\n",
            b"? [1]\n: 2\n",
            b"- 1\n",
            b"!!python/name:os.system x\n",
        ]
        return text + rng.choice([*tail, b"--- \n---\n", b"x: !!binary aaa\n", b"<<: {a: 1}\n", b"[" * 3000])
    changed = mutate_value(yaml.safe_load(text), rng)
    return yaml.safe_dump(changed, allow_unicode=False).encode("utf-8", "surrogatepass")


def mutate_file(path: Path, rng: random.Random) -> None:
    """Change a file by its kind, now and then remove it or put a folder in its place; links are broken up."""
    data = path.read_bytes()
    path.unlink()
    if rng.random() < 0.03:
        path.mkdir()
    elif rng.random() > 0.03:
        by_kind = {".json": mutate_json, ".yaml": mutate_yaml}
        path.write_bytes(by_kind.get(path.suffix, mutate_bytes)(data, rng))
