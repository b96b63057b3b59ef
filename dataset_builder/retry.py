"""`drspo retry-dead RUN`: put dead prompts back in the queue; the next start of the builder makes them."""

from __future__ import annotations

import json

from dataset_builder.ideas import PHASE
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.llm.journal import Journal
from pipeline.candidates.guard import read_attempts
from pipeline.candidates.plan import PLAN_NAME
from pipeline.ideas.finished import PROMPTS_NAME, prompt_names
from pipeline.records import DEAD, PROMPT_SCHEMA, UNFINISHED
from pipeline.tables import read_pieces
from pipeline.units import unit_name

# What is made of ideas, block by block; the later first, so that a kill leaves nothing that lacks its cause.
MADE = ("phases/plan", "phases/prompts", "phases/expanded", "phases/screened")
ASKED = ("phases/screened", "phases/expanded")

USAGE = """usage: drspo retry-dead RUN [--match TEXT]

Puts the dead prompts of a run back in the queue (with --match, those whose error contains TEXT).
The command that began the run then tries them again, and `drspo score` those that took its scorer down."""


def main(argv: list[str]) -> int:
    """Requeue, and say how many."""
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return 0
    where, match = _parse(argv)
    with RunDir(where).understood():
        count = requeue(where, match) + requeue_questions(where, match)
        columns = requeue_columns(where, match)
    if count or not columns:
        print(f"{count} dead prompts are back in the queue" if count else "no dead prompts to retry")
    if count:
        print("The command that began the run tries them again.")
    if columns:
        print(f"{columns} prompts took an added scorer down; the same `drspo score` tries them again.")
    return 0


def requeue(where: str, match: str = "") -> int:
    """Remove the dead prompts' units and attempts; gives how many prompts are back in the queue.

    In this order, so that a kill in between leaves a dead row that can be retried, never a lost one. Units
    with a dead prompt are in no pack.
    """
    run = RunDir(where)
    if run.manifest()["program"] != "dataset_builder":
        raise UserError("this is no run of the dataset builder", where)
    count = 0
    for name in run.list("dead/"):
        row = json.loads(run.read(name))
        if match not in row["error"]:
            continue
        for attempt in run.list(f"attempts/{row['unit_id']}."):
            run.delete(attempt)
        run.delete(unit_name(row["unit_id"]))
        run.delete(name)
        count += 1
    return count


def requeue_columns(where: str, match: str = "") -> int:
    """Let `drspo score` try the prompts again that took a scorer down, which it sets aside; gives how many.

    Nothing else is taken back: a number replaces the row that says why there is none.
    """
    run, found = RunDir(where), dict[str, list[str]]()
    for name in run.list("attempts/"):
        if ".column-" in name:
            found.setdefault(name.rsplit(".", 2)[0], []).append(name)
    count = 0
    for prefix, names in found.items():
        causes = [attempt.cause for attempt in read_attempts(run, f"{prefix}.")]
        if any(cause and match in cause for cause in causes):
            for name in names:
                run.delete(name)
            count += 1
    return count


def requeue_questions(where: str, match: str = "") -> int:
    """Let the language model be asked again about prompts that died before the plan; gives how many.

    What was made of them is removed, the plan first: a kill in between leaves phases that are made again as
    they were, or dead rows that can be retried. Units keep their ids, so no image is made again. UserError
    where units hold several prompts, whose ids would change; blocks of which such units stand are left alone.
    """
    run = RunDir(where)
    finished, joined = prompt_names(run), run.exists(PROMPTS_NAME)
    count = sum(_dead(run, name, match) for name in finished)
    if joined and not count:
        return 0
    standing = run.manifest()["config"]["candidates"]["prompts_per_unit"] > 1 and run.list("units/")
    if standing and count:
        raise UserError(
            f"{count} prompts died before the plan, whose units of several prompts stand already",
            where,
            "They can only join a run of its own: give their texts to a new one.",
        )
    made = [name for name in run.list("phases/") if name.startswith(MADE)]
    blocks = {_block(name) for name in finished}
    early = {_block(name): name for name in sorted(made, reverse=True) if name.startswith(ASKED)}
    if not joined:
        count += sum(_dead(run, name, match) for block, name in early.items() if block not in blocks)
    if count:
        # What a language model was paid for is not forgotten: other prompts may not take the folder.
        run.phase_undone(PHASE, "llm")
        run.phase_undone("plan")
        stays = blocks if standing else set()
        gone = [name for kind in MADE for name in made if name.startswith(kind) and _block(name) not in stays]
        for name in (PLAN_NAME, PROMPTS_NAME, *gone):
            run.delete(name)
    return max(count, Journal(run).withdraw(match))


def _dead(run: RunDir, name: str, match: str) -> int:
    """How many prompts of a table died, or got no answer, for such a reason."""
    pieces = (piece.select(["status", "reason"]) for piece in read_pieces(run, name, PROMPT_SCHEMA))
    rows = (row for piece in pieces for row in piece.to_pylist())
    return sum(row["status"] in (DEAD, UNFINISHED) and match in row["reason"] for row in rows)


def _block(name: str) -> str:
    """The block of a table, as its name says it; nothing where all ideas are one."""
    return name.partition("-")[2]


def _parse(argv: list[str]) -> tuple[str, str]:
    queue, places, match = list(argv), [], ""
    while queue:
        token = queue.pop(0)
        if token == "--match" and queue:
            match = queue.pop(0)
        elif token.startswith("--match="):
            match = token.partition("=")[2]
        elif token.startswith("-"):
            raise UserError(f"unknown option {token}", hint=USAGE)
        else:
            places.append(token)
    if len(places) != 1:
        raise UserError("which run?", hint=USAGE)
    return places[0], match
