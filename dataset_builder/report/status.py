"""`drspo status RUN`: what is done, failed and remaining, from files alone, also when the cluster is gone."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from dataset_builder.ideas import UNFINISHED_NAME
from dataset_builder.metrics import METRICS_NAME
from dataset_builder.report.stats import Prompts
from drspo.errors import UserError
from drspo.files.incomplete import is_mark
from drspo.files.run import RunDir
from drspo.files.texts import parse_json
from drspo.llm.journal import Journal
from drspo.llm.segments import Books
from pipeline.candidates.guard import Attempt, read_attempts
from pipeline.candidates.plan import plan_names, read_plan_so_far
from pipeline.ideas.finished import PROMPTS_NAME, prompt_names, read_prompts_so_far
from pipeline.pairs.columns import column_names, count_scores
from pipeline.records import PROMPT_SCHEMA, UNFINISHED
from pipeline.shards import is_shard
from pipeline.tables import read_pieces
from pipeline.units import done_units

# A line of metrics.jsonl older than this says nothing about the speed of now.
RECENT = 120.0


@dataclass
class Status:
    """The state of a run folder."""

    where: str
    created: str
    phases: dict[str, dict[str, Any]]
    prompts: int = 0
    accepted: int = 0
    blocks: int = 0
    """Finished blocks of a run whose other ideas are still to become prompts."""
    asked: int = 0
    """Rows of those blocks."""
    unfinished: int = 0
    """Prompts that the language model has left without an answer."""
    books: Books = field(default_factory=Books)
    """What the language model has cost."""
    losses: dict[str, int] = field(default_factory=dict)
    units: int = 0
    done: int = 0
    dead: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    seconds_per_unit: float = 0.0
    active: bool = False
    shards: list[str] = field(default_factory=list)
    incomplete: bool = False
    """Whether the export is under way, or was interrupted."""
    added: dict[str, int] = field(default_factory=dict)
    """Images that each column of `drspo score` has a number for."""
    quarantined: list[str] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Print a run's state."""
    json_wanted = "--json" in argv
    places = [argument for argument in argv if not argument.startswith("-")]
    if "--help" in argv or "-h" in argv or len(places) != 1:
        print(
            "usage: drspo status RUN [--json]\n\nWhat is done, failed and remaining in a run folder or URL."
        )
        return 0 if "--help" in argv or "-h" in argv else 2
    with RunDir(places[0]).understood():
        status = read_status(places[0])
        text = json.dumps(as_dict(status), indent=2) if json_wanted else describe(status)
    print(text)
    if not json_wanted and not _advice(status):
        print(f"next      {next_command(status, places[0])}")
    return 0


NOTHING_PASSED = (
    "no prompt was accepted: other ideas, or other filters (--filter.undecided keep takes those of which the "
    "rules know no word)"
)


def next_command(status: Status, where: str) -> str:
    """What one would want to type after reading of a run that needs no advice."""
    if status.prompts and not status.accepted:
        return NOTHING_PASSED
    if status.done < status.units or "export" not in status.phases or status.incomplete:
        return "the command that began the run continues it"
    return f"drspo view {shlex.quote(where)}"


def read_status(where: str) -> Status:
    """The state of the run in a folder or URL. Raises UserError when there is no run."""
    run = RunDir(where)
    manifest = run.manifest()
    if manifest["program"] != "dataset_builder":
        raise UserError(f"this is a run of {manifest['program']!r}, not of the dataset builder", where)
    status = Status(where=run.base, created=manifest["created"], phases=manifest["phases"])
    _read_prompts(run, status)
    _read_units(run, status)
    exported = run.list("export/")
    status.shards = [name for name in exported if is_shard(name)]
    status.incomplete = any(map(is_mark, exported))
    for name in column_names(run):
        status.added[name] = count_scores(run, name)
    status.quarantined = run.list("quarantine/")
    return status


def _read_prompts(run: RunDir, status: Status) -> None:
    status.books = Journal(run).books()
    if not run.exists(PROMPTS_NAME):
        if run.exists(UNFINISHED_NAME):
            facts = parse_json(run.read(UNFINISHED_NAME), run.url(UNFINISHED_NAME))
            status.unfinished, status.losses = int(facts["unfinished"]), dict(facts["losses"])
        _read_blocks(run, status)
        return
    prompts = Prompts.of(read_pieces(run, PROMPTS_NAME, PROMPT_SCHEMA))
    status.prompts, status.accepted = prompts.rows, prompts.accepted
    status.losses, status.unfinished = dict(prompts.losses), prompts.states[UNFINISHED]


def _read_blocks(run: RunDir, status: Status) -> None:
    """What the finished blocks come to, while others are still asked."""
    status.blocks = len(prompt_names(run))
    prompts = Prompts.of(read_prompts_so_far(run))
    status.asked, status.accepted = prompts.rows, prompts.accepted


def _read_units(run: RunDir, status: Status) -> None:
    if not plan_names(run):
        return
    done = done_units(run)
    status.done = len(done) - len(done.besides(_planned(run, status)))
    status.dead = [json.loads(run.read(name)) for name in run.list("dead/")]
    status.attempts = read_attempts(run)
    status.seconds_per_unit, status.active = _speed(run)


def _planned(run: RunDir, status: Status) -> Iterator[list[str]]:
    """The ids of the planned units, a piece at a time, counted on the way."""
    for piece in read_plan_so_far(run):
        status.units += piece.num_rows
        yield piece["unit_id"].to_pylist()


def _speed(run: RunDir) -> tuple[float, bool]:
    """(wall seconds per unit of the last start, whether it wrote lately)."""
    try:
        lines = run.read(METRICS_NAME).decode().splitlines()
    except FileNotFoundError:
        return 0.0, False
    points = [json.loads(line) for line in lines]
    last = points[-1]
    of_start = [p for p in points if p["started"] == last["started"]]
    # The newest minutes tell the speed of now; models that were loading do not.
    base = of_start[max(0, len(of_start) - 30)] if len(of_start) > 1 else {"time": last["started"], "done": 0}
    units = last["done"] - base["done"]
    speed = (last["time"] - base["time"]) / units if len(of_start) > 1 and units > 0 else 0.0
    return speed, time.time() - last["time"] < RECENT


def as_dict(status: Status) -> dict[str, Any]:
    """The state for other programs."""
    return {
        "where": status.where,
        "created": status.created,
        "phases": status.phases,
        "prompts": {
            "read": status.prompts,
            "accepted": status.accepted,
            "unfinished": status.unfinished,
            "lost": status.losses,
        },
        "llm": {**asdict(status.books), "tokens": status.books.tokens},
        "units": {"planned": status.units, "done": status.done, "dead_prompts": len(status.dead)},
        "in_flight_or_lost": len(status.attempts),
        "seconds_per_unit": status.seconds_per_unit,
        "active": status.active,
        "shards": status.shards,
        "export_incomplete": status.incomplete,
        "added_scores": status.added,
        "quarantined": status.quarantined,
    }


def describe(status: Status) -> str:
    """The state for a reader."""
    lines = [f"run        {status.where}, begun {status.created}"]
    lines.append(f"prompts    {_prompts(status)}")
    lines += [f"           {count} lost: {kind}" for kind, count in status.losses.items()]
    if status.books.requests:
        lines.append(f"llm        {_books(status.books)}")
    lines.append(f"images     {_units(status)}")
    lines += [f"           {count} dead: {error}" for error, count in _by_error(status.dead).items()]
    if status.attempts:
        lines.append(
            f"           {len(status.attempts)} prompts in flight, or left there by a worker that ended"
        )
    if status.quarantined:
        lines.append(f"           {len(status.quarantined)} damaged or foreign files moved to quarantine/")
    lines += [f"scores     {name}, added: {count} images" for name, count in status.added.items()]
    lines.append(f"export     {_export(status)}")
    return "\n".join(lines + _advice(status))


def _prompts(status: Status) -> str:
    text = f"{status.accepted} accepted of {status.prompts}" if status.prompts else "not yet"
    if status.blocks:
        text = f"{status.accepted} accepted of {status.asked} so far, in {status.blocks} blocks"
    return f"{text}, {status.unfinished} unfinished" if status.unfinished else text


def _books(books: Books) -> str:
    text = f"{books.requests} requests paid, {books.prompt_tokens} tokens in, {books.completion_tokens} out"
    if books.estimated_requests:
        text += f", and {books.estimated_tokens} estimated for {books.estimated_requests} of them"
    return text


def _units(status: Status) -> str:
    if not status.units:
        return "not planned yet"
    text = f"{status.done} of {status.units} units, {status.units - status.done} remaining"
    if status.seconds_per_unit and status.done < status.units:
        left = (status.units - status.done) * status.seconds_per_unit
        text += f"; {status.seconds_per_unit:.1f} s each, {left / 3600:.1f} h left at that speed"
    return text


def _export(status: Status) -> str:
    facts = status.phases.get("export")
    if status.incomplete:
        return "interrupted, or under way: the command that began the run finishes it"
    return f"{facts['pairs']} pairs in {len(status.shards)} shards" if facts else "not yet"


def _by_error(dead: list[dict[str, Any]]) -> dict[str, int]:
    errors = [str(row["error"])[:160] for row in dead]
    return {error: errors.count(error) for error in sorted(set(errors))}


def _advice(status: Status) -> list[str]:
    if status.unfinished and not status.prompts:
        return ["\nThe command that began the run asks again, for the unfinished ones only."]
    if status.dead or any(kind.startswith(("llm refusal", "llm unreadable")) for kind in status.losses):
        return [f"\n`drspo retry-dead {status.where}` puts the dead prompts back in the queue."]
    if status.units and status.done < status.units and not status.active:
        return ["\nNothing was written lately. The command that began the run continues it."]
    return []
