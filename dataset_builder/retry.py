"""`drspo retry-dead RUN`: put dead prompts back in the queue; the next start of the builder makes them."""

from __future__ import annotations

import json

from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.llm.journal import Journal
from pipeline.candidates.plan import PLAN_NAME
from pipeline.ideas.finished import PROMPTS_NAME
from pipeline.records import DEAD, PROMPT_SCHEMA, UNFINISHED
from pipeline.tables import read_pieces
from pipeline.units import unit_name

# What is made of ideas, block by block; the later first, so that a kill leaves nothing that lacks its cause.
MADE = ("phases/screened", "phases/prompts", "phases/plan", "phases/expanded")

USAGE = """usage: drspo retry-dead RUN [--match TEXT]

Puts the dead prompts of a run back in the queue (with --match, those whose error contains TEXT).
The command that began the run then tries them again."""


def main(argv: list[str]) -> int:
    """Requeue, and say how many."""
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return 0
    where, match = _parse(argv)
    with RunDir(where).understood():
        count = requeue(where, match) + requeue_questions(where, match)
    print(f"{count} dead prompts are back in the queue" if count else "no dead prompts to retry")
    if count:
        print("The command that began the run tries them again.")
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


def requeue_questions(where: str, match: str = "") -> int:
    """Let the language model be asked again about prompts that died before the plan; gives how many.

    The plan goes first: a kill in between leaves phases that are made again as they were. Units keep
    their ids, so no image is made again. UserError where units hold several prompts, whose ids would change.
    """
    run = RunDir(where)
    if not run.exists(PROMPTS_NAME):
        return Journal(run).withdraw(match)
    pieces = read_pieces(run, PROMPTS_NAME, PROMPT_SCHEMA)
    rows = (row for piece in pieces for row in piece.select(["status", "reason"]).to_pylist())
    count = sum(row["status"] in (DEAD, UNFINISHED) and match in row["reason"] for row in rows)
    if not count:
        return 0
    if run.manifest()["config"]["candidates"]["prompts_per_unit"] > 1 and run.list("units/"):
        raise UserError(
            f"{count} prompts died before the plan, whose units of several prompts stand already",
            where,
            "They can only join a run of its own: give their texts to a new one.",
        )
    made = [name for name in run.list("phases/") if name.startswith(MADE)]
    for name in (PLAN_NAME, PROMPTS_NAME, *sorted(made, reverse=True)):
        run.delete(name)
    Journal(run).withdraw(match)
    return count


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
