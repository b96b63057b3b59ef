"""Ids and seeds as functions of content: the same parts give the same answer on any machine."""

from __future__ import annotations

import hashlib


def content_hash(*parts: str | bytes | int, length: int = 32) -> str:
    """The first `length` hex digits of the SHA-256 over the parts.

    Parts are length-prefixed and typed, so ("ab", "c"), ("a", "bc") and ("1",), (1,) all differ.
    """
    if not 1 <= length <= 64:
        raise ValueError(f"length must lie in 1..64, not {length}")
    return _digest(parts).hexdigest()[:length]


def seed_from(*parts: str | bytes | int) -> int:
    """A seed in [0, 2**31) that depends on nothing but the parts."""
    return int.from_bytes(_digest(parts).digest()[:4], "big") >> 1


def _digest(parts: tuple[str | bytes | int, ...]) -> hashlib._Hash:
    digest = hashlib.sha256()
    for part in parts:
        kind, data = _encode(part)
        digest.update(b"%c%d:" % (kind, len(data)))
        digest.update(data)
    return digest


def _encode(part: str | bytes | int) -> tuple[bytes, bytes]:
    if isinstance(part, bool) or not isinstance(part, (str, bytes, int)):
        raise TypeError(f"only str, bytes and int have a defined hash here, not {type(part).__name__}")
    if isinstance(part, str):
        return b"s", part.encode("utf-8")
    if isinstance(part, bytes):
        return b"b", part
    return b"i", str(part).encode("ascii")
