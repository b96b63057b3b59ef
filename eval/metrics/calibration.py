"""From which likeness on two places of a photograph show one thing: chosen and checked for each network.

A gate that is right for one network's weights is wrong for another's, so there is no default. Floor and gate
are chosen on controls made of one half of the photographs and judged on the other half, which shares no thing
and no background with it, by the self-test's own rule. What fails is kept as a failure and gives no number.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from drspo.errors import UserError
from drspo.files.storage import Storage
from eval.controls.photographs import CHECKING, CHOOSING, CONTROLS, COPIES, Half, photo
from eval.metrics.matching import Gate, repeats_at
from eval.metrics.token_field import residual, token_field

log = logging.getLogger(__name__)
FLOORS = (2.0, 3.0)
GATES = tuple(
    Gate(low, low + width)
    for low in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    for width in (0.15, 0.25)
    if low + width < 1
)
CHOSEN_ON, CHECKED_ON = 12, 20
"""Scenes of each half; further ones say little more, since photographs are few."""
ORDERED, LEAK = 0.95, 0.10
"""A control that the measure is for rises in so many scenes; any other shifts the mean by less than so much
of what the weakest of those does."""
RECIPE = "photographs-1"

Tokens = Callable[[np.ndarray], np.ndarray]
Rises = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found for one network: where to cut, and how its controls came out."""

    floor: float
    gate: Gate
    controls: dict[str, tuple[float, float]]
    """(mean shift, share of scenes above the clean twin) of each control, on the half for checking."""

    @property
    def failures(self) -> list[str]:
        """A sentence for each control that fails; with none, numbers may be printed."""
        weakest = min(self.controls[name][0] for name in COPIES)
        found = [
            f"{name} is seen in {above:.0%} of scenes"
            for name, (_, above) in self.controls.items()
            if name in COPIES and above < ORDERED
        ]
        return found + [
            f"{name} moves it by {shift:+.2f}, a tenth of the weakest copy's shift is {LEAK * weakest:.2f}"
            for name, (shift, _) in self.controls.items()
            if name not in COPIES and abs(shift) >= LEAK * max(weakest, 0)
        ]

    def table(self) -> str:
        """The controls as Markdown."""
        rows = [
            f"| {name} | {'for' if name in COPIES else 'silent'} | {shift:+.2f} | {above:.0%} |"
            for name, (shift, above) in self.controls.items()
        ]
        return "\n".join(["| control | role | mean shift | above its twin |", "|---|---|---|---|", *rows])


def calibrated(tokens: Tokens, weights: str, cache: str) -> Calibration:
    """The calibration of the network whose weights have this digest: kept under `calibrations/` of `cache`, a
    folder or URL, made where it is not there yet. UserError when the photographs are missing."""
    if (kept := known(weights, cache)) is not None:
        return kept
    log.info("calibrating %s on controls made of photographs; once per network", weights)
    found = calibrate(tokens, CHOSEN_ON, CHECKED_ON)
    if cache:
        Storage(cache).write(_name(weights), json.dumps(asdict(found), indent=1).encode())
    return found


def calibrate(tokens: Tokens, chosen_on: int, checked_on: int) -> Calibration:
    """The floor and gate that count the copies of one half best, with the other half's verdict on them."""
    best = min(
        (_error(rises), floor, gate)
        for (floor, gate), rises in _rises(tokens, CHOOSING, chosen_on, FLOORS, GATES).items()
    )
    _, floor, gate = best
    rises = _rises(tokens, CHECKING, checked_on, (floor,), (gate,))[floor, gate]
    controls = {
        name: (float(np.mean(some)), float(np.mean([0.5 * (rise >= 0) + 0.5 * (rise > 0) for rise in some])))
        for name, some in rises.items()
    }
    return Calibration(floor, gate, controls)


def known(weights: str, cache: str) -> Calibration | None:
    """The calibration that `cache` already holds of these weights."""
    return _read(Storage(cache), _name(weights)) if cache else None


def require(found: Calibration, network: str) -> None:
    """Nothing for a calibration that passes; UserError with what fails otherwise."""
    if found.failures:
        raise UserError(
            f"surplus objects of photographs cannot be counted by {network}: its controls fail",
            "; ".join(found.failures),
            "give another network, for example --judges.options "
            "surplus_photo.backbone=facebook/dinov2-with-registers-base",
        )


def _rises(
    tokens: Tokens, half: Half, count: int, floors: tuple[float, ...], gates: tuple[Gate, ...]
) -> dict[tuple[float, Gate], Rises]:
    """{setting: {control: rise over the clean twin in each scene}}."""
    out: dict[tuple[float, Gate], Rises] = {(floor, gate): {} for floor in floors for gate in gates}
    for seed in range(count):
        clean: dict[tuple[float, Gate], float] = {}
        for control, image in _pictures(seed, half):
            rest = residual(tokens(image))
            for floor in floors:
                found = repeats_at(token_field(rest, image, floor), gates)
                for gate, one in zip(gates, found, strict=True):
                    if control == "clean":
                        clean[floor, gate] = one.surplus
                    else:
                        rise = one.surplus - clean[floor, gate]
                        out[floor, gate].setdefault(control, []).append(rise)
    return out


def _pictures(seed: int, half: Half) -> Iterator[tuple[str, np.ndarray]]:
    scene = photo(seed, half)
    yield "clean", scene.clean
    for name, control in CONTROLS.items():
        yield name, control(scene, np.random.default_rng([seed, zlib.crc32(name.encode())]))


def _error(rises: Rises) -> float:
    """How far a setting is from counting copies and nothing else: misses in objects, shares not ordered."""
    counts = [abs(float(np.mean(rises[name])) - truth) / truth for name, truth in COPIES.items()]
    unordered = [float(np.mean(np.array(rises[name]) <= 0)) for name in COPIES]
    leaks = [abs(float(np.mean(some))) for name, some in rises.items() if name not in COPIES]
    return float(np.mean(counts) + 4 * max(unordered) + 4 * max(0.0, max(leaks) - 0.05))


def _name(weights: str) -> str:
    return f"calibrations/{RECIPE}-{weights}.json"


def _read(storage: Storage, name: str) -> Calibration | None:
    try:
        said = json.loads(storage.read(name))
        controls = {key: (float(shift), float(above)) for key, (shift, above) in said["controls"].items()}
        found = Calibration(float(said["floor"]), Gate(**said["gate"]), controls)
        return found if set(controls) == set(CONTROLS) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
