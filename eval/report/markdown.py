"""A comparison as Markdown, each table headed by scorer, unit, view and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from drspo.markup import code, inline
from eval.report.comparison import Comparison, Row
from eval.report.order import order
from eval.statistics.intervals import Interval
from eval.statistics.ranks import Standing

RULE = (
    "Who has clearly fewer surplus objects stands first (after Holm over all pairs; how many fewer in "
    "brackets); where none is clear, the average rank below decides."
)


def markdown(found: Comparison) -> str:
    """All tables: the methods in order, one per scorer, ranks, what they hang on, how scorers agree."""
    parts = [_order(found), *(_scorer(found, scorer) for scorer in found.scorers)]
    parts += [_ranks(found), _leave_one_out(found), _correlations(found), _shares(found)]
    return "\n".join(part for part in parts if part)


def bounds(interval: Interval, form: str = ".4f") -> str:
    """The interval's brackets, or that there is none."""
    if not interval.known:
        return f"(n = {interval.n}, no interval)"
    return f"[{interval.low:{form}}, {interval.high:{form}}]"


def _order(found: Comparison) -> str:
    placed = order(found)
    if not placed:
        return ""
    head = ["", "method", "surplus objects [95 %]", "clearly fewer than", "average rank"]
    lines = [f"### In order\n\n{RULE}\n", _cells(head), _cells(["---"] * len(head))]
    for number, place in enumerate(placed, 1):
        fewer = [
            f"{inline(name)} ({gap.mean:.2f} {bounds(gap, '.2f')})" for name, gap in place.before.items()
        ]
        surplus = f"{place.surplus.mean:.2f} {bounds(place.surplus, '.2f')}"
        cells = [str(number), inline(place.method), surplus, ", ".join(fewer), f"{place.rank:.2f}"]
        lines.append(_cells(cells))
    return "\n".join(lines) + "\n"


def _scorer(found: Comparison, scorer: str) -> str:
    about, (used, every) = found.about[scorer], found.pictures(scorer)
    better = "higher" if about.higher_is_better else "lower"
    label = " (was a training label)" if scorer in found.trained else ""
    label += " (aside: no rank counts it)" if scorer in found.aside else ""
    revision = f"@{inline(about.revision[:12])}" if about.revision else ""
    tokens = f"; {about.text_limit} tokens of a prompt" if about.text_limit else ""
    head = (
        f"### {inline(scorer)}{label}\n\n{inline(about.unit)}; view {inline(about.view)}{tokens}; "
        f"{inline(about.checkpoint)}{revision} {code(about.checkpoint_hash)}, "
        f"version {inline(about.version)}; {better} is better; "
        f"compared on {used} of {every} pictures per method\n"
    )
    notes = [
        f"- {inline(item.method)}: {item.pictures} pictures without a number ({inline(item.reason)})"
        for item in found.missing
        if item.scorer == scorer
    ]
    rows = [_line(row) for row in found.rows if row.scorer == scorer]
    title = f"| method | mean [95 %] | difference to {inline(found.baseline)} [95 %] | | wins |"
    title += "\n|---|---|---|---|---|"
    return "\n".join([head, *notes, *([""] if notes else []), title, *rows, ""])


def _line(row: Row) -> str:
    mean = f"{row.mean.mean:.4f} {bounds(row.mean)}"
    if row.difference is None or row.wins is None:
        return f"| {inline(row.method)} | {mean} | baseline | | |"
    w = row.wins
    wins = Interval(100 * w.mean, 100 * w.low, 100 * w.high, w.n)
    return (
        f"| {inline(row.method)} | {mean} | {row.difference.mean:+.4f} {bounds(row.difference, '+.4f')} "
        f"| {row.verdict} | {wins.mean:.0f} % {bounds(wins, '.0f')} |"
    )


def _ranks(found: Comparison) -> str:
    if not found.standings:
        return "### Average rank\n\nNo picture has a number from every scorer and method.\n"
    second = found.untrained_standings
    head = ["method", "rank [95 %]", "chance to be best", "paper's tie rule"]
    head += [f"without {_names(found.trained)}"] if second else []
    title = f"### Average rank over {_names(found.ranked)}\n"
    lines = [title, _cells(head), _cells(["---"] * len(head))]
    for method, standing in found.standings.items():
        cells = [inline(method), *_standing(standing), f"{found.paper_ranks[method]:.2f}"]
        lines.append(_cells(cells + ([" ".join(_standing(second[method])[:1])] if second else [])))
    return "\n".join(lines) + "\n"


def _standing(standing: Standing) -> list[str]:
    best = "" if math.isnan(standing.best) else f"{100 * standing.best:.0f} %"
    return [f"{standing.rank.mean:.2f} {bounds(standing.rank, '.2f')}", best]


def _leave_one_out(found: Comparison) -> str:
    if not found.leave_one_out:
        return ""
    lines = [
        "### Average rank without one scorer\n",
        _cells(["without", *map(inline, found.methods)]),
        _cells(["---"] * (1 + len(found.methods))),
    ]
    for scorer, row in found.leave_one_out.items():
        best = min(row.values())
        lines.append(
            _cells([inline(scorer), *(f"**{r:.2f}**" if r == best else f"{r:.2f}" for r in row.values())])
        )
    return "\n".join(lines) + "\n"


def _correlations(found: Comparison) -> str:
    if len(found.scorers) < 2 or not np.isfinite(found.correlations).any():
        return ""
    lines = [
        "### How far the scorers prefer the same picture of a prompt (Spearman)\n",
        _cells(["", *map(inline, found.scorers)]),
        _cells(["---"] * (1 + len(found.scorers))),
    ]
    for scorer, row in zip(found.scorers, found.correlations, strict=True):
        lines.append(
            _cells([inline(scorer), *("" if math.isnan(value) else f"{value:+.2f}" for value in row)])
        )
    return "\n".join(lines) + "\n"


def _shares(found: Comparison) -> str:
    picked = found.pick_shares()
    if not picked:
        return ""
    group = _names(picked)
    lines = [
        "### pickscore_share\n",
        f"The mean softmax share within the group {group}; another group, other shares.\n",
        _cells(["method", "share"]),
        _cells(["---", "---"]),
    ]
    return (
        "\n".join([*lines, *(_cells([inline(name), f"{share:.3f}"]) for name, share in picked.items())])
        + "\n"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(inline, names))


def _cells(values: list[str]) -> str:
    return "| " + " | ".join(values) + " |"
