"""Small drawings for the report: how a scorer's numbers are spread, method by method."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, ROW, LEFT, DOT = 640, 22, 170, 3


def dots(methods: Sequence[str], values: np.ndarray) -> str:
    """An SVG with a row of dots for each method, one for each prompt, and a bar at its mean.

    values: [methods, prompts]. Empty where there is nothing to draw.
    """
    if not len(methods) or not values.size:
        return ""
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 1.0
    height = ROW * len(methods) + 24
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="numbers of each prompt by method">',
    ]
    for index, (method, row) in enumerate(zip(methods, values, strict=True)):
        y = ROW * index + ROW // 2
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(method)}</text>')
        parts += [f'<circle cx="{_x(v, low, span):.1f}" cy="{y}" r="{DOT}"/>' for v in row]
        mean = _x(float(row.mean()), low, span)
        parts.append(f'<path d="M{mean:.1f} {y - 9}V{y + 9}"/>')
    foot = height - 6
    parts.append(f'<text x="{LEFT}" y="{foot}">{low:.3g}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{foot}" text-anchor="end">{high:.3g}</text></svg>')
    return "".join(parts)


def _x(value: float, low: float, span: float) -> float:
    return LEFT + (WIDTH - LEFT - 10) * (value - low) / span
