"""In which order pairs are trained on: a pure function of the seed, so that a resumed run needs no state."""

from functools import lru_cache

import torch

from drspo.hashing import seed_from


def pair_index(seed: int, position: int, count: int) -> int:
    """Which of `count` pairs is trained on at `position`, counted over the whole run: a new shuffle every
    epoch."""
    epoch, offset = divmod(position, count)
    return _shuffle(seed, epoch, count)[offset]


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_from("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()
