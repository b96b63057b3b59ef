"""The pictures of a benchmark, one by one."""

from __future__ import annotations

from dataclasses import dataclass

from drspo.hashing import content_hash

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
"""How the names of pictures end that were made elsewhere."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of the benchmark: a method at a prompt and a seed."""

    method: str
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """The picture's file name in the run folder."""
        return self.beside("images")

    def beside(self, folder: str) -> str:
        """The file name of what was made with the picture, for example its plan in `blueprints`."""
        return f"{folder}/{self.method}/{content_hash(self.prompt, length=12)}-{self.seed}.png"
