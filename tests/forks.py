"""Program starts that cost no imports: a process that has imported everything forks one child per start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SERVER = """
import importlib, json, os, runpy, sys
import generate.request, openai, openai.types.chat, polars, pyarrow.parquet
import dataset_builder.command, pipeline.local, tests.plugin_fakes
from dataset_builder import build, export
from dataset_builder.report import stats
from pipeline.pairs import pairing
from pipeline.pairs import scores
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    (program, *argv), log, env, folder = json.loads(line)
    pid = os.fork()
    if not pid:
        os.environ.update(env)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1), os.dup2(out, 2)
        os.chdir(folder)
        sys.path.insert(0, folder)
        sys.argv = [program, *argv]
        code = 1
        try:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forks:
    """Starts of `python -m` as real processes, with further modules imported beforehand."""

    def __init__(self, root: Path, *modules: str) -> None:
        command = [sys.executable, "-c", SERVER, *modules]
        self.root = root
        env = {**os.environ, "PYTHONPATH": str(root)}  # in whatever folder it runs
        self.server = subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def start(self, argv: list[str], log: Path, program: str = "dataset_builder", **env: str) -> int:
        """Begin a run of the program; gives its process id."""
        return self._start([program, *argv], log, env, self.root)

    def run(self, argv: list[str], folder: Path, log: Path) -> int:
        """`python -m` with these arguments in a folder; gives the exit code."""
        self._start(argv, log, {}, folder)
        return self.wait()

    def _start(self, argv: list[str], log: Path, env: dict[str, str], folder: Path) -> int:
        assert self.server.stdin
        self.server.stdin.write(json.dumps([argv, str(log), env, str(folder)]) + "\n")
        self.server.stdin.flush()
        return int(self._answer())

    def wait(self) -> int:
        """The exit code of the run begun last; negative for a signal."""
        return int(self._answer())

    def kill(self, pid: int) -> None:
        """Kill -9 of a run that this began, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin
        self.server.stdin.close()
        self.server.wait(30)

    def _answer(self) -> str:
        assert self.server.stdout
        return self.server.stdout.readline().strip()
