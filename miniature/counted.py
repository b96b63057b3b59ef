"""How the detector counts on painted scrolls, against a count by eye: `python -m miniature.counted`.

`miniature/counted/` holds a hundred scrolls as they were painted (`scrolls/`), what each was asked to show,
by which method and weights (`asked.json`, written by `benchmarks.counted_scrolls`), and what was seen in them
by eye (`counts.json`): for every scroll the things by name, with their boxes (left, top, right, bottom) in
pixels. Half-formed and smeared subjects were counted where one would say "a castle", pale suns where one
would say "a sun". The pictures ship with the counts, so the comparison stays valid when the weights change.
`counted/study/` holds seventy more in the same form, painted by the networks that ship; they chose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from miniature.detector import Found, count_objects
from miniature.scene import COUNTABLE, SUBJECTS, Thing

FOLDER = Path(__file__).parent / "counted"
STUDY = FOLDER / "study"
GROUPS = {"suns": ("sun",), "moons": ("moon",), "subjects": SUBJECTS, **{name: (name,) for name in SUBJECTS}}
CHOSEN_ON = 50  # the detector's thresholds were chosen on so many of the first scrolls
_MARGIN = 4.0  # pixels that a centre may lie outside of a box drawn by eye


@dataclass(frozen=True)
class Agreement:
    """One kind of things over all scrolls."""

    seen: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.seen if self.seen else float("nan")

    @property
    def bias(self) -> float:
        """The detector's count over the eye's, less one: above zero where it counts too many."""
        return self.found / self.seen - 1 if self.seen else float("nan")


def compare(
    folder: Path = FOLDER, detect: Callable[[np.ndarray], list[Found]] = count_objects, since: int = 0
) -> dict[str, Agreement]:
    """How detector and eye agree, by group of names, over the scrolls of `folder` from number `since` on."""
    pairs = [(things, detect(picture)) for picture, things in list(counted(folder))[since:]]
    return {group: agreement(pairs, names) for group, names in GROUPS.items()}


def counted(folder: Path = FOLDER) -> Iterable[tuple[np.ndarray, list[Thing]]]:
    """Every scroll (height x width x 3, uint8) with the things that were seen in it."""
    for scroll in json.loads((folder / "counts.json").read_text(encoding="utf-8"))["scrolls"]:
        path = folder / "scrolls" / f"{scroll['number']:03d}.webp"
        picture = cv2.imread(str(path))
        if picture is None:
            from drspo.errors import UserError

            raise UserError("a counted scroll cannot be read", str(path), "restore it from git")
        yield picture[..., ::-1], [_thing(name, box, path) for name, *box in scroll["things"]]


def _thing(name: str, box: list[float], path: Path) -> Thing:
    if name not in COUNTABLE or len(box) != 4 or box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"{path.name}: {name!r} with box {box} is no thing of this world")
    left, top, right, bottom = (float(value) for value in box)
    return Thing(name, (left, top, right, bottom))


def agreement(pairs: list[tuple[list[Thing], list[Found]]], names: tuple[str, ...]) -> Agreement:
    """Counts of `names`: an object answers for one thing of its own name whose box holds its centre."""
    seen = found = right = 0
    for things, objects in pairs:
        things = [thing for thing in things if thing.name in names]
        objects = [here for here in objects if here.kind in names]
        seen, found, right = seen + len(things), found + len(objects), right + matched(things, objects)
    return Agreement(seen, found, right)


def matched(things: list[Thing], objects: list[Found]) -> int:
    """How many things are found, no object answering for two."""
    free, right = list(objects), 0
    for thing in things:
        near = [here for here in free if here.kind == thing.name and _holds(thing, here)]
        if near:
            x, y = thing.centre
            free.remove(min(near, key=lambda here: np.hypot(here.x - x, here.y - y)))
            right += 1
    return right


def _holds(thing: Thing, here: Found) -> bool:
    left, top, right, bottom = thing.box
    return left - _MARGIN <= here.x <= right + _MARGIN and top - _MARGIN <= here.y <= bottom + _MARGIN


def main() -> None:
    """The command."""
    for title, folder, since in (
        ("the hundred scrolls", FOLDER, 0),
        ("those of them that chose no threshold", FOLDER, CHOSEN_ON),
        ("seventy scrolls of the networks that ship", STUDY, 0),
    ):
        print(f"{title}\nkind          by eye   found   precision   recall   bias")
        for group, here in compare(folder, since=since).items():
            shares = f"{here.precision:>11.2f} {here.recall:>8.2f} {here.bias:>+7.0%}"
            print(f"{group:<12} {here.seen:>7} {here.found:>7} {shares}")


if __name__ == "__main__":
    main()
