"""What the paper claims, and whether a benchmark shows it: seen, not seen, reversed or not tested."""

from __future__ import annotations

from dataclasses import dataclass

from eval.report.comparison import Comparison, Row
from eval.report.markdown import bounds
from eval.statistics.ranks import rank_differences, standings

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


@dataclass(frozen=True)
class RankClaim:
    """That DRSPO has the best average rank among some rows, by some scorers."""

    said: str
    scorers: tuple[str, ...]
    rows: tuple[str, ...]


PAPER_SCORERS = ("aesthetic", "hps_v2", "pickscore", "image_reward", "clip")
RANK_CLAIMS = (
    RankClaim("DRSPO has the best average rank by the paper's scorers (Table 1)", PAPER_SCORERS, TABLE1),
    RankClaim("the same with surplus and seam", (*PAPER_SCORERS, "surplus", "seam"), TABLE1),
    RankClaim("DRSPO with nothing left out has the best average rank (Table 2)", PAPER_SCORERS, TABLE2),
)
SURE = 0.975
"""One side of a 95 % interval."""


def judge(claim: Claim, found: Comparison) -> tuple[str, list[str]]:
    """("seen" | "not seen" | "reversed" | "not tested", a line for each row compared).

    Seen: DRSPO differs clearly, after Holm over the whole table, in the claimed direction from every row.
    Reversed: clearly in the other direction from at least one. Not tested: where no row, or one without an
    interval, could be compared. Rows that were not painted are named. `found` is against DRSPO.
    """
    others = [row for row in found.rows if row.scorer == claim.scorer and row.method in claim.others]
    absent = [f"{name} not painted" for name in claim.others if name not in {row.method for row in others}]
    if not others:
        return "not tested", absent
    signs = [_sign(row) * (1 if claim.better else -1) for row in others]
    lines = [f"{row.method} {_difference(row)}" for row in others] + absent
    if any(row.difference is None or not row.difference.known for row in others):
        return "not tested", lines
    if any(sign < 0 for sign in signs):
        return "reversed", lines
    return ("seen" if all(sign > 0 for sign in signs) else "not seen"), lines


def judge_rank(claim: RankClaim, found: Comparison) -> tuple[str, list[str]]:
    """("seen" | "not seen" | "reversed" | "not tested", DRSPO's rank and chance, then each row's difference).

    Seen: DRSPO is the best of all in at least 97.5 % of bootstrap draws over prompts, which is one statement
    about all rows. Reversed: one row stands before it in all but 2.5 % of them over the number of rows, after
    Bonferroni. Not tested: where a scorer or every other row is missing, or with fewer than five prompts.
    """
    methods = [name for name in claim.rows if name in found.methods]
    absent = [f"{name} not painted" for name in claim.rows if name not in methods]
    if OURS not in methods or len(methods) < 2 or not set(claim.scorers) <= set(found.scorers):
        return "not tested", absent
    values = found.array(claim.scorers, methods)
    if not values.shape[2]:
        return "not tested", absent
    ours = methods.index(OURS)
    own, against = standings(values)[ours], rank_differences(values, ours)
    others = [(name, one) for name, one in zip(methods, against, strict=True) if name != OURS]
    chance = f", best of {len(methods)} in {100 * own.best:.0f} % of draws" if own.rank.known else ""
    lines = [f"{OURS} {own.rank.mean:.2f} {bounds(own.rank, '.2f')}{chance}"]
    lines += [f"{name} {one.rank.mean:+.2f} {bounds(one.rank, '.2f')}" for name, one in others]
    if not own.rank.known:
        return "not tested", lines + absent
    if any(one.best >= 1 - (1 - SURE) / len(others) for _, one in others):
        return "reversed", lines + absent
    return ("seen" if own.best >= SURE else "not seen"), lines + absent


def _sign(row: Row) -> int:
    """+1 where DRSPO is clearly better than the row, -1 where clearly worse, 0 otherwise."""
    return {"- clearly worse": 1, "+ clearly better": -1}.get(row.verdict, 0)


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    return f"{row.difference.mean:+.3f} {bounds(row.difference, '.3f')}"
