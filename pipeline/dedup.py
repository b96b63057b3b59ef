"""Near duplicates over text: MinHash signatures, banded into buckets, every hit verified exactly.

Broder, "On the resemblance and containment of documents" (1997). Shingles are five characters of the
case-folded text, so that scripts without spaces work alike. Deterministic; the order of rows decides who
stays; memory is a key per row and band and a signature per row, 256 MB for a million prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

SHINGLE = 5
BANDS, ROWS = 16, 4  # two texts with similarity 0.8 meet in a bucket with probability 0.9998
_MOST_COMPARED = 64  # earlier rows of one bucket that a row is compared with
_SLACK = 0.2  # more than three standard deviations of the estimate by signatures
_CHUNK = 256  # so many texts' shingles fit a processor's cache
_MIX = np.uint64(0x9E3779B97F4A7C15)


def near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """For each text that resembles an earlier kept one, {its index: the index of that one}.

    Resemblance is the Jaccard similarity of the shingle sets, at least `threshold` in (0, 1]. Of a bucket
    with more than 64 kept texts only the first 64 are compared.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a similarity threshold lies in (0, 1], not {threshold}")
    keys, signatures = _minhash(texts)
    groups = _shared_buckets(keys)
    members: dict[tuple[int, int], list[int]] = {}
    found: dict[int, int] = {}
    for index in np.flatnonzero((groups >= 0).any(axis=1)).tolist():
        buckets = [(band, group) for band, group in enumerate(groups[index].tolist()) if group >= 0]
        earlier = sorted({other for bucket in buckets for other in members.get(bucket, ())})
        likely = _likely(signatures, index, earlier, threshold)
        twin = next((other for other in likely if _resemble(texts, index, other, threshold)), None)
        if twin is not None:
            found[index] = twin
            continue
        for bucket in buckets:
            kept = members.setdefault(bucket, [])
            if len(kept) < _MOST_COMPARED:
                kept.append(index)
    return found


def _likely(signatures: np.ndarray, index: int, others: list[int], threshold: float) -> list[int]:
    """Those of the others whose signatures agree about as much as the threshold: the rest need no exact look.

    64 agreements estimate a similarity with a standard deviation of at most 0.0625.
    """
    if not others:
        return []
    share = (signatures[others] == signatures[index]).mean(axis=1)
    return [others[place] for place in np.flatnonzero(share >= threshold - _SLACK).tolist()]


def _resemble(texts: Sequence[str], left: int, right: int, threshold: float) -> bool:
    shingles = (np.unique(shingle_hashes(texts[side])) for side in (left, right))
    return jaccard(*shingles) >= threshold


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Size of the intersection over size of the union of two arrays of distinct numbers."""
    common = np.intersect1d(left, right, assume_unique=True).size
    return common / (left.size + right.size - common)


def shingle_hashes(text: str) -> np.ndarray:
    """uint64 hashes of the text's shingles [n >= 1]; a text shorter than a shingle is padded with spaces."""
    return _shingles(_codes(text)[None, :])[0] if text else np.zeros(1, np.uint64)


def _codes(text: str) -> np.ndarray:
    folded = " ".join(text.casefold().split()).ljust(SHINGLE)
    return np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _shingles(codes: np.ndarray) -> np.ndarray:
    """Hashes of every run of five codes along the last axis: [..., n] to [..., n - 4]."""
    count = codes.shape[-1] - SHINGLE + 1
    total = np.zeros((*codes.shape[:-1], count), np.uint64)
    for offset in range(SHINGLE):
        total = (total + codes[..., offset : offset + count] + np.uint64(1)) * _MIX
        total ^= total >> np.uint64(29)
    return total


def _minhash(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bucket keys uint64 [n, BANDS] and signatures uint16 [n, BANDS * ROWS] of all texts."""
    keys = np.zeros((len(texts), BANDS), np.uint64)
    signatures = np.zeros((len(texts), BANDS * ROWS), np.uint16)
    for start in range(0, len(texts), _CHUNK):
        stop = min(start + _CHUNK, len(texts))
        _fill(keys[start:stop], signatures[start:stop], [texts[i] for i in range(start, stop)])
    return keys, signatures


def _fill(keys: np.ndarray, signatures: np.ndarray, texts: list[str]) -> None:
    """Fill in some texts' rows: shingles of all in one array, the least hash per text and permutation."""
    codes = [_codes(text) for text in texts]
    lengths = np.array([code.size for code in codes])
    hashes = _shingles(np.concatenate(codes))
    # A shingle that begins in a text's last four characters runs into the next text and is left out.
    owned = np.arange(lengths.sum()) < np.repeat(np.cumsum(lengths) - SHINGLE + 1, lengths)
    hashes = hashes[owned[: hashes.size]]
    starts = np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)[:-1]])
    permuted = np.empty_like(hashes)
    for band, row, factor, shift in _permutations():
        np.multiply(hashes, factor, out=permuted)
        np.add(permuted, shift, out=permuted)
        np.right_shift(permuted, np.uint64(16), out=permuted)
        least = np.minimum.reduceat(permuted, starts)
        signatures[:, band * ROWS + row] = least.astype(np.uint16)
        keys[:, band] = (keys[:, band] ^ (least + np.uint64(row))) * _MIX


@cache
def _permutations() -> tuple[tuple[int, int, np.uint64, np.uint64], ...]:
    rng = np.random.default_rng(1997)
    numbers = rng.integers(0, 2**63, size=(BANDS, ROWS, 2), dtype=np.uint64)
    return tuple(
        (band, row, numbers[band, row, 0] * np.uint64(2) + np.uint64(1), numbers[band, row, 1])
        for band in range(BANDS)
        for row in range(ROWS)
    )


def _shared_buckets(keys: np.ndarray) -> np.ndarray:
    """Per band a number for every bucket of two or more texts, -1 for a text alone: int32 [n, BANDS]."""
    groups = np.full(keys.shape, -1, np.int32)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ranked = keys[order, band]
        same = ranked[1:] == ranked[:-1]
        number = np.concatenate([[0], np.cumsum(~same)]) if ranked.size else np.zeros(0, int)
        twin = np.zeros(ranked.size, bool)
        twin[1:] |= same
        twin[:-1] |= same
        groups[order[twin], band] = number[twin]
    return groups
