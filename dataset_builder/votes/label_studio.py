"""A contest as Label Studio has it: tasks, pictures, labelling interface, and the votes so far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataset_builder.votes.contest import Ballot, Contest
from drspo.errors import UserError
from drspo.files.pictures import picture_format
from drspo.files.storage import Storage
from pipeline.pairs.votes import Vote

INTERFACE = """<View>
  <Header value="$prompt"/>
  <Pairwise name="better" toName="first,second"/>
  <Image name="first" value="$first"/>
  <Image name="second" value="$second"/>
  <Choices name="neither" toName="first" choice="single" required="false">
    <Choice value="tie"/><Choice value="bad"/>
  </Choices>
</View>
"""
SERVED = "/data/local-files/?d="
"""How Label Studio's local storage is addressed, below its LOCAL_FILES_DOCUMENT_ROOT."""


def export(contest: Contest, ballots: list[Ballot], votes: list[Vote], folder: Path) -> int:
    """Writes FOLDER/tasks.json, interface.xml and pictures/; how many tasks. UserError where one is there."""
    store = Storage(str(folder))
    if store.exists("tasks.json"):
        raise UserError("there is an export already", str(folder), "Name another folder.")
    asked = [ballot for ballot in ballots if not ballot.is_check]
    names = sorted({scroll.name for ballot in asked for scroll in (ballot.first, ballot.second)})
    files = {}
    for name in names:
        data = contest.picture(name)
        files[name] = f"pictures/{name}.{picture_format(data)}"
        store.write(files[name], data)
    by_ballot: dict[str, list[Vote]] = {}
    for vote in votes:
        by_ballot.setdefault(vote.ballot, []).append(vote)
    tasks = [_task(ballot, files, by_ballot.get(ballot.name, []), folder.name) for ballot in asked]
    store.write("interface.xml", INTERFACE.encode())
    store.write("tasks.json", (json.dumps(tasks, indent=1, ensure_ascii=False) + "\n").encode())
    return len(tasks)


def _task(ballot: Ballot, files: dict[str, str], votes: list[Vote], folder: str) -> dict[str, Any]:
    data = {
        "prompt": ballot.first.prompt,
        "first": f"{SERVED}{folder}/{files[ballot.first.name]}",
        "second": f"{SERVED}{folder}/{files[ballot.second.name]}",
        "ballot": ballot.name,
    }
    return {"data": data, "annotations": [{"result": [_result(vote)]} for vote in votes]}


def _result(vote: Vote) -> dict[str, Any]:
    if vote.verdict in ("tie", "bad"):
        said = {"choices": [vote.verdict]}
        return {"from_name": "neither", "to_name": "first", "type": "choices", "value": said}
    chosen = "left" if vote.verdict == "first" else "right"
    return {"from_name": "better", "to_name": "first", "type": "pairwise", "value": {"selected": chosen}}
