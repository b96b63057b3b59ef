"""Which columns hold what: the layouts of known preference datasets, and rows of any of them as pairs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from drspo.errors import UserError
from drspo.files.inside import inside
from drspo.hashing import content_hash

FLAG = "--data.columns"

LAYOUTS: tuple[Mapping[str, str], ...] = (
    {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    {"prompt": "caption", "first": "jpg_0", "second": "jpg_1", "label": "label_0"},  # pick-a-pic v1 and v2
    {"prompt": "prompt", "images": "file_path", "preference": "human_preference"},  # HPDv2, train
    {"prompt": "prompt", "images": "image_path", "preference": "human_preference"},
    {"prompt": "prompt", "images": "image_path", "rank": "rank", "group": "prompt_id"},  # ImageRewardDB
    {"prompt": "prompt", "images": "image", "rank": "rank", "group": "prompt_id"},
    {"prompt": "prompt", "images": "image_path", "rank": "rank"},  # HPDv2, test
    {"prompt": "prompt", "images": "generations", "rank": "ranking"},  # ImageReward's own files
    {"prompt": "prompt", "chosen": "path1", "rejected": "path2"},  # HPDv3: the first is the better one
    {"prompt": "prompt", "chosen": "img_better", "rejected": "img_worse"},  # ImageRewardDB's pairs
    {"prompt": "prompt", "chosen": "chosen_file_name", "rejected": "rejected_file_name"},  # imagefolder
)
"""Role -> column. `label` is 1 where the first picture is preferred; in `preference` the highest is the best,
in `rank` the lowest; rows of one `group` that follow each other are ranked together, one picture each."""

ROLES = tuple(dict.fromkeys(role for layout in LAYOUTS for role in layout))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One preference: a prompt and the encoded bytes of the picture preferred and of the other one."""

    pair_id: str
    prompt: str
    chosen: bytes
    rejected: bytes


class Dropped(Exception):
    """Why a row cannot be trained on; the run writes it to dropped.jsonl and goes on."""


def named_columns(words: Sequence[str]) -> dict[str, str]:
    """Role -> column of `--data.columns chosen=win rejected=lose`; `UserError` for an unknown role."""
    found: dict[str, str] = {}
    for word in words:
        role, equals, column = word.partition("=")
        if not (equals and column) or role not in ROLES:
            raise UserError(f"{word!r} is not role=column", FLAG, f"the roles are {', '.join(ROLES)}")
        if role in found:
            raise UserError(f"the role {role} is given twice", FLAG)
        found[role] = column
    if not any(found.keys() <= layout.keys() for layout in LAYOUTS):
        raise UserError(f"{', '.join(found)} do not make a pair together", FLAG, _KNOWN)
    return found


def layout_of(row: Mapping[str, Any], words: Sequence[str], source: str) -> Mapping[str, str]:
    """The first known layout that `row` has, with the columns that were named in place of its own.

    `UserError` that says what is missing where there is none."""
    named = named_columns(words)
    if absent := [column for column in named.values() if column not in row]:
        raise UserError(
            f"there is no column {', '.join(absent)}", source, f"there are {', '.join(sorted(row))}"
        )
    for layout in LAYOUTS:
        merged = {role: named.get(role, column) for role, column in layout.items()}
        if named.keys() <= layout.keys() and all(column in row for column in merged.values()):
            return merged
    missing = [name for name in LAYOUTS[0] if name not in row and name not in named]
    raise UserError(
        f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}",
        source,
        f"this one has {', '.join(sorted(row))}; name them ({FLAG} chosen=... rejected=...); {_KNOWN}",
    )


def pairs_of(
    rows: Iterable[Mapping[str, Any]],
    words: Sequence[str],
    source: str,
    folders: Sequence[Path],
    split: str,
) -> Iterator[PairRow | tuple[str, Dropped]]:
    """Every row as a `PairRow`, or (row id, `Dropped`) where it has no preference.

    Names of files in cells are looked for in `folders`, and never leave them; with no folder none is
    followed.
    """
    layout: Mapping[str, str] = {}

    def group(numbered: tuple[int, Mapping[str, Any]]) -> Any:
        nonlocal layout
        index, row = numbered
        layout = layout or layout_of(row, words, source)
        return row.get(layout["group"]) if "group" in layout else index

    for _, members in groupby(enumerate(rows), key=group):
        together = list(members)
        index, first = together[0]
        try:
            yield _pair(layout, [row for _, row in together], lambda v, n: _bytes(v, n, folders))
        except Dropped as reason:
            yield str(first.get("pair_id") or first.get("ranking_id") or f"{split}-{index}"), reason


Read = Callable[[Any, str], bytes]


def _pair(layout: Mapping[str, str], rows: Sequence[Mapping[str, Any]], read: Read) -> PairRow:
    row = rows[0]
    prompt = row[layout["prompt"]] or ""
    chosen, rejected = (read(*cell) for cell in _choice(layout, rows))
    known = str(row.get("pair_id") or "") if "chosen" in layout else ""
    pair_id = known or content_hash(prompt, chosen, rejected)
    return PairRow(pair_id=pair_id, prompt=prompt, chosen=chosen, rejected=rejected)


def _choice(layout: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str]]:
    """(cell, its name) of the picture preferred and of the other one."""
    row = rows[0]
    if "chosen" in layout:
        return [(row[layout[role]], layout[role]) for role in ("chosen", "rejected")]
    if "label" in layout:
        label = row[layout["label"]]
        if label in (None, "") or row.get("has_label") is False:
            raise Dropped("no label")
        if _number(label) not in (0, 1):
            raise Dropped("tie")
        sides = [(row[layout[role]], layout[role]) for role in ("first", "second")]
        return sides if _number(label) == 1 else sides[::-1]
    return _extremes(layout, rows)


def _extremes(layout: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, str]]:
    """The best and the worst of several pictures of one prompt."""
    name = layout["images"]
    judged = layout.get("rank") or layout["preference"]
    if "group" in layout:
        images, values = [row[name] for row in rows], [row[judged] for row in rows]
    else:
        images, values = list(rows[0][name] or []), list(rows[0][judged] or [])
    if len(images) != len(values):
        raise Dropped(f"{len(images)} pictures and {len(values)} values of {judged}")
    if len(images) < 2:
        raise Dropped("one picture only, which is preferred to none")
    order = [_number(value) * (1 if "rank" in layout else -1) for value in values]
    best, worst = min(order), max(order)
    if best == worst:
        raise Dropped("tie")
    return [(images[order.index(value)], name) for value in (best, worst)]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise Dropped("no label") from error
    if not isfinite(number):
        raise Dropped("no label")
    return number


def _bytes(value: Any, name: str, folders: Sequence[Path]) -> bytes:
    """The encoded image in a cell: raw bytes, those in datasets' struct of bytes and path, or a file's."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    path = value
    if isinstance(value, Mapping):
        if value.get("bytes"):
            return bytes(value["bytes"])
        path = value.get("path")
    if not (isinstance(path, str) and path):
        raise Dropped(f"{name}: no image bytes")
    if not folders:  # of a stranger's data, it could be any file of this machine
        raise Dropped(f"{name}: a path instead of a picture, which is not followed")
    refused: list[str] = []
    for folder in folders:
        try:
            return inside(folder, path).read_bytes()
        except UserError as error:
            refused.append(error.what)
        except OSError as error:
            raise Dropped(f"{name}: not a readable file: {error}") from error
    raise Dropped(f"{name}: {refused[0]}")


_KNOWN = (
    "known are "
    + "; ".join(", ".join(layout.values()) for layout in LAYOUTS[:2])
    + (" and the layouts in docs/training.md")
)
