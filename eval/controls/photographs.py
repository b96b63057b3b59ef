"""Controls for photographs: things cut from photographs that libraries ship, set onto strips of others.

The photographs lie in scikit-image and scikit-learn; only their files are read. Two halves share neither a
thing nor a background, so that what is chosen on one can be checked on the other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from drspo.errors import UserError
from drspo.files.pictures import read_picture

HEIGHT, WIDTH = 256, 1024
SKIMAGE, SKLEARN = "skimage/data", "sklearn/datasets/images"


@dataclass(frozen=True, slots=True)
class Cut:
    """A thing in a photograph: the file and its box as fractions (left, top, right, bottom)."""

    file: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Half:
    """Photographs that one half of the scenes is made of."""

    things: tuple[Cut, ...]
    backgrounds: tuple[str, ...]


CHOOSING = Half(
    (
        Cut(f"{SKIMAGE}/coffee.png", (0.12, 0.02, 0.82, 0.98)),
        Cut(f"{SKLEARN}/china.jpg", (0.13, 0.04, 0.57, 0.88)),
        Cut(f"{SKIMAGE}/astronaut.png", (0.69, 0.0, 0.91, 0.55)),
        Cut(f"{SKIMAGE}/camera.png", (0.30, 0.10, 0.68, 0.62)),
        Cut(f"{SKIMAGE}/coins.png", (0.02, 0.75, 0.20, 0.98)),
    ),
    (f"{SKIMAGE}/rocket.jpg", f"{SKIMAGE}/moon.png", f"{SKIMAGE}/motorcycle_right.png", f"{SKIMAGE}/ihc.png"),
)
CHECKING = Half(
    (
        Cut(f"{SKLEARN}/flower.jpg", (0.26, 0.19, 0.70, 0.85)),
        Cut(f"{SKIMAGE}/astronaut.png", (0.28, 0.01, 0.62, 0.42)),
        Cut(f"{SKIMAGE}/chelsea.png", (0.12, 0.0, 0.88, 1.0)),
        Cut(f"{SKIMAGE}/motorcycle_left.png", (0.14, 0.14, 0.94, 0.93)),
        Cut(f"{SKIMAGE}/horse.png", (0.0, 0.0, 1.0, 1.0)),
    ),
    (f"{SKIMAGE}/grass.png", f"{SKIMAGE}/gravel.png", f"{SKIMAGE}/retina.jpg", f"{SKLEARN}/flower.jpg"),
)


@dataclass(frozen=True)
class Photo:
    """A strip of a photograph and things to set onto it; `clean` shows the first of them once."""

    background: np.ndarray
    """uint8 [HEIGHT, WIDTH, 3]."""
    things: tuple[np.ndarray, ...]
    """float32 [rows, columns, 4]: colour and coverage in 0..1 x 255; all different, in random order."""
    places: tuple[float, ...]
    """Columns of centres, far enough apart for four things."""
    row: float
    """The row of the centres."""

    @property
    def clean(self) -> np.ndarray:
        """The twin of every control."""
        return self.put([self.things[0]])

    def put(self, things: list[np.ndarray], lifts: list[float] | None = None) -> np.ndarray:
        """The strip with things at its places."""
        image = self.background.astype(np.float32)
        for thing, x, lift in zip(things, self.places, lifts or [0.0] * len(things)):
            _lay(image, thing, x, self.row + lift)
        return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def photo(seed: int, half: Half) -> Photo:
    """The scene of a seed, of one half's photographs."""
    rng = np.random.default_rng([seed, 77])
    file = half.backgrounds[int(rng.integers(len(half.backgrounds)))]
    picture, cuts = _read(file), [cut for cut in half.things if cut.file != file]
    height = min(picture.shape[0], picture.shape[1] // 4)
    rooms = np.subtract(picture.shape[:2], (height, 4 * height))
    top, left = (int(rng.integers(0, room + 1)) for room in rooms)
    strip = cv2.resize(
        picture[top : top + height, left : left + 4 * height], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    strip = strip[:, ::-1] if rng.random() < 0.5 else strip
    things = [_thing(cuts[index], rng.uniform(0.3, 0.46)) for index in rng.permutation(len(cuts))]
    slots = (np.arange(4) + 0.5) * WIDTH / 4 + rng.uniform(-0.09, 0.09, 4) * HEIGHT
    places = tuple(float(x) for x in rng.permutation(slots))
    return Photo(np.ascontiguousarray(strip), tuple(things), places, float(rng.uniform(0.4, 0.62) * HEIGHT))


Control = Callable[[Photo, np.random.Generator], np.ndarray]


def copies(scene: Photo, rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` exact copies of the thing."""
    return scene.put([scene.things[0]] * (count + 1))


def jittered(scene: Photo, rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` copies in other sizes (0.87 to 1.15), tints (6 %) and heights, half of them mirrored."""
    some = [scene.things[0]]
    for _ in range(count):
        thing = scene.things[0] * np.append(rng.uniform(0.94, 1.06, 3), 1).astype(np.float32)
        scale = float(rng.uniform(0.87, 1.15))
        thing = cv2.resize(thing, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        some.append(thing[:, ::-1] if rng.random() < 0.5 else thing)
    return scene.put(some, [0.0, *(rng.uniform(-0.03, 0.03, count) * HEIGHT)])


def different(scene: Photo, rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` further things, no two alike."""
    return scene.put(list(scene.things[: count + 1]))


def blur(scene: Photo, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur of 1.5 pixels at this size."""
    return cv2.GaussianBlur(scene.clean, (0, 0), 1.5)


def noise(scene: Photo, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian noise of 5 levels."""
    return np.clip(scene.clean + rng.normal(0, 5, scene.clean.shape) + 0.5, 0, 255).astype(np.uint8)


CONTROLS: dict[str, Control] = {
    **{f"{n} cop{'y' if n == 1 else 'ies'}": partial(copies, count=n) for n in (1, 2, 3)},
    **{f"{n} jittered": partial(jittered, count=n) for n in (1, 2)},
    **{f"{n} different": partial(different, count=n) for n in (1, 2)},
    "blur": blur,
    "noise": noise,
}
COPIES = {"1 copy": 1, "2 copies": 2, "3 copies": 3, "1 jittered": 1, "2 jittered": 2}
"""The controls that the measure is for, with the copies they hold; it must be silent for the others."""


@lru_cache(maxsize=32)
def _read(file: str) -> np.ndarray:
    """RGB [height, width, 3] of a library's file, read without importing the library."""
    package, _, inside = file.partition("/")
    found = importlib.util.find_spec(package)
    root = Path(found.origin).parent if found and found.origin else None
    if root is None or not (root / inside).is_file():
        raise UserError(
            f"the photographs that this measure is calibrated on are not here: {file}",
            "surplus_photo",
            "in the checkout: pip install -e '.[photographs]' (scikit-image and scikit-learn)",
        )
    return np.asarray(read_picture(root / inside))


def _thing(cut: Cut, size: float) -> np.ndarray:
    """A cut-out `size` heights high, no wider than 0.55 heights, with a soft rounded edge."""
    picture = _read(cut.file)
    height, width = picture.shape[:2]
    left, top, right, bottom = cut.box
    piece = picture[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    scale = HEIGHT * min(size / piece.shape[0], 0.55 / piece.shape[1])
    piece = cv2.resize(piece, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = (np.linspace(-1, 1, side) ** 4 for side in piece.shape[:2])
    cover = np.clip((1 - np.add.outer(y, x)) / 0.25, 0, 1)
    return np.dstack([piece, 255 * cover]).astype(np.float32)


def _lay(image: np.ndarray, thing: np.ndarray, x: float, y: float) -> None:
    """Sets a thing onto a picture, its centre at (x, y); what lies outside is cut."""
    rows, columns = thing.shape[:2]
    left, top = round(x - columns / 2), round(y - rows / 2)
    y0, y1, x0, x1 = max(0, top), min(HEIGHT, top + rows), max(0, left), min(WIDTH, left + columns)
    part = thing[y0 - top : y1 - top, x0 - left : x1 - left]
    cover = part[..., 3:] / 255
    image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - cover) + part[..., :3] * cover
