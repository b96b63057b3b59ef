"""Near duplicates over text: MinHash signatures, banded into buckets, every hit verified exactly.

Broder, "On the resemblance and containment of documents" (1997). Shingles are five characters of the
case-folded text, so that scripts without spaces work alike. Deterministic; the order of rows decides who
stays, also over blocks that come one after the other; memory is the kept texts, a key per row and band, and a
signature per row: about 0.6 GB for a million prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    return KeptTexts(threshold).add(texts, advance)


class KeptTexts:
    """Texts that were kept, in the order they came, and which of a further block resemble one of them.

    Blocks added one after the other give what all of them at once give. Nothing but the kept texts is needed
    to make it again (`remember`): what a run has stored of its earlier blocks is the stored index.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"a similarity threshold lies in (0, 1], not {threshold}")
        self.threshold = threshold
        self.count = 0
        """Texts that were added so far, kept or not: the index of the next one."""
        self._texts: dict[int, str] = {}
        self._blocks: list[_Kept] = []

    def add(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda count: None
    ) -> dict[int, int]:
        """{index: index of the earlier kept text that it resembles}, counted over all blocks."""
        keys, signatures = _minhash(texts)
        earlier = self._earlier(keys)
        groups, count = _shared_buckets(keys)
        members: list[list[int]] = [[] for _ in range(count)]
        start, told, found = self.count, 0, {}
        meets = set(np.flatnonzero((groups >= 0).any(axis=1)).tolist()) | earlier.keys()
        for index in sorted(meets):
            if index - told >= _TELL:
                advance(index - told)
                told = index
            buckets = [(band, group) for band, group in enumerate(groups[index].tolist()) if group >= 0]
            past = earlier.get(index, {})
            others = {other for some in past.values() for other in some}
            others |= {start + other for _, group in buckets for other in members[group]}
            twin = self._twin(texts, signatures, index, sorted(others))
            if twin is not None:
                found[start + index] = twin
                continue
            for band, group in buckets:
                if len(members[group]) + len(past.get(band, ())) < _MOST_COMPARED:
                    members[group].append(index)
        advance(len(texts) - told)
        self._keep(texts, keys, signatures, {twin - start for twin in found})
        return found

    def remember(self, texts: Sequence[str]) -> None:
        """Texts that are known to be kept, such as those of an earlier start of the program."""
        self._keep(texts, *_minhash(texts), set())

    def text(self, index: int) -> str:
        """The kept text of an index."""
        return self._texts[index]

    def _earlier(self, keys: np.ndarray) -> dict[int, dict[int, list[int]]]:
        """{index in the block: {band: kept texts of earlier blocks in the same bucket, at most 64}}."""
        found: dict[int, dict[int, list[int]]] = {}
        for block in self._blocks:
            for band in range(BANDS):
                ranked, owners = block.ranked(band)
                low = np.searchsorted(ranked, keys[:, band], "left")
                high = np.searchsorted(ranked, keys[:, band], "right")
                for index in np.flatnonzero(high > low).tolist():
                    some = found.setdefault(index, {}).setdefault(band, [])
                    some += owners[low[index] : high[index]][: _MOST_COMPARED - len(some)].tolist()
        return found

    def _twin(
        self, texts: Sequence[str], signatures: np.ndarray, index: int, others: list[int]
    ) -> int | None:
        """The first of the others that the text resembles, by sets: of short texts they are made fastest."""
        if not others:
            return None
        start = self.count
        old = [other for other in others if other < start]
        new = np.array(others[len(old) :], np.int64) - start
        rows = np.concatenate([*self._signatures(np.array(old, np.int64)), signatures[new]])
        likely = _likely(rows, signatures[index], others, self.threshold)
        if not likely:
            return None
        mine = shingles(texts[index])
        for other in likely:
            text = self._texts[other] if other < start else texts[other - start]
            if jaccard(mine, shingles(text)) >= self.threshold:
                return other
        return None

    def _signatures(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The signatures of kept texts, by ascending index, a block's at a time."""
        done = 0
        for block in self._blocks:
            end = int(np.searchsorted(indices, block.last, "right"))
            if end > done:
                yield block.signatures[np.searchsorted(block.indices, indices[done:end])]
                done = end

    def _keep(
        self, texts: Sequence[str], keys: np.ndarray, signatures: np.ndarray, dropped: set[int]
    ) -> None:
        rows = np.array([row for row in range(len(texts)) if row not in dropped], np.int64)
        self._texts.update((self.count + row, texts[row]) for row in rows.tolist())
        block = _Kept(rows + self.count, keys[rows], signatures[rows])
        self.count += len(texts)
        # Like sizes are joined, so that a million texts in small blocks are a few arrays to search.
        while rows.size and self._blocks and self._blocks[-1].indices.size <= 2 * block.indices.size:
            block = self._blocks.pop().joined(block)
        if block.indices.size:
            self._blocks.append(block)


class _Kept:
    """Some kept texts: indices, ascending [n], bucket keys [n, BANDS], signatures [n, BANDS * ROWS]."""

    def __init__(self, indices: np.ndarray, keys: np.ndarray, signatures: np.ndarray) -> None:
        self.indices, self.keys, self.signatures = indices, keys, signatures
        self._order: dict[int, np.ndarray] = {}

    @property
    def last(self) -> int:
        return int(self.indices[-1])

    def ranked(self, band: int) -> tuple[np.ndarray, np.ndarray]:
        """The band's keys in order, and whose they are; of equal keys the earliest text first."""
        if band not in self._order:
            self._order[band] = np.argsort(self.keys[:, band], kind="stable").astype(np.int32)
        order = self._order[band]
        return self.keys[order, band], self.indices[order]

    def joined(self, later: _Kept) -> _Kept:
        """These and later ones."""
        pairs = ((self.indices, later.indices), (self.keys, later.keys), (self.signatures, later.signatures))
        return _Kept(*(np.concatenate(pair) for pair in pairs))


def _likely(signatures: np.ndarray, mine: np.ndarray, others: list[int], threshold: float) -> list[int]:
    """Those of the others whose signatures agree about as much as the threshold: the rest need no exact look.

    The share that agrees estimates the similarity, with the standard deviation of a share. A byte of each
    hash is enough for that: one in 256 agrees by chance.
    """
    count = mine.size
    agreed = (signatures == mine).view(np.uint8).sum(axis=1, dtype=np.uint8)
    least = count * threshold - _DEVIATIONS * math.sqrt(count * threshold * (1 - threshold))
    return [others[place] for place in np.flatnonzero(agreed >= least).tolist()]


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
