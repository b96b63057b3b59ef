"""Every reader of a foreign file, given mutated ones: success or one message, and nothing else.

    python -m benchmarks.fuzz [--count 1000] [--seed 0] [--only NAME ...]

A fault is a traceback, a crash, a hang, or a write or a process outside what the reader may do. Each reader
runs in a process of its own, so that a crash is a line of the report; what caused a fault stays in --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fuzz_inputs import Reader
from benchmarks.fuzz_readers import READERS
from drspo import cli

ROOT = Path(__file__).resolve().parent.parent
HANG = 60.0  # seconds for one input, on a machine that may be busy with other things
CAUSES = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}
_WATCH: dict[str, Any] = {"folder": None, "seen": []}


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what the reader does outside its folder; installed once, for Python cannot take a hook back."""
    folder = _WATCH["folder"]
    if folder is None:
        return
    if event in PROCESSES:
        _WATCH["seen"].append(f"{event} {arguments[:2]!r}")
    if event not in CAUSES or not arguments or not isinstance(arguments[0], (str, bytes)):
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & writes):
        return
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if not path.startswith((folder, "/dev/", "/proc/")) and "__pycache__" not in path:
        _WATCH["seen"].append(f"{event} {path}")


class TooLong(BaseException):
    """The input took longer than any may; nothing that catches exceptions catches this."""


def attempt(reader: Reader, folder: Path, rng: random.Random) -> str:
    """What is wrong with how the reader takes one mutated input; empty when nothing is."""
    reader.prepare(folder, rng)
    said, seen = io.StringIO(), []
    _WATCH.update(folder=os.path.realpath(folder), seen=seen)
    started = time.monotonic()
    faulthandler.dump_traceback_later(3 * HANG, exit=True)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.execute(lambda argv: reader.read(folder) or 0, [])
    except SystemExit as asked:  # of the parser
        code = asked.code if isinstance(asked.code, int) else cli.OURS
    finally:
        faulthandler.cancel_dump_traceback_later()
        _WATCH["folder"] = None
    if code not in (cli.OK, cli.THEIRS):
        return f"exit {code}: {_last_words(said.getvalue())}"
    if "Traceback" in said.getvalue():
        return f"a traceback in its message: {said.getvalue()[-300:]}"
    if seen:
        return f"outside its folder: {seen[0]}"
    took = time.monotonic() - started
    return f"took {took:.0f} s" if took > HANG else ""


def _last_words(said: str) -> str:
    """The error and the last place of ours that it passed."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "fault of ours" not in line]
    ours = [line for line in lines if line.startswith(f'File "{ROOT}') and "site-packages" not in line]
    place = ours[-1].replace(f"{ROOT}/", "") if ours else "elsewhere"
    return f"{lines[-1][:160] if lines else ''} <- {place}"


def fuzz(name: str, count: int, seed: int, keep: Path | None = None) -> Iterator[tuple[int, str]]:
    """(number of the input, fault) for every fault of a reader among `count` inputs."""
    _install()
    reader = READERS[name]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        for number in range(count):
            folder = Path(place) / "case"
            folder.mkdir()
            if keep is not None:  # where a crash leaves its cause
                (keep / f"{name}.last").write_text(f"{seed} {number}\n")
            fault = attempt(reader, folder, random.Random(f"{name} {seed} {number}"))
            if fault:
                if keep is not None:
                    shutil.copytree(folder, keep / f"{name}-{number}", symlinks=True, dirs_exist_ok=True)
                yield number, fault
            shutil.rmtree(folder)


def _install() -> None:
    if not _WATCH.get("installed"):
        _WATCH["installed"] = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        sys.addaudithook(audit)


def main() -> None:
    """Fuzzes each reader in a process of its own and prints a line for each; exit code 1 with any fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=sorted(READERS), default=sorted(READERS))
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="inputs that made a fault")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in asked.only:
        failed |= _here(name, asked) if asked.here else _apart(name, asked)
    sys.exit(failed)


def _here(name: str, asked: argparse.Namespace) -> bool:
    started, kinds = time.monotonic(), Counter[str]()
    for number, fault in fuzz(name, asked.count, asked.seed, asked.keep):
        kind = fault.partition(" <- ")[2] or fault
        kinds[kind] += 1
        if kinds[kind] == 1:
            print(f"  {name} input {number}: {fault}", flush=True)
    took = time.monotonic() - started
    print(
        f"{name:<14} {asked.count} inputs, {kinds.total()} faults of {len(kinds)} kinds, {took:.0f} s",
        flush=True,
    )
    return bool(kinds)


def _apart(name: str, asked: argparse.Namespace) -> bool:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--here", "--only", name, "--count", str(asked.count)]
    command += ["--seed", str(asked.seed), "--keep", str(asked.keep)]
    code = subprocess.run(command).returncode
    if code not in (0, 1):
        print(
            f"{name:<14} CRASHED with {code} at input {(asked.keep / f'{name}.last').read_text()}", flush=True
        )
    return code != 0


if __name__ == "__main__":
    main()
