"""`drspo compact RUN`: the many unit files of a run as fewer, larger ones, which are read alike."""

from __future__ import annotations

from dataset_builder.config import score_columns
from drspo import log as logs
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.log import progress
from pipeline.candidates.plan import planned_hash
from pipeline.compaction import Compaction, Tally
from pipeline.units import UnitStore

USAGE = """usage: drspo compact RUN

Moves the unit files of a run folder or URL into packs (units/ab/pack-000001.parquet) of up to a gigabyte, or
256 units. The run reads, continues and exports as before. It may be stopped or killed at any moment, and run
beside a build; several at once, on as many machines, share the work."""


def main(argv: list[str]) -> int:
    """Pack, and say how many files became how many packs."""
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return 0
    if len(argv) != 1 or argv[0].startswith("-"):
        raise UserError("which run?", hint=USAGE)
    run = RunDir(argv[0])
    run.require("dataset_builder")
    logs.setup(file=run.local_path("log.txt"))
    with run.understood():
        tally = compact(run)
    print(describe(tally))
    return 0


def compact(run: RunDir) -> Tally:
    """Pack a run's units; gives what was done and left."""
    store = UnitStore(run, planned_hash(run), score_columns(run.manifest()["config"]))
    compaction = Compaction(store)
    folders = compaction.folders()
    with progress(len(folders), "packing", "folders") as bar:
        return compaction(folders, lambda: bar.advance(1))


def describe(tally: Tally) -> str:
    """What was done and left, for a reader."""
    lines = [f"packed     {many(tally.files, 'unit file')} into {many(tally.packs, 'pack')}"]
    if not tally.files:
        lines = ["packed     nothing: no folder has two unit files that are for a pack"]
    if tally.copies:
        lines.append(f"removed    {many(tally.copies, 'file')} of units that packs held already")
    if tally.dead:
        lines.append(f"kept       {many(len(tally.dead), 'file')} with dead prompts, for `drspo retry-dead`")
    if tally.damaged:
        lines.append(
            f"kept       {many(len(tally.damaged), 'damaged file')} ({min(tally.damaged)}); "
            "the command that began the run makes anew what is lost"
        )
    return "\n".join(lines)


def many(count: int, thing: str) -> str:
    """A count of things, in words."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
