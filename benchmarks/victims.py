"""What `benchmarks.kills` kills: the nodes of a cluster on this machine, their workers, and builders."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.slowed import MARKS
from dataset_builder.config import BuildConfig
from drspo.config import dump

SLOWED, MODELS = PLUGINS = ("benchmarks.slowed", "benchmarks.dataset")
ROOT = Path(__file__).resolve().parent.parent


class Nodes:
    """A head and two nodes with one simulated GPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.marks = Path(tempfile.mkdtemp(prefix="kills-marks-"))
        os.environ.update(
            {"PYTHONPATH": str(ROOT), "RAY_agent_register_timeout_ms": "120000", MARKS: str(self.marks)}
        )
        self.cluster = Cluster()
        self.head = self._add(num_cpus=1, include_dashboard=False)
        self.others = [self._add(num_cpus=2, num_gpus=1) for _ in range(2)]

    def _add(self, **given: Any) -> Any:
        for _ in range(4):  # a busy machine exceeds the 30 s that Ray allows a node's start
            with contextlib.suppress(Exception):
                return self.cluster.add_node(object_store_memory=100_000_000, **given)
        return self.cluster.add_node(object_store_memory=100_000_000, **given)

    def workers(self, title: str = "ray::") -> list[int]:
        """The processes that run actors and tasks, and those that wait to."""
        found = [child for node in (self.head, *self.others) for child in _tree(node)]
        titles = ((process.pid, _title(process)) for process in found)
        # The agents of a node have such names too, and take it along.
        return [pid for pid, name in titles if name.startswith(title) and "Agent" not in name]

    def replace(self, node: Any, whole: bool) -> None:
        """Kill a node's raylet, alone or with all that it started, and add another node."""
        for process in reversed(_tree(node) if whole else _tree(node)[:1]):
            kill(process.pid)
        self.cluster.remove_node(node, allow_graceful=False)
        self.others[self.others.index(node)] = self._add(num_cpus=2, num_gpus=1)

    def close(self) -> None:
        """End all of it, what outlived its raylet too."""
        shutil.rmtree(self.marks)
        left = [process for node in (self.head, *self.others) for process in _tree(node)]
        self.cluster.shutdown()
        for process in left:
            kill(process.pid)


def _tree(node: Any) -> list[psutil.Process]:
    """A node's raylet and the processes below it."""
    with contextlib.suppress(psutil.NoSuchProcess, KeyError):
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def kill(pid: int) -> None:
    """SIGKILL, unless it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()


class Driver:
    """The builder as a program of its own, started as often as it takes."""

    def __init__(self, config: BuildConfig, folder: Path, address: str) -> None:
        self.folder, self.starts, self.errors = folder, 0, 0
        file = folder / "config.yaml"
        file.write_text(dump(config))
        plugins = ("--allow-plugins", *PLUGINS)
        self.command = [sys.executable, "-m", SLOWED, "--config", str(file), *plugins]
        self.env = {**os.environ, "RAY_ADDRESS": address}
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(self.command, cwd=ROOT, env=self.env, stdout=log, stderr=log)

    def has_ended(self) -> bool:
        """Whether the build is done; one that ended with an error is started again."""
        code = self.process.poll()
        if code is None or code == 0:
            return code == 0
        if code != -signal.SIGKILL:
            self.errors += 1
            last = "\n".join((self.folder / "log.txt").read_text().splitlines()[-12:])
            print(f"  ended with {code}:\n{last}", file=sys.stderr, flush=True)
        if self.errors > 20:
            raise RuntimeError((self.folder / "log.txt").read_text()[-3000:])
        self.process = self._start()
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
