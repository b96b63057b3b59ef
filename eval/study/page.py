"""What the paper claims, held against runs of the benchmark: `drspo study` writes it to a page of its own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drspo.files.run import RunDir
from drspo.markup import inline
from eval.benchmark.records import RECORDS, Record
from eval.report.comparison import Comparison, Row
from eval.report.markdown import bounds

OURS = "drspo"
BESIDE = ("spotdiffusion", "twindiffusion", "gvcf")
"""Methods that the paper does not compare with."""
ASIDE = ("border_seam", "style", "border_frame", "repeated_objects", "subject_present", "scene_right")
BASELINES = ("multidiffusion", "sdxl", "mad", "syncdiffusion", "elasticdiffusion", "sd3", "sd3-esrgan")
TABLE1 = (*BASELINES, OURS)
TABLE2 = (
    *(OURS, "drspo-without-dpo", "drspo-without-highres-dpo"),
    *("drspo-without-control", "drspo-without-blueprint", "drspo-with-ip-adapter"),
)


@dataclass(frozen=True)
class Claim:
    """That DRSPO is better than every one of some rows under a scorer (or worse, where `better` is False)."""

    said: str
    scorer: str
    others: tuple[str, ...]
    better: bool = True


WITHOUT_DPO = ("drspo-without-dpo", "drspo-without-highres-dpo")
WITHOUT_CONTROL = ("drspo-without-control", "drspo-without-blueprint")
BELOW_IN_PICKSCORE = tuple(row for row in BASELINES if row != "mad")
CLAIMS = (
    Claim("Windowed baselines repeat objects, DRSPO does not (5.3)", "surplus", ("multidiffusion", "mad")),
    Claim("the same by exact counts", "repeated_objects", ("multidiffusion", "mad")),
    Claim("DRSPO has the highest HPS v2 (5.2)", "hps_v2", BASELINES),
    Claim("DRSPO has the highest ImageReward (5.2)", "image_reward", BASELINES),
    Claim("DRSPO has the highest CLIP score (5.2)", "clip", BASELINES),
    Claim("Only MAD and FLUX + ESRGAN have a higher PickScore (Table 1)", "pickscore", BELOW_IN_PICKSCORE),
    Claim("DRSPO does not lead in the aesthetic score: MAD does (5.2)", "aesthetic", ("mad",), better=False),
    Claim("Without DPO, human preference suffers: HPS v2 (5.4)", "hps_v2", WITHOUT_DPO),
    Claim("Without DPO, human preference suffers: PickScore (5.4)", "pickscore", WITHOUT_DPO),
    Claim("Without DPO, human preference suffers: ImageReward (5.4)", "image_reward", WITHOUT_DPO),
    Claim("Without the blueprint's guidance HPS v2 falls sharply (5.4)", "hps_v2", WITHOUT_CONTROL),
    Claim("Without DPO the aesthetic score is higher (5.4)", "aesthetic", WITHOUT_DPO, better=False),
    Claim("Without control the aesthetic score is higher (5.4)", "aesthetic", WITHOUT_CONTROL, better=False),
    *(
        Claim(f"An IP-Adapter harms every score (5.4): {scorer}", scorer, ("drspo-with-ip-adapter",))
        for scorer in ("aesthetic", "hps_v2", "pickscore", "image_reward", "clip")
    ),
)


def judge(claim: Claim, found: Comparison) -> tuple[str, list[str]]:
    """("seen" | "not seen" | "reversed" | "not tested", a line for each row compared).

    Seen: DRSPO differs clearly, after Holm over the whole table, in the claimed direction from every row.
    Reversed: clearly in the other direction from at least one. Not tested: where no row, or one without an
    interval, could be compared. Rows that were not painted are named. `found` is against DRSPO.
    """
    others = [row for row in found.rows if row.scorer == claim.scorer and row.method in claim.others]
    if not others:
        return "not tested", []
    signs = [_sign(row) * (1 if claim.better else -1) for row in others]
    lines = [f"{row.method} {_difference(row)}" for row in others]
    absent = [name for name in claim.others if name not in {row.method for row in others}]
    lines += [f"{name} not painted" for name in absent]
    if any(row.difference is None or not row.difference.known for row in others):
        return "not tested", lines
    if any(sign < 0 for sign in signs):
        return "reversed", lines
    return ("seen" if all(sign > 0 for sign in signs) else "not seen"), lines


def _sign(row: Row) -> int:
    """+1 where DRSPO is clearly better than the row, -1 where clearly worse, 0 otherwise."""
    return {"- clearly worse": 1, "+ clearly better": -1}.get(row.verdict, 0)


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    return f"{row.difference.mean:+.3f} {bounds(row.difference, '.3f')}"


def report(runs: Sequence[tuple[str, RunDir]], facts: dict[str, str]) -> str:
    """The page: how it was made, the claims one by one, then both tables of every format."""
    parts = ["# The paper in miniature\n", _head(facts)]
    for title, run in runs:
        records = [Record(**json.loads(line)) for line in run.read(RECORDS).decode().splitlines()]
        parts.append(f"## Scrolls of {title}\n\n{_counts(records)}\n{_claims(records)}")
        for name, rows in (("Table 1", (*TABLE1, *BESIDE)), ("Table 2", TABLE2)):
            parts.append(f"### {name}, {title}\n\n{_table(records, rows)}")
    return "\n".join(parts)


def _head(facts: dict[str, str]) -> str:
    lines = "\n".join(f"- {key}: {inline(value)}" for key, value in facts.items())
    return (
        "Written by `drspo study`: pairs built, both LoRAs trained, every row painted on the embedded zoo. "
        "Whatever came out stands here. The scorers are the zoo's stand-ins, which say nothing of the "
        "published networks; differences are paired over prompts, with Student's 95 % intervals, and *clear* "
        f"only after Holm over a table.\n\n{lines}\n"
    )


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
    for claim in CLAIMS:
        verdict, rows = judge(claim, found)
        lines.append(f"| {claim.said} | **{verdict}** | {'; '.join(map(inline, rows))} |")
    return "\n".join([*lines, ""])


def _counts(records: Sequence[Record]) -> str:
    prompts = {record.prompt for record in records}
    seeds = {record.seed for record in records}
    return f"{len(prompts)} prompts, {len(seeds)} seeds.\n"


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
        title, _, folder = entry.partition("=")
        run = RunDir(folder)
        run.require("eval")
        runs.append((title, run))
    text = report(runs, dict(fact.partition("=")[::2] for fact in chosen.fact))
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    Path(chosen.out).write_text(text, encoding="utf-8")
    print(f"page: {chosen.out}")
    return 0
