"""Small charts as SVG text: score distributions and a win-rate matrix. They need no library to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#3b6ea5", "#c8553d", "#5b8c5a", "#8e6c8a", "#b8860b", "#4a7c7e")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 226, 12, 44, 30
_TEXT = 'font-family="system-ui, sans-serif" font-size="12" fill="#444"'

Histogram = Mapping[str, Sequence[float]]


def distributions(title: str, histograms: Mapping[str, Histogram]) -> str:
    """Overlaid densities of several histograms {name: {"edges", "counts"}}, on one axis."""
    shown = {name: h for name, h in histograms.items() if h and sum(h["counts"])}
    body = [f'<text x="{_LEFT}" y="15" {_TEXT} font-weight="600">{escape(title)}</text>']
    if shown:
        low = min(h["edges"][0] for h in shown.values())
        high = max(h["edges"][-1] for h in shown.values())
        peak = max(max(_density(h)) for h in shown.values())
        for index, (name, histogram) in enumerate(shown.items()):
            body += _curve(name, histogram, (low, high, peak), index)
        body += [_label(low, low, high, "start"), _label((low + high) / 2, low, high, "middle")]
        body += [_label(high, low, high, "end")]
        axis = f"{escape(title)}; the height of a curve is the share of its values"
        body.append(f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT - 9}" {_TEXT} text-anchor="middle">{axis}</text>')
    else:
        body.append(f'<text x="{_LEFT}" y="60" {_TEXT}>no values</text>')
    counted = ", ".join(f"{short(name)} {sum(h['counts']):,.0f}" for name, h in shown.items())
    return _svg(_WIDTH, _HEIGHT, body, f"Distribution of {title}; values: {counted or 'none'}")


def win_matrix(rates: Mapping[str, Mapping[str, float | None]]) -> str:
    """rates[a][b], the share in which the row `a` beats the column `b`, as a coloured table."""
    names = list(rates)
    beaten = "; ".join(
        f"{short(row)} above {short(column)} {rate:.0%}"
        for row, others in rates.items()
        for column, rate in others.items()
        if rate is not None
    )
    label = f"How often a row scores above a column: {beaten or 'no values'}"
    cell, left, top = 84, 130, 40
    body = []
    for i, row in enumerate(names):
        y = top + i * 40
        body.append(_right(left - 8, y + 24, row))
        body.append(f'<text x="{left + i * cell + cell / 2}" y="{top - 10}" {_TEXT} text-anchor="middle">')
        body[-1] += f"{escape(short(row))}</text>"
        for j, column in enumerate(names):
            body.append(_cell(left + j * cell, y, cell, rates[row].get(column)))
    return _svg(left + cell * len(names) + 8, top + 40 * len(names) + 8, body, label)


def short(name: str) -> str:
    """A generator's or scorer's name without the module of a plugin."""
    return name.rpartition(":")[2] or name


def _svg(width: float, height: float, body: Sequence[str], label: str) -> str:
    """The drawing; `label` says in words what it shows, for those who do not see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    head += f' role="img" aria-label="{escape(label)}" style="max-width:100%;height:auto">'
    return "\n".join([head, '<rect width="100%" height="100%" rx="6" fill="#ffffff"/>', *body, "</svg>"])


def _density(histogram: Histogram) -> list[float]:
    edges, counts = histogram["edges"], histogram["counts"]
    total = sum(counts) or 1
    return [count / total / (edges[i + 1] - edges[i]) for i, count in enumerate(counts)]


def _curve(name: str, histogram: Histogram, span: tuple[float, float, float], index: int) -> list[str]:
    low, high, peak = span
    edges, density = histogram["edges"], _density(histogram)
    floor: float = _HEIGHT - _BOTTOM
    points = [(_x(edges[0], low, high), floor)]
    for i, value in enumerate(density):
        y = floor - (floor - _TOP - 14) * value / peak
        points += [(_x(edges[i], low, high), y), (_x(edges[i + 1], low, high), y)]
    points.append((_x(edges[-1], low, high), floor))
    colour = COLOURS[index % len(COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = (
        f'<polygon points="{path}" fill="{colour}" fill-opacity="0.18" stroke="{colour}" stroke-width="1.5"/>'
    )
    return [line, _legend(name, colour, index)]


def _legend(name: str, colour: str, index: int) -> str:
    """Names stand in a row under the title, above every curve."""
    place = f'<text x="{_LEFT + 132 * index}" y="34" {_TEXT}>'
    return f'{place}<tspan fill="{colour}">&#9632;</tspan> {escape(short(name))}</text>'


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (_WIDTH - 2 * _LEFT) * (value - low) / ((high - low) or 1)


def _label(value: float, low: float, high: float, anchor: str) -> str:
    place = f'x="{_x(value, low, high):.1f}" y="{_HEIGHT - _BOTTOM + 17}"'
    return f'<text {place} {_TEXT} text-anchor="{anchor}">{value:.3g}</text>'


def _right(x: float, y: float, text: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {_TEXT} text-anchor="end">{escape(short(text))}</text>'


def _cell(x: float, y: float, width: float, rate: float | None) -> str:
    if rate is None:
        return f'<rect x="{x:g}" y="{y:g}" width="{width - 4}" height="36" rx="4" fill="#f3f3f1"/>'
    strength, colour = abs(rate - 0.5) * 1.6, COLOURS[0] if rate >= 0.5 else COLOURS[1]
    box = f'<rect x="{x:g}" y="{y:g}" width="{width - 4}" height="36" rx="4" fill="{colour}"'
    text = f'<text x="{x + width / 2 - 2:g}" y="{y + 23:g}" {_TEXT} text-anchor="middle">{rate:.0%}</text>'
    return f'{box} fill-opacity="{min(strength + 0.06, 0.85):.2f}"/>{text}'
