"""Every program ends with the next useful command, and that command is one which works."""

from __future__ import annotations

import contextlib
import re
import shlex

import pytest

from dataset_builder.command import finish
from drspo import cli
from drspo.consent import allow
from tests.building import FAKES, build, fake_config

MODULES = ("train", "generate", "eval", "dataset_builder", "drspo")


def next_of(said: str) -> str:
    """What stands behind the last `next`."""
    lines = [line for line in said.splitlines() if re.match(r"next[: ]", line)]
    assert lines, said
    for line in lines:
        for name in re.findall(r"\bdrspo ([a-z-]+)", line):
            assert name in cli.COMMANDS, line
        for name in re.findall(r"python -m (\w+)", line):
            assert name in MODULES, line
    return lines[-1].removeprefix("next").lstrip(": ")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next")
    allow(FAKES)
    config = fake_config(folder, folder / "run")
    return config, build(config)


def test_a_build_ends_with_a_training_that_is_accepted(run, capsys):
    assert finish(*run) == 0
    command = shlex.split(next_of(capsys.readouterr().out))
    assert command[:3] == ["python", "-m", "train"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *command[3:], "--print-config"])
    assert stop.value.code == 0


def test_reading_a_run_leads_to_seeing_it_and_seeing_it_to_judging_it(run, capsys):
    where = run[0].out
    assert cli.main(["status", where]) == 0
    seen = shlex.split(next_of(capsys.readouterr().out))
    assert seen == ["drspo", "view", where]
    assert cli.main(seen[1:]) == 0
    assert f"drspo vote {where}" in next_of(capsys.readouterr().out)
    assert cli.main(["vote", where, "--results"]) == 0
    assert "--pairs.source votes" in next_of(capsys.readouterr().out)


def test_a_run_that_is_not_done_is_continued_by_its_own_command(tmp_path, capsys):
    from dataset_builder.build import Build

    config = fake_config(tmp_path, tmp_path / "run")
    with contextlib.suppress(KeyboardInterrupt):
        Build(config, _stopped)()
    assert cli.main(["status", config.out]) == 0
    assert "he command that began the run continues it" in capsys.readouterr().out.splitlines()[-1]


def _stopped(*_args, **_options):
    raise KeyboardInterrupt


def test_what_machines_read_has_no_next_line(run, capsys):
    import json

    for command in (["status", run[0].out, "--json"], ["doctor", "--json"]):
        assert cli.main(command) == 0
        json.loads(capsys.readouterr().out)


def test_a_scroll_ends_with_how_to_make_others_and_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "a castle", "--steps", "2", "--method", "multidiffusion"]) == 0
    said = next_of(capsys.readouterr().out)
    again = shlex.split(said.partition("by python")[2])
    assert cli.main(["generate", *again[2:]]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "scroll.png").read_bytes()


def test_the_demonstration_ends_with_a_scroll_of_ones_own(capsys):
    from drspo.demo.command import next_command
    from drspo.demo.config import DemoConfig

    command = shlex.split(next_command(DemoConfig()))
    with pytest.raises(SystemExit) as stop:
        cli.main([*command[1:], "--print-config"])
    assert stop.value.code == 0


def test_no_line_of_a_library_stands_on_the_screen(tmp_path, repository):
    """A program's whole standard error, on no terminal: our dated lines, our progress, and nothing else."""
    import os
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "generate", "a castle", "--steps", "2", "--out", str(tmp_path / "s.png")],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    strange = [
        line
        for line in done.stderr.splitlines()
        if not re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) |1 scroll: \d+/\d+ steps", line)
    ]
    assert strange == []


def test_the_advice_of_libraries_goes_to_the_log_file_alone(tmp_path, repository):
    import subprocess
    import sys

    code = (
        "from pathlib import Path; from drspo import log; import logging, warnings\n"
        f"log.setup(file=Path({str(tmp_path / 'log.txt')!r}))\n"
        "warnings.warn('open an issue at example')\n"
        "logging.getLogger('peft.tuners').warning('developers: do')\n"
        "logging.getLogger('train.loop').warning('ours'); logging.getLogger('torch.x').error('bad')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert [line.split(" ", 2)[-1] for line in done.stderr.splitlines()] == ["ours", "bad"]
    written = (tmp_path / "log.txt").read_text()
    assert all(text in written for text in ("open an issue", "developers: do", "ours", "bad"))
