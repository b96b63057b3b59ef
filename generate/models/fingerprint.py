"""A short name for a checkpoint's weights that is the same wherever they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from generate.models.weights import Checkpoint

SAMPLE = 1 << 16


def fingerprint(found: Checkpoint) -> str:
    """12 hex digits over a checkpoint's weights: per file its size, its header and up to 64 samples of 64 kB.

    The same files give the same answer wherever they lie; reading gigabytes in full is avoided.
    """
    digest = hashlib.sha256()
    for part in sorted(found.files):
        digest.update(part.encode())
        for path in found.shards(part):
            _sample_into(digest, path)
    return digest.hexdigest()[:12]


def _sample_into(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    step = max(size // 64, SAMPLE)
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        digest.update(file.read(min(header, 1 << 24)))
        for start in range(0, size, step):
            file.seek(start)
            digest.update(file.read(SAMPLE))
