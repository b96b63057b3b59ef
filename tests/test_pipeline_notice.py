"""A worker on a node that is to be taken away ends what it is at and leaves before anything else begins.

What it, or a worker that was lost with its node, was at is not the prompt's fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from dataset_builder.build import stage_spec
from drspo.files.storage import Storage
from pipeline.candidates.guard import LOST, UNEXPLAINED, read_attempts
from pipeline.candidates.plan import make_plan, unit_payload
from pipeline.records import DEAD, OK, Prompt, prompt_id, prompt_table
from tests import plugin_fakes
from tests.building import fake_config

ray = pytest.importorskip("ray")


class Left(BaseException):
    """Instead of the end of the process."""


def begun(told: list[str], came: threading.Event, leave: Callable[[], None], idle: float) -> object:
    from pipeline.candidates.notice import Notice

    return Notice(lambda: told.append("told"), came.is_set, leave, every=0.01, idle=idle)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise TimeoutError


def test_the_work_under_way_is_ended_and_the_next_handed_back() -> None:
    told: list[str] = []
    came = threading.Event()

    def leave() -> None:
        raise Left

    notice = begun(told, came, leave, idle=1000.0)
    with notice.work():
        came.set()
        wait_for(lambda: told)
        ended = True
    assert ended and told == ["told"]
    with pytest.raises(Left), notice.work():
        raise AssertionError("begun all the same")


def test_a_worker_without_work_leaves_by_itself_but_none_that_works() -> None:
    told: list[str] = []
    came, left = threading.Event(), threading.Event()
    notice = begun(told, came, left.set, idle=0.1)
    with notice.work():
        came.set()
        wait_for(lambda: told)
        assert not left.wait(0.3)
    assert left.wait(120)


def test_nobody_leaves_without_a_notice() -> None:
    left = threading.Event()
    notice = begun([], threading.Event(), left.set, idle=0.0)
    with notice.work():
        pass
    assert not left.wait(0.2)


TEXT = "a castle above a foggy valley"


class Workers:
    """The stages of one unit, each on an `Actor` as on a node named here, and what the cluster says."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        from pipeline import flow
        from pipeline.candidates import notice

        self.lost: set[str] = set()
        self.draining: dict[str, int] = {}
        here = SimpleNamespace(get_node_id=lambda: "here")
        patch.setattr(ray, "get_runtime_context", lambda: here)
        patch.setattr(ray, "nodes", lambda: [{"NodeID": "here", "Alive": "here" not in self.lost}])
        patch.setattr(notice.state, "get_draining_nodes", lambda: self.draining)
        self.notices: list[Any] = []

        def begin(told: Callable[[], None]) -> Any:
            self.notices.append(notice.Notice(told, leave=leave, every=0.01, idle=float("inf")))
            return self.notices[-1]

        patch.setattr(flow, "Notice", begin)
        patch.setenv("FAKE_LOG", str(folder / "made.log"))
        self.flow = flow
        self.spec = stage_spec(fake_config(folder, folder / "out"), str(folder / "out"))
        self.storage = Storage(self.spec.url)
        prompt = Prompt(prompt_id=prompt_id(TEXT), text=TEXT)
        (unit,) = make_plan(prompt_table([prompt]), self.spec.config_hash).to_pylist()
        self.row = unit_payload(unit)

    def actor(self, stage: str) -> Any:
        return self.flow.Actor(getattr(self.flow, stage), self.spec, self.spec)

    def attempts(self) -> dict[str, bytes]:
        return {name: self.storage.read(name) for name in self.storage.list("attempts/")}


def leave() -> None:
    raise Left


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    found = Workers(tmp_path, monkeypatch)
    yield found
    # Nobody looks any more when Ray is Ray again: asked by a thread that is left, it would start a cluster.
    found.draining["here"] = 0
    wait_for(lambda: all(notice.given for notice in found.notices))


@pytest.mark.parametrize(("lost", "status", "cause"), [(True, OK, LOST), (False, DEAD, UNEXPLAINED)])
@pytest.mark.parametrize("killed", ["paint", "score"])
def test_a_death_counts_little_where_the_node_went_too(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, killed: str, lost: bool, status: str, cause: str
) -> None:
    left: dict[str, bytes] = {}
    monkeypatch.setattr(
        plugin_fakes, "tell_node", lambda work: left.update(workers.attempts() if work == killed else {})
    )
    painted = workers.actor("Generate")(workers.row)
    workers.actor("ScoreAndCommit")(painted)
    ((name, found),) = left.items()
    # What three workers leave that are killed at this moment; the unit is made once more.
    for number in range(3):
        workers.storage.write(name.replace(".json", f"{number}.json"), found)
    if lost:
        workers.lost.add("here")
    (unit,) = workers.storage.list("units/")
    workers.storage.delete(unit)
    workers.actor("ScoreAndCommit")(workers.actor("Generate")(workers.row))
    assert {attempt.cause for attempt in read_attempts(workers.storage)} == {cause}
    assert pq.read_table(workers.storage.open(unit))["status"].to_pylist() == [status]


@pytest.mark.parametrize(("stage", "work"), [("Generate", "paint"), ("ScoreAndCommit", "score")])
def test_an_actor_told_of_a_drain_ends_its_unit_blames_no_prompt_and_begins_no_other(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, stage: str, work: str
) -> None:
    row = workers.row if stage == "Generate" else workers.actor("Generate")(workers.row)
    before: list[int] = []

    def drain(at: str) -> None:
        if at == work and not workers.draining:
            before.append(len(workers.attempts()))
            workers.draining["here"] = 0
            wait_for(lambda: not workers.attempts())

    monkeypatch.setattr(plugin_fakes, "tell_node", drain)
    actor = workers.actor(stage)
    assert actor(row)["unit_id"] == row["unit_id"] and before == [1]
    with pytest.raises(Left):
        actor(row)
    assert workers.attempts() == {}
