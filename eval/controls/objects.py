"""Controls that add things to a drawn scene: copies of what stands there, and as many different things."""

from __future__ import annotations

import numpy as np

from eval.controls.drawn import (
    Drawn,
    Sprite,
    add_light,
    changed,
    cut_out,
    free_places,
    holds,
    other_subjects,
    put,
)


def copies(parts: Drawn, rng: np.random.Generator, count: int) -> np.ndarray | None:
    """`count` exact copies of the subject, or in a quarter of the scenes of the sun or moon."""
    if rng.random() < 0.25:
        return suns(parts, rng, count)
    places = free_places(parts, [parts.sprite.width] * count, rng)
    return (
        _put_all(parts.clean, [(parts.sprite, x, 0.0) for x in places], parts.subject_at[1])
        if len(places) == count
        else None
    )


def suns(parts: Drawn, rng: np.random.Generator, count: int) -> np.ndarray | None:
    """`count` more suns or moons at the height of the first."""
    places = free_places(parts, [0.2 * parts.scene.height] * count, rng)
    if len(places) < count:
        return None
    image = parts.lit
    for x in places:
        image = add_light(parts, image, x)
    return put(image, parts.sprite, parts.subject_at)


def jittered(parts: Drawn, rng: np.random.Generator, count: int) -> np.ndarray | None:
    """`count` copies in other sizes (0.85 to 1.18), tints (8 %) and heights, half of them mirrored."""
    some = [
        changed(
            parts.sprite,
            scale=rng.uniform(0.85, 1.18),
            mirror=rng.random() < 0.5,
            gain=rng.uniform(0.92, 1.08, 3).astype(np.float32),
        )
        for _ in range(count)
    ]
    return _stood(parts, some, rng, lift=0.03)


def ghosts(parts: Drawn, rng: np.random.Generator, strength: float) -> np.ndarray | None:
    """Two copies of which only `strength` is there, as averaged windows leave them."""
    return _stood(parts, [changed(parts.sprite, ghost=strength)] * 2, rng)


def raised(parts: Drawn, rng: np.random.Generator, lift: float) -> np.ndarray | None:
    """A copy that stands `lift` heights above the original's line, or below it where there's no room."""
    height = parts.scene.height
    room_above = parts.subject_at[1] - parts.scene.subject_size * height
    sign = -1.0 if room_above > lift * height + 2 else 1.0
    places = free_places(parts, [parts.sprite.width], rng)
    return (
        _put_all(parts.clean, [(parts.sprite, x, sign * lift * height) for x in places], parts.subject_at[1])
        if places
        else None
    )


def resized(parts: Drawn, rng: np.random.Generator, scale: float) -> np.ndarray | None:
    """A copy at another size."""
    return _stood(parts, [changed(parts.sprite, scale=scale)], rng)


def leaning_twins(parts: Drawn, rng: np.random.Generator) -> np.ndarray | None:
    """Instead of the subject one that leans right, and its mirror image, which leans left."""
    lean = cut_out(parts.scene, lean=0.4)
    places = free_places(parts, [lean.width + 0.2 * parts.scene.height], rng)
    mirrored = changed(lean, mirror=True)
    return (
        _put_all(
            put(parts.lit, lean, parts.subject_at), [(mirrored, x, 0.0) for x in places], parts.subject_at[1]
        )
        if places
        else None
    )


def leaning_one(parts: Drawn, rng: np.random.Generator) -> np.ndarray:
    """The clean twin of `leaning_twins`: the leaning subject alone."""
    return put(parts.lit, cut_out(parts.scene, lean=0.4), parts.subject_at)


def different(parts: Drawn, rng: np.random.Generator, count: int) -> np.ndarray | None:
    """`count` subjects of other kinds, no two alike; balloons fly, the others stand on the subject's line."""
    others = other_subjects(parts, rng)[:count]
    if parts.scene.subject == "balloon":  # what stands on the ground stands below a balloon's line
        ground = (parts.scene.horizon + 0.12) * parts.scene.height
        return _stood(parts, others, rng, line=ground)
    return _stood(parts, others, rng)


def tiles(parts: Drawn, rng: np.random.Generator, vary: bool) -> np.ndarray:
    """Four tiles of the square around the subject; varied ones are mirrored by turns, tinted and shifted."""
    height, width = parts.scene.height, parts.scene.width
    left = int(np.clip(parts.subject_at[0] - height / 2, 0, width - height))
    tile = parts.clean[:, left : left + height]
    rows = []
    for number in range(width // height):
        one = tile[:, ::-1] if vary and number % 2 else tile
        if vary:
            one = np.roll(one, int(rng.integers(-3, 4)), axis=0)
            one = np.clip(one * rng.uniform(0.93, 1.07, 3), 0, 255).astype(np.uint8)
        rows.append(one)
    return np.hstack(rows)


def mirrored_half(parts: Drawn, rng: np.random.Generator) -> np.ndarray | None:
    """The left half and its mirror image; None unless a thing stands wholly in that half."""
    half, height = parts.scene.width // 2, parts.scene.height
    if not holds(parts, 0, half - 0.25 * height):
        return None
    left = parts.clean[:, :half]
    return np.hstack([left, left[:, ::-1]])


def _stood(
    parts: Drawn,
    sprites: list[Sprite],
    rng: np.random.Generator,
    lift: float = 0.0,
    line: float | None = None,
) -> np.ndarray | None:
    """The clean picture with all the cut-outs on the subject's line, or None where they find no room."""
    places = free_places(parts, [sprite.width for sprite in sprites], rng)
    if len(places) < len(sprites):
        return None
    drop = 0.0 if line is None else line - parts.subject_at[1]
    lifts = rng.uniform(-lift, lift, len(sprites)) * parts.scene.height + drop
    return _put_all(parts.clean, list(zip(sprites, places, lifts, strict=True)), parts.subject_at[1])


def _put_all(image: np.ndarray, things: list[tuple[Sprite, float, float]], foot: float) -> np.ndarray:
    """The picture with each cut-out at its column, its foot at row `foot` plus its own drop."""
    for sprite, x, drop in things:
        image = put(image, sprite, (x, foot + drop))
    return image
