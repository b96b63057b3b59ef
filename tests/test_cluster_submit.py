"""`ray job submit` on a real head with token authentication and a node beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from drspo.config import dump
from pipeline.settings import ResourceSettings
from tests.building import ALLOW, build, fake_config, final_tables
from tests.train_pairs import pair_rows, write
from tests.train_runs import flags

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.xdist_group("cluster_submit")]

IDEAS = [
    f"a {scene} in {place}" for scene in "harbour glacier canyon meadow".split() for place in ("fog", "rain")
]


@dataclass
class Cluster:
    """Ray nodes on this machine, each a process tree of its own."""

    folder: Path
    env: dict[str, str]
    address: str = ""
    dashboard: str = ""
    nodes: list[subprocess.Popen] = field(default_factory=list)

    def start_head(self) -> None:
        port, dashboard = free_port(), free_port()
        self.address, self.dashboard = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        ports = (f"--port={port}", f"--dashboard-port={dashboard}")
        self._start("--head", *ports, "--num-cpus=2", "--num-gpus=0", f"--temp-dir={self.folder}")
        self._wait_for_an_agent()

    def _wait_for_an_agent(self) -> None:
        """A head that runs refuses jobs until its agent has reported, which takes a busy machine a while."""
        deadline = time.monotonic() + 200
        nothing = [*self.ray("job", "submit"), f"--address={self.dashboard}", "--no-wait", "--", "true"]
        while (done := subprocess.run(nothing, env=self.env, capture_output=True, text=True)).returncode:
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)

    def start_node(self) -> subprocess.Popen:
        return self._start(f"--address={self.address}", "--num-cpus=2", "--num-gpus=1")

    def submission(self, *command: str, name: str = "") -> list[str]:
        named = [f"--submission-id={name}"] if name else []
        where = [f"--address={self.dashboard}", "--working-dir=.", *named]
        return [*self.ray("job", "submit"), *where, "--", *command]

    def ray(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "ray"), *arguments]

    def lose(self, node: subprocess.Popen) -> None:
        """Kill a node with everything on it, at once."""
        tree = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        node.wait()
        self.nodes.remove(node)

    def close(self) -> None:
        for node in list(reversed(self.nodes)):
            self.lose(node)

    def _start(self, *arguments: str) -> subprocess.Popen:
        """A running node. Ray allows its own start 30 s, which a busy machine may exceed: tried again."""
        # By default every Ray on a machine wants the same port here; a node without it takes no jobs.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        command = [*self.ray("start"), *arguments, agent, "--object-store-memory=100000000", "--block"]
        for _ in range(4):
            log = self.folder / f"node{time.monotonic_ns()}.txt"
            with log.open("w") as stream:
                node = subprocess.Popen(command, env=self.env, stdout=stream, stderr=stream)
            self.nodes.append(node)
            while node.poll() is None and "block forever" not in log.read_text():
                time.sleep(0.2)
            if node.poll() is None:
                return node
            self.nodes.remove(node)
        raise TimeoutError(log.read_text())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Cluster]:
    # Ray's sockets need a short path.
    folder = Path(os.path.realpath(f"/tmp/drspo-ray-{os.getpid()}"))
    folder.mkdir()
    # The tests do not travel with the working directory; the fake models are installed on the nodes.
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "tests").symlink_to(repository / "tests")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_agent_register_timeout_ms": "120000",
        "PYTHONPATH": str(plugins),
        "FAKE_SECONDS": "0.3",
        "FAKE_LOG": str(tmp_path_factory.mktemp("made") / "made.log"),
    }
    found = Cluster(folder, env)
    try:
        found.start_head()
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submission_without_the_token_is_refused(cluster: Cluster, repository: Path) -> None:
    env = {**cluster.env, "RAY_AUTH_TOKEN": "f" * 32}
    done = subprocess.run(
        cluster.submission("python", "-c", "0"),
        env=env,
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "uthentic" in done.stdout + done.stderr


def test_a_submitted_job_that_is_stopped_is_continued_by_the_same_command(
    cluster: Cluster, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "calm").mkdir()
    build(fake_config(tmp_path / "calm", tmp_path / "calm/out", IDEAS))
    resources = ResourceSettings(generator_gpus=0.75, scorer_gpus=0.25, actor_cpus=0.5)
    config = fake_config(tmp_path, tmp_path / "out", IDEAS, resources=resources, executor="auto")
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    node = cluster.start_node()
    program = ("python", "-m", "dataset_builder", "--config", str(file), *ALLOW)
    units, log = tmp_path / "out/units", tmp_path / "job.txt"
    with running(cluster, repository, log, "stopped-job", *program) as job:
        wait_for(lambda: len(list(units.rglob("[0-9a-f]*.parquet"))) >= 1, job, log)
        stop = [*cluster.ray("job", "stop"), f"--address={cluster.dashboard}", "stopped-job"]
        subprocess.run(stop, env=cluster.env, capture_output=True, timeout=300, check=True)
        job.wait(300)
    stood = len(list(units.rglob("[0-9a-f]*.parquet")))
    assert stood < len(IDEAS), "stopped too late to show anything"
    with running(cluster, repository, log, "second-job", *program) as job:
        assert job.wait(600) == 0, log.read_text()
    said = log.read_text()
    assert "up to 1 generator and 1 scorer actors, 0.75 + 0.25 GPU each" in said
    assert final_tables(tmp_path / "out") == final_tables(tmp_path / "calm/out")
    assert node.poll() is None
    # What travelled to the cluster is the code and its miniature: no tests, runs or environments.
    travelled = list(cluster.folder.glob("session_*/runtime_resources/working_dir_files/_ray_pkg_*/"))
    assert travelled and all((folder / "miniature/weights/sdxl").is_dir() for folder in travelled)
    for folder in travelled:
        assert {"dataset_builder", "pipeline", "train"} <= {path.name for path in folder.iterdir()}
        assert not {"tests", "docs", "runs", ".git", ".venv"} & {path.name for path in folder.iterdir()}
        assert sum(path.stat().st_size for path in folder.rglob("*")) < 100_000_000


def test_torchrun_trains_in_two_processes_inside_a_submitted_job(
    cluster: Cluster, golden: Path, tmp_path: Path, repository: Path
) -> None:
    source = write(tmp_path / "pairs.parquet", pair_rows(6, (32, 64)))
    settings = flags(golden, source, max_steps=1, pairs_per_step=2, data__cache=tmp_path / "cache")
    launch = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "train")
    log = tmp_path / "job.txt"
    with running(
        cluster, repository, log, "training", *launch, *settings, "--out", str(tmp_path / "out")
    ) as job:
        assert job.wait(400) == 0, log.read_text()
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file(), log.read_text()


@contextlib.contextmanager
def running(
    cluster: Cluster, repository: Path, log: Path, name: str, *program: str
) -> Iterator[subprocess.Popen]:
    """A submitted job under this name, its words in the log."""
    command = cluster.submission(*program, name=name)
    with log.open("w") as stream:
        job = subprocess.Popen(
            command, env=cluster.env, cwd=repository, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            yield job
        finally:
            job.kill()


def wait_for(condition: object, job: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 400
    while not condition():  # type: ignore[operator]
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path, repository: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(fake_config(tmp_path, tmp_path / "out", IDEAS, executor="ray")))
    env = {
        **os.environ,
        "RAY_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    command = [sys.executable, "-m", "dataset_builder", "--config", str(file), *ALLOW]
    done = subprocess.run(command, env=env, cwd=repository, capture_output=True, text=True, timeout=400)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers" in done.stderr and "Traceback" not in done.stderr
