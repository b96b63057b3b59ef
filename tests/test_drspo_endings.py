"""How a program ends: its code, what it says, and nothing after it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from drspo import cli

START = "from drspo import cli\nimport sys, time, os, atexit, threading\n"


def program(body, cwd, **options):
    text = START + "def main(argv):\n" + "".join(f"    {line}\n" for line in body) + "cli.run(main)\n"
    return subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, cli.TERMINATED, "Terminated"), (signal.SIGINT, cli.INTERRUPTED, "Interrupted")],
)
def test_a_signal_ends_a_program_with_how_to_continue(number, code, word, repository):
    body = [
        "try:",
        "    print('ready', flush=True); time.sleep(60)",
        "except KeyboardInterrupt:",
        "    print('cleaned up'); raise",
    ]
    started = program(body, repository)
    assert started.stdout.readline() == "ready\n"
    started.send_signal(number)
    out, err = started.communicate(timeout=60)
    assert started.returncode == code and out == "cleaned up\n"
    assert f"{word}. To continue, type the same again:" in err and "Traceback" not in err


def test_a_second_sigterm_ends_a_program_that_does_not_listen(repository):
    body = [
        "while True:",
        "    try:",
        "        print('ready', flush=True)",
        "        time.sleep(60)",
        "    except KeyboardInterrupt:",
        "        print('again', flush=True)",
    ]
    started = program(body, repository)
    assert started.stdout.readline() == "ready\n"
    started.terminate()
    assert started.stdout.readline() == "again\n"
    assert started.stdout.readline() == "ready\n"
    started.terminate()
    started.communicate(timeout=60)
    assert started.returncode == -signal.SIGTERM


def test_of_several_processes_one_speaks(repository):
    import os

    body = ["print('ready', flush=True); time.sleep(60)"]
    started = program(body, repository, env={**os.environ, "RANK": "1"})
    assert started.stdout.readline() == "ready\n"
    started.terminate()
    _, err = started.communicate(timeout=60)
    assert started.returncode == cli.TERMINATED and err == ""


def test_a_build_is_terminated_and_continues(tmp_path, repository):
    import os

    from drspo.config import dump
    from tests.building import ALLOW, fake_config

    file = tmp_path / "config.yaml"
    file.write_text(dump(fake_config(tmp_path, tmp_path / "run")))
    env = {**os.environ, "FAKE_LOG": str(tmp_path / "made.log"), "FAKE_SECONDS": "0.2"}
    command = [sys.executable, "-m", "dataset_builder", "--config", str(file), *ALLOW]
    started = subprocess.Popen(command, cwd=repository, env=env, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "made.log").exists() and started.poll() is None:
        time.sleep(0.05)
    started.terminate()
    _, said = started.communicate(timeout=120)
    assert started.returncode == cli.TERMINATED
    assert f"python -m dataset_builder --config {file}" in said and "Traceback" not in said
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_native_destructors_cannot_spoil_an_end(code, repository):
    """A library whose destructor aborts, as one does that destroys the object of a running thread."""
    body = [
        "import ctypes",
        "libc = ctypes.CDLL(None)",
        "libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)",
        "print('whole output')",
        f"return {code}",
    ]
    started = program(body, repository)
    out, _ = started.communicate(timeout=60)
    assert (started.returncode, out) == (code, "whole output\n")


def test_threads_and_clean_up_come_before_the_end(repository):
    body = [
        "atexit.register(lambda: print('cleaned up'))",
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread done'))).start()",
        "return 0",
    ]
    started = program(body, repository)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 0 and out.split("\n")[:2] == ["thread done", "cleaned up"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (["raise SystemExit(2)"], 2),
        (["raise SystemExit"], 0),
        (["raise SystemExit('no')"], 1),
        (["raise RuntimeError('x')"], 1),
        (["from drspo.errors import UserError", "raise UserError('x')"], 2),
    ],
)
def test_the_code_is_the_programs(body, code, repository):
    started = program(body, repository)
    started.communicate(timeout=60)
    assert started.returncode == code


def test_the_table_of_exit_codes_is_the_programs(repository):
    text = (repository / "docs/configuration.md").read_text()
    table = {int(code): said for code, said in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)}
    assert table == cli.EXIT_CODES
    assert all(said in cli.usage() for said in table.values())
