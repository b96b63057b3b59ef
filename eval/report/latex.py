"""The tables for papers and spreadsheets: LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, fields

from eval.benchmark.records import Record
from eval.report.comparison import Comparison
from eval.statistics.intervals import Interval

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex(found: Comparison) -> str:
    """One table as papers print it: a method per line, a scorer per column with its direction, mean and half
    its interval, the best mean bold, and the average rank. Needs the package booktabs."""
    arrows = {s: r"$\uparrow$" if found.about[s].higher_is_better else r"$\downarrow$" for s in found.scorers}
    head = ["", *(f"{escape(scorer)} {arrows[scorer]}" for scorer in found.scorers)]
    means = {(row.method, row.scorer): row.mean for row in found.rows}
    best = {scorer: _best(found, means, scorer) for scorer in found.scorers}
    lines = [
        "% " + "; ".join(f"{s}: {found.about[s].checkpoint_hash}" for s in found.scorers).replace("\n", " "),
        r"\begin{tabular}{l" + "r" * (len(found.scorers) + bool(found.standings)) + "}",
        r"\toprule",
        " & ".join([*head, *([r"Average rank $\downarrow$"] if found.standings else [])]) + r" \\",
        r"\midrule",
    ]
    for method in found.methods:
        cells = [escape(method)]
        for scorer in found.scorers:
            cells.append(_cell(means.get((method, scorer)), method == best[scorer]))
        if found.standings:
            cells.append(f"{found.standings[method].rank.mean:.2f}")
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def csv_tables(found: Comparison) -> dict[str, str]:
    """tables.csv, a line for each method and scorer, and records.csv, a line for each number of a picture."""
    head = ["method", "scorer", "mean", "low", "high", "prompts", "difference", "difference_low"]
    head += ["difference_high", "p_holm", "verdict", "win_rate"]
    table = []
    for row in found.rows:
        line = [row.method, row.scorer, row.mean.mean, row.mean.low, row.mean.high, row.mean.n]
        if row.difference and row.wins:
            line += [row.difference.mean, row.difference.low, row.difference.high]
            line += [row.p, row.verdict, row.wins.mean]
        table.append(line)
    names = [field.name for field in fields(Record)]
    records = [[asdict(record)[name] for name in names] for record in found.records]
    return {"tables.csv": _csv(head, table), "records.csv": _csv(names, records)}


def escape(text: str) -> str:
    """The text as LaTeX prints it."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _cell(mean: Interval | None, best: bool) -> str:
    if mean is None:
        return "--"
    number = f"{mean.mean:.3f}"
    number = rf"\textbf{{{number}}}" if best else number
    return number if not mean.known else rf"{number} {{\scriptsize $\pm$ {(mean.high - mean.low) / 2:.3f}}}"


def _best(found: Comparison, means: dict[tuple[str, str], Interval], scorer: str) -> str:
    known = [method for method in found.methods if (method, scorer) in means]
    sign = 1 if found.about[scorer].higher_is_better else -1
    return max(known, key=lambda method: sign * means[method, scorer].mean, default="")


def _csv(head: list[str], rows: Iterable[list[object]]) -> str:
    """Cells that a spreadsheet would run as a formula begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_inert(cell) for cell in row] for row in rows])
    return out.getvalue()


def _inert(cell: object) -> object:
    return (
        f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "@", "+", "-") and len(cell) > 1 else cell
    )
