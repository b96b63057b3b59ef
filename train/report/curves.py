"""Curves of a run as one picture, drawn with PIL alone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from train.report.pictures import save_picture

PANEL = (360, 220)
MARGIN = (58, 26, 12, 24)  # left, top, right, bottom
INK, GRID, LINE = (40, 40, 40), (215, 215, 215), (31, 90, 160)
SHOWN = (
    ("preference_loss", "held-out preference loss"),
    ("accuracy", "held-out implicit accuracy"),
    ("margin", "held-out margin z"),
    ("winner_drift_share", "winner drift / reference error"),
)


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> bool:
    """Writes the held-out curves to `path`; False, and no file, with fewer than two measurements."""
    panels = [(title, [(r["step"], r[key]) for r in records if key in r]) for key, title in SHOWN]
    panels = [(title, points) for title, points in panels if len(points) > 1]
    if not panels:
        return False
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    sheet = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    for index, (title, points) in enumerate(panels):
        corner = (index % columns * PANEL[0], index // columns * PANEL[1])
        sheet.paste(_panel(title, points), corner)
    save_picture(sheet, path)
    return True


def _panel(title: str, points: Sequence[tuple[float, float]]) -> Image.Image:
    image = Image.new("RGB", PANEL, "white")
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = MARGIN[0], MARGIN[1], PANEL[0] - MARGIN[2], PANEL[1] - MARGIN[3]
    (x0, x1), (y0, y1) = _span([x for x, _ in points]), _span([y for _, y in points])
    pen.text((left, 7), title, fill=INK)
    for part in range(5):
        y = bottom - (bottom - top) * part / 4
        pen.line((left, y, right, y), fill=GRID)
        pen.text((4, y - 6), f"{y0 + (y1 - y0) * part / 4:.4g}", fill=INK)
    pen.text((left, bottom + 6), f"{x0:g}", fill=INK)
    pen.text((right - 60, bottom + 6), f"step {x1:g}", fill=INK)
    line = [
        (left + (right - left) * (x - x0) / (x1 - x0), bottom - (bottom - top) * (y - y0) / (y1 - y0))
        for x, y in points
    ]
    pen.line(line, fill=LINE, width=2)
    return image


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
