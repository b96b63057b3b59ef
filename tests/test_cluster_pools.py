"""A cluster on this machine that gains nodes, loses one, and is told that one will be taken away."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dataset_builder.build import Build, Outcome
from drspo.files.storage import Storage
from pipeline.candidates.guard import read_attempts
from pipeline.settings import ResourceSettings
from tests.building import build, fake_config, final_tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

IDEAS = [
    f"a {scene} in {light}"
    for scene in "fjord mesa delta moor canyon glacier".split()
    for light in "fog rain snow moonlight spring winter dusk".split()
]
STORE = 100_000_000


class Nodes:
    """Nodes with one simulated GPU each beside a head without."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        self.add(num_cpus=4, num_gpus=0, labels={"size": "small"}, include_dashboard=False)

    def add(self, **changes: Any) -> Any:
        """One more node. A busy machine may exceed the 30 s that Ray allows its own start: tried again."""
        given = {"num_cpus": 2, "num_gpus": 1, "labels": {"size": "big"}, **changes}
        for _ in range(3):
            with contextlib.suppress(Exception):
                return self.cluster.add_node(object_store_memory=STORE, **given)
        return self.cluster.add_node(object_store_memory=STORE, **given)

    def lose(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any) -> None:
        """What a provider's notice of two minutes becomes."""
        words = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
        which = ("--address", self.cluster.address, "--node-id", node.node_id)
        end = ("--deadline-remaining-seconds", "120")
        command = [str(Path(sys.executable).parent / "ray"), "drain-node", *which, *words, *end]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()
        for child in psutil.Process().children(recursive=True):
            if "ray" in child.name():
                child.kill()


@pytest.fixture
def nodes(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    workers = {
        "PYTHONPATH": str(repository),
        "FAKE_LOG": str(tmp_path / "made.log"),
        "FAKE_NODES": str(tmp_path / "nodes.log"),
        "FAKE_SECONDS": "0.3",
        "RAY_agent_register_timeout_ms": "120000",
    }
    for name, value in workers.items():
        monkeypatch.setenv(name, value)
    found = Nodes()
    try:
        yield found
    finally:
        found.close()


def test_pools_grow_with_the_nodes_outlive_a_lost_one_and_hand_back_what_a_drained_one_has(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pipeline.candidates.shares import staying_nodes
    from pipeline.flow import RayExecutor

    first = nodes.add()
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    resources = ResourceSettings(
        generator_gpus=1.0, max_generators=3, generator_label="size=big", scorer_label="size=small"
    )
    config = fake_config(tmp_path, tmp_path / "out", IDEAS, resources=resources, block=6)
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(Build(config, RayExecutor(resources))()), daemon=True
    )
    thread.start()

    def done(work: str = "paint") -> list[str]:
        """The nodes at which this work was done, in order."""
        lines = (tmp_path / "nodes.log").read_text().split("\n") if (tmp_path / "nodes.log").exists() else []
        return [line.split()[1] for line in lines if line.startswith(work)]

    wait_until(lambda: len(units(tmp_path / "out")) >= 1, thread)
    assert set(done()) == {first.node_id}
    second, third = nodes.add(), nodes.add()
    wait_until(lambda: {second.node_id, third.node_id} <= set(done()), thread)
    nodes.lose(first)
    nodes.drain(second)
    # It lives, at its last unit, and counts for nothing that is to begin.
    assert alive(second) and second.node_id not in {node["NodeID"] for node in staying_nodes()}
    assert third.node_id in {node["NodeID"] for node in staying_nodes()}
    wait_until(lambda: not alive(second), thread)
    # A node whose work was handed back is idle, and leaves long before the work and its two minutes end.
    assert len(units(tmp_path / "out")) <= len(IDEAS) - 8
    thread.join(300)
    (outcome,) = outcomes
    assert (outcome.made_now, outcome.dead) == (len(IDEAS), 0)
    assert set(done("score")) == {nodes.cluster.head_node.node_id}
    assert all(left.node == first.node_id for left in read_attempts(Storage(tmp_path / "out")))
    made = (tmp_path / "made.log").read_text().splitlines()
    # The lost node had one unit, of two painters and two seeds; what was drained was painted once.
    assert len(IDEAS) * 4 <= len(made) <= len(IDEAS) * 4 + 8
    calm = tmp_path / "calm"
    calm.mkdir()
    for name in ("FAKE_SECONDS", "FAKE_NODES"):
        monkeypatch.delenv(name)
    build(fake_config(calm, calm / "out", IDEAS))
    assert final_tables(tmp_path / "out") == final_tables(calm / "out")


def alive(node: Any) -> bool:
    import ray

    return any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node.node_id)


def units(out: Path) -> list[Path]:
    return list((out / "units").rglob("[0-9a-f]*.parquet"))


def wait_until(condition: Callable[[], object], thread: threading.Thread) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert thread.is_alive() and time.monotonic() < deadline, condition
        time.sleep(0.1)
