"""Small preference datasets for the trainer's tests, drawn with PIL."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

SIZE = (64, 256)


def png(seed: int, size: tuple[int, int] = SIZE, smooth: bool = True) -> bytes:
    """A picture of height x width: a soft gradient, or noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (2, 4, 3) if smooth else (size[0], size[1], 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def pair_rows(count: int, size: tuple[int, int] = SIZE, start: int = 0) -> list[dict]:
    """Rows of our own layout: smooth pictures preferred to noise, one prompt each."""
    return [
        {
            "pair_id": f"pair-{index}",
            "prompt": f"a lake at dusk number {index}",
            "chosen": {"bytes": png(index, size), "path": None},
            "rejected": {"bytes": png(index + 1000, size, smooth=False), "path": None},
        }
        for index in range(start, start + count)
    ]


def pickapic_rows(labels: list[float | None], size: tuple[int, int] = SIZE) -> list[dict]:
    """Rows of pick-a-pic's layout with raw bytes; label_0 is 1 where the first picture is preferred."""
    return [
        {
            "caption": f"a hill number {index}",
            "jpg_0": png(index, size),
            "jpg_1": png(index + 1000, size, smooth=False),
            "label_0": label,
        }
        for index, label in enumerate(labels)
    ]


def write(path: Path, rows: list[dict]) -> str:
    """Writes rows as one Parquet file and gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)
