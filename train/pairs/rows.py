"""Preference pairs of any known layout as one kind of row, and what makes a pair unusable."""

from collections.abc import Iterator, Sequence

from PIL import Image

from drspo.errors import UserError
from drspo.files.pictures import picture_size, read_picture
from train.pairs.columns import Dropped, PairRow, pairs_of
from train.pairs.sources import has_split, open_source, picture_folders

__all__ = [
    "Dropped",
    "PairRow",
    "canvas_picture",
    "check_pair",
    "common_size",
    "has_split",
    "read_rows",
    "sized",
]

SAME = "chosen and rejected are the same picture"


def read_rows(
    source: str, split: str, subset: str = "", columns: Sequence[str] = ()
) -> Iterator[PairRow | tuple[str, Dropped]]:
    """Every row of `source` in its own order: a `PairRow`, or (row id, `Dropped`) for a row without a
    preference.

    `source` is whatever `open_source` reads; `columns` are words such as chosen=win for those that
    `columns.LAYOUTS` does not know.
    Raises `UserError` where the source cannot be read or has none of the layouts.
    """
    if not source:
        raise UserError(
            "no pairs to train on", "--data.source", "a run folder, a Parquet file or a Hub dataset id"
        )
    rows = open_source(source, split, subset)
    return pairs_of(rows, columns, source, picture_folders(source, split), split)


def check_pair(row: PairRow, height: int, width: int, resize: str) -> None:
    """Raises `Dropped` for a row that cannot be trained on; reads only the pictures' headers.

    `resize="none"` accepts pictures of `height` x `width` pixels only. `resize="downscale"` also accepts
    larger ones of the same aspect. Nothing is ever cropped, padded or enlarged.
    """
    size = common_size(row)
    if size == (height, width):
        return
    said = f"{sized(size)} on a canvas of {sized((height, width))}"
    if resize == "none":
        raise Dropped(f"{said} and data.resize is none")
    if size[0] < height or size[1] < width:
        raise Dropped(f"{said}: smaller pictures are not enlarged")
    if size[0] * width != size[1] * height:
        raise Dropped(f"{said}: another aspect")


def common_size(row: PairRow) -> tuple[int, int]:
    """Height and width of both pictures in pixels, by their headers; `Dropped` where they differ, and for a
    row that nothing can be learnt from."""
    if not row.prompt.strip():
        raise Dropped("empty prompt")
    if row.chosen == row.rejected:
        raise Dropped(SAME)
    sizes = [_size(data, name) for data, name in ((row.chosen, "chosen"), (row.rejected, "rejected"))]
    if sizes[0] != sizes[1]:
        raise Dropped(f"unequal sizes: chosen {sized(sizes[0])}, rejected {sized(sizes[1])}")
    return sizes[0]


def canvas_picture(data: bytes, height: int, width: int) -> Image.Image:
    """The RGB picture in `data`, reduced with Lanczos to the canvas when it is larger; `Dropped` when it is
    broken."""
    try:
        picture = read_picture(data)
    except UserError as error:
        raise Dropped(f"broken image: {error.what}") from error
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _size(data: bytes, name: str) -> tuple[int, int]:
    try:
        width, height = picture_size(data)
        return height, width
    except UserError as error:
        raise Dropped(f"{name}: broken image ({error.what})") from error


def sized(size: tuple[int, int]) -> str:
    """Height and width in words."""
    return f"{size[0]}x{size[1]}"
