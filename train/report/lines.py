"""Curves over steps as SVG text: means with their 95 % intervals. They need no library to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, stdev

BINS = 60
"""Most points of a curve: steps between two of them are averaged."""
TOGETHER = 5
"""Steps that are averaged at least, or none are: the spread of fewer says nothing."""
_WIDTH, _HEIGHT = 560, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 30, 40
_TEXT = 'font-family="system-ui, sans-serif" font-size="12" fill="#444"'
_INK = "#1f5aa0"
_Z = 1.96


@dataclass(frozen=True)
class Point:
    """A mean with its interval; the three are equal where one value says nothing of its spread."""

    step: float
    mean: float
    low: float
    high: float


def binned(values: Sequence[tuple[int, float]], bins: int = BINS) -> list[Point]:
    """(step, value) of single steps as at most `bins` means, with the interval that their spread gives."""
    finite = [(step, value) for step, value in values if math.isfinite(value)]
    size = max(TOGETHER, math.ceil(len(finite) / bins)) if len(finite) >= bins else 1
    points = []
    for start in range(0, len(finite), size):
        steps, some = zip(*finite[start : start + size], strict=True)
        half = _Z * stdev(some) / math.sqrt(len(some)) if len(some) > 1 else 0.0
        mean = fmean(some)
        points.append(Point(fmean(steps), mean, mean - half, mean + half))
    return points


def share(step: int, rate: float, count: int) -> Point:
    """A share of `count` cases with Wilson's interval."""
    z2 = _Z * _Z
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return Point(step, rate, max(0.0, centre - half), min(1.0, centre + half))


def draw(title: str, points: Sequence[Point]) -> str:
    """The drawing: a line through the means, a band for the intervals, axes with their numbers."""
    if not points:
        return ""
    steps = (points[0].step, points[-1].step)
    low, high = min(point.low for point in points), max(point.high for point in points)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    body = [f'<text x="8" y="17" {_TEXT} font-weight="600">{escape(title)}</text>']
    for part in range(5):
        value = low + (high - low) * part / 4
        y = _y(value, low, high)
        body.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3dfd4"/>')
        body.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" {_TEXT} text-anchor="end">{value:.3g}</text>')
    places = [_x(point.step, steps) for point in points]
    above = [f"{x:.1f},{_y(p.high, low, high):.1f}" for x, p in zip(places, points, strict=True)]
    below = [f"{x:.1f},{_y(p.low, low, high):.1f}" for x, p in zip(places, points, strict=True)]
    means = [f"{x:.1f},{_y(p.mean, low, high):.1f}" for x, p in zip(places, points, strict=True)]
    body.append(
        f'<polygon points="{" ".join([*above, *reversed(below)])}" fill="{_INK}" fill-opacity="0.15"/>'
    )
    body.append(f'<polyline points="{" ".join(means)}" fill="none" stroke="{_INK}" stroke-width="1.8"/>')
    if len(points) <= BINS // 2:
        body += [f'<circle cx="{x}" cy="{y}" r="3" fill="{_INK}"/>' for x, y in (m.split(",") for m in means)]
    floor = _HEIGHT - _BOTTOM + 16
    body.append(f'<text x="{_LEFT}" y="{floor}" {_TEXT}>{steps[0]:.0f}</text>')
    body.append(f'<text x="{_WIDTH - _RIGHT}" y="{floor}" {_TEXT} text-anchor="end">{steps[1]:.0f}</text>')
    body.append(
        f'<text x="{(_LEFT + _WIDTH) / 2:g}" y="{floor + 14}" {_TEXT} text-anchor="middle">step</text>'
    )
    return _svg(body, f"{title}: {_told(points[0])}, {_told(points[-1])}")


def _told(point: Point) -> str:
    return f"at step {point.step:.0f} {point.mean:.4g} (from {point.low:.4g} to {point.high:.4g})"


def _x(step: float, steps: tuple[float, float]) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - steps[0]) / ((steps[1] - steps[0]) or 1.0)


def _y(value: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (value - low) / (high - low)


def _svg(body: Sequence[str], label: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
    head += f' role="img" aria-label="{escape(label)}" style="max-width:100%;height:auto">'
    return "\n".join([head, '<rect width="100%" height="100%" rx="6" fill="#ffffff"/>', *body, "</svg>"])
