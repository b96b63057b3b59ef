"""What the paper claims, held against runs of the benchmark: `drspo study` writes it to a page of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.markup import inline
from eval.benchmark.records import Record, read_records
from eval.report.comparison import Comparison, Row
from eval.report.markdown import bounds
from eval.study.paper import (
    ASIDE,
    BESIDE,
    CLAIMS,
    OURS,
    RANK_CLAIMS,
    TABLE1,
    TABLE2,
    judge,
    judge_rank,
)


def report(runs: Sequence[tuple[str, RunDir]], facts: dict[str, str]) -> str:
    """The page: how it was made, what is not on it, the claims one by one, then every format's tables."""
    loaded = [(title, run, read_records(run)) for title, run in runs]
    told = {f"scrolls of {title}": _told(run, records) for title, run, records in loaded}
    parts = ["# The paper in miniature\n", _head(facts | told)]
    for title, _, records in loaded:
        parts.append(f"## Scrolls of {title}\n\n{_size(records)}.\n\n{_claims(records)}")
        for name, rows in (("Table 1", (*TABLE1, *BESIDE)), ("Table 2", TABLE2)):
            parts.append(f"### {name}, {title}\n\n{_table(records, rows)}")
    return "\n".join(parts)


def _head(facts: dict[str, str]) -> str:
    lines = "\n".join(f"- {key}: {inline(value)}" for key, value in facts.items())
    return (
        "Written by `drspo study`: pairs built, both LoRAs trained, every row painted on the embedded zoo. "
        "Whatever came out stands here. The scorers are the zoo's stand-ins, which say nothing of the "
        "published networks; differences are paired over prompts, with Student's 95 % intervals, and *clear* "
        "only after Holm over a table. Average ranks carry a bootstrap over prompts: *seen* where DRSPO is "
        "the best of all in 97.5 % of the draws.\n\n"
        f"{lines}\n\nThe command again paints what is missing and nothing else: rows that came later, more "
        "`--prompts`, `--long-prompts` or `--seeds`.\n"
    )


def _told(run: RunDir, records: Sequence[Record]) -> str:
    """How much of one format was painted, when, by which revision, and what was not."""
    manifest = run.manifest()
    stamps = [(manifest.get("created", ""), manifest.get("revision", ""))]
    stamps += [(step.get("at", ""), step.get("revision", "")) for step in manifest.get("extended", ())]
    when = ", added to ".join(f"{at[:10]} at revision {_short(revision)}" for at, revision in stamps)
    painted = {record.method for record in records}
    absent = [row for row in dict.fromkeys((*TABLE1, *BESIDE, *TABLE2)) if row not in painted]
    gone = f"; not painted: {', '.join(absent)}" if absent else ""
    return f"{_size(records)}, {len(painted)} rows; {when}{gone}"


def _short(revision: str) -> str:
    commit, plus, rest = revision.partition("+")
    return f"{commit[:7]}{plus}{rest}" or "unknown"


def _size(records: Sequence[Record]) -> str:
    prompts, seeds = len({record.prompt for record in records}), len({record.seed for record in records})
    return f"{prompts} prompts, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def _compared(records: Sequence[Record], rows: Sequence[str], baseline: str) -> Comparison | None:
    some = [record for record in records if record.method in rows]
    if baseline not in {record.method for record in some}:
        return None
    scorers = {record.scorer for record in some}
    return Comparison(some, baseline, ("aesthetic",), [name for name in ASIDE if name in scorers])


def _claims(records: Sequence[Record]) -> str:
    found = _compared(records, tuple({record.method for record in records}), OURS)
    if found is None:
        return ""
    lines = ["| the paper says | here | the row less DRSPO [95 %] |", "|---|---|---|"]
    judged = [(claim.said, *judge(claim, found)) for claim in CLAIMS]
    judged += [(claim.said, *judge_rank(claim, found)) for claim in RANK_CLAIMS]
    lines += [
        f"| {said} | **{verdict}** | {'; '.join(map(inline, rows))} |" for said, verdict, rows in judged
    ]
    return "\n".join([*lines, ""])


def _table(records: Sequence[Record], rows: Sequence[str]) -> str:
    """Means with intervals, one row per method, and the average rank by what is ranked."""
    found = _compared(records, rows, OURS)
    if found is None:
        return "Not painted.\n"
    by_cell = {(row.method, row.scorer): row for row in found.rows}
    head = "| | " + " | ".join(inline(name) for name in found.scorers) + " | average rank |"
    lines = [head, "|---" * (len(found.scorers) + 2) + "|"]
    for method in rows:
        if method not in found.methods:
            continue
        cells = [_mean(by_cell.get((method, scorer))) for scorer in found.scorers]
        standing = found.standings.get(method)
        rank = f"{standing.rank.mean:.2f} {bounds(standing.rank, '.2f')}" if standing else ""
        lines.append(f"| {inline(method)} | " + " | ".join(cells) + f" | {rank} |")
    ranked = ", ".join(found.ranked)
    return "\n".join([*lines, "", f"Ranked by {ranked}; the others stand aside.", ""])


def _mean(row: Row | None) -> str:
    return "" if row is None else f"{row.mean.mean:.3f} {bounds(row.mean, '.3f')}"


def main(argv: list[str]) -> int:
    """`python -m eval study --out FILE --fact KEY=VALUE ... TITLE=RUN ...`: writes the page."""
    parser = argparse.ArgumentParser(prog="python -m eval study", description=__doc__)
    parser.add_argument("runs", nargs="+", help="TITLE=FOLDER of finished benchmarks")
    parser.add_argument("--out", required=True, help="the Markdown file to write")
    parser.add_argument("--fact", action="append", default=[], help="KEY=VALUE, how it was made")
    chosen = parser.parse_args(argv)
    runs = []
    for entry in chosen.runs:
        title, equals, folder = entry.partition("=")
        if not (title and equals and folder):
            raise UserError(f"{entry!r} is no titled run", "eval study", "write TITLE=FOLDER")
        run = RunDir(folder)
        run.require("eval")
        runs.append((title, run))
    text = report(runs, dict(fact.partition("=")[::2] for fact in chosen.fact))
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    Path(chosen.out).write_text(text, encoding="utf-8")
    print(f"page: {chosen.out}")
    return 0
