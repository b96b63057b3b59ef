"""Near duplicates over text: MinHash signatures, banded into buckets, every hit verified exactly.

Broder, "On the resemblance and containment of documents" (1997). Shingles are five characters of the
case-folded text, so that scripts without spaces work alike. Deterministic; the order of rows decides who
stays; memory is a key per row and band, a signature per row and a list per shared bucket: about 0.6 GB for a
million prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

SHINGLE = 5
BANDS, ROWS = 16, 4  # two texts with similarity 0.8 meet in a bucket with probability 0.9998
_MOST_COMPARED = 64  # earlier rows of one bucket that a row is compared with
_DEVIATIONS = 3.2  # standard deviations by which signatures may underestimate a similarity
_TELL = 1000  # rows between two calls of `advance`
_CHUNK = 256  # so many texts' shingles fit a processor's cache
_MIX = np.uint64(0x9E3779B97F4A7C15)


def near_duplicates(
    texts: Sequence[str], threshold: float, advance: Callable[[int], object] = lambda count: None
) -> dict[int, int]:
    """For each text that resembles an earlier kept one, {its index: the index of that one}.

    Resemblance is the Jaccard similarity of the shingle sets, at least `threshold` in (0, 1]. Of a bucket
    with more than 64 kept texts only the first 64 are compared. `advance` hears how many more are done.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a similarity threshold lies in (0, 1], not {threshold}")
    keys, signatures = _minhash(texts)
    groups, count = _shared_buckets(keys)
    del keys
    members: list[list[int] | None] = [None] * count
    found: dict[int, int] = {}
    told = 0
    for index in np.flatnonzero((groups >= 0).any(axis=1)).tolist():
        if index - told >= _TELL:
            advance(index - told)
            told = index
        buckets = [group for group in groups[index].tolist() if group >= 0]
        earlier = sorted({other for bucket in buckets for other in members[bucket] or ()})
        twin = _twin(texts, index, _likely(signatures, index, earlier, threshold), threshold)
        if twin is not None:
            found[index] = twin
            continue
        for bucket in buckets:
            kept = members[bucket]
            if kept is None:
                members[bucket] = [index]
            elif len(kept) < _MOST_COMPARED:
                kept.append(index)
    advance(len(texts) - told)
    return found


def _likely(signatures: np.ndarray, index: int, others: list[int], threshold: float) -> list[int]:
    """Those of the others whose signatures agree about as much as the threshold: the rest need no exact look.

    The share that agrees estimates the similarity, with the standard deviation of a share. A byte of each
    hash is enough for that: one in 256 agrees by chance.
    """
    if not others:
        return []
    count = signatures.shape[1]
    agreed = (signatures[others] == signatures[index]).view(np.uint8).sum(axis=1, dtype=np.uint8)
    least = count * threshold - _DEVIATIONS * math.sqrt(count * threshold * (1 - threshold))
    return [others[place] for place in np.flatnonzero(agreed >= least).tolist()]


def _twin(texts: Sequence[str], index: int, others: list[int], threshold: float) -> int | None:
    """The first of the others that the text resembles, by sets: of short texts they are made fastest."""
    if not others:
        return None
    mine = shingles(texts[index])
    return next((other for other in others if jaccard(mine, shingles(texts[other])) >= threshold), None)


def jaccard(left: set[str], right: set[str]) -> float:
    """Size of the intersection over size of the union of two sets that are not empty."""
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def shingles(text: str) -> set[str]:
    """The text's shingles, at least one; a text shorter than a shingle is padded with spaces."""
    folded = _folded(text)
    return {folded[start : start + SHINGLE] for start in range(len(folded) - SHINGLE + 1)}


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).ljust(SHINGLE)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(_folded(text).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _shingles(codes: np.ndarray) -> np.ndarray:
    """Hashes of every run of five codes along the last axis: [..., n] to [..., n - 4]."""
    count = codes.shape[-1] - SHINGLE + 1
    total = np.zeros((*codes.shape[:-1], count), np.uint64)
    for offset in range(SHINGLE):
        total = (total + codes[..., offset : offset + count] + np.uint64(1)) * _MIX
        total ^= total >> np.uint64(29)
    return total


def _minhash(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bucket keys uint64 [n, BANDS] and signatures uint8 [n, BANDS * ROWS] of all texts."""
    keys = np.zeros((len(texts), BANDS), np.uint64)
    signatures = np.zeros((len(texts), BANDS * ROWS), np.uint8)
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
        signatures[:, band * ROWS + row] = least.astype(np.uint8)
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


def _shared_buckets(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Per text and band the number of its bucket, or -1 where it is alone [n, BANDS]; and their count."""
    groups, count = np.full(keys.shape, -1, np.int32), 0
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ranked = keys[order, band]
        same = ranked[1:] == ranked[:-1]
        shared = np.zeros(ranked.size, bool)
        shared[1:] |= same
        shared[:-1] |= same
        begins = shared.copy()
        begins[1:] &= ~same
        groups[order[shared], band] = count - 1 + np.cumsum(begins)[shared]
        count += int(begins.sum())
    return groups, count
