"""Mistakes as a user makes them, on the command line: exit code 2, one message, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drspo import cli
from drspo.registry import resolve


def run(
    arguments: list[str], cwd: Path, repository: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command as of an installed toolkit: our packages are found, and the working directory comes first."""
    env = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "120", **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=250, env=env
    )


def assert_refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr, done.stderr


@pytest.mark.parametrize(
    "package, command",
    [("train", "train"), ("generate", "generate"), ("dataset_builder", "build"), ("eval", "eval")],
)
def test_a_missing_preset_names_the_nearest(tmp_path, repository, monkeypatch, capsys, package, command):
    monkeypatch.chdir(tmp_path)
    known = sorted(path.stem for path in (repository / package / "presets").glob("*.yaml"))
    assert cli.execute(resolve(cli.COMMANDS[command]), ["--config", known[0] + "x"]) == 2
    said = capsys.readouterr().err
    assert f"has no preset '{known[0]}x'" in said and f"Did you mean '{known[0]}'?" in said
    assert "Traceback" not in said and list(tmp_path.iterdir()) == []


def test_a_mistyped_key_names_file_line_and_nearest(tmp_path, repository):
    (tmp_path / "my.yaml").write_text("stage: highres\nmax_stepz: 3\n")
    done = run(["-m", "train", "--config", "my.yaml", "--out", "out"], tmp_path, repository)
    assert_refused(done, "my.yaml:2", "'max_stepz'", "Did you mean 'max_steps'?")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.yaml"]


def test_a_mistyped_flag_names_the_nearest(tmp_path, repository):
    done = run(["-m", "train", "--config", "miniature", "--max-stepz", "3"], tmp_path, repository)
    assert_refused(done, "--max-steps")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_configuration_shows_the_difference(tmp_path, repository):
    from drspo.files.run import RunDir
    from train.command import identity
    from train.config import TrainConfig

    config = TrainConfig(model="miniature", out="out", seed=1)
    RunDir(tmp_path / "out").start("train", config, identity(config))
    (tmp_path / "out" / "checkpoints" / "step-000001").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "step-000001" / "state.json").write_text("{}")  # what would be lost
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = run(
        ["-m", "train", "--config", "miniature", "--data.source", "x", "--out", "out", "--seed", "2"],
        tmp_path,
        repository,
    )
    assert_refused(done, "another configuration", "seed: 1 there, 2 asked now")
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.name != "log.txt"} == before


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("train.command:main", ["--config", "miniature", "--data.source", "x", "--out", "file/out"]),
        ("dataset_builder.command:main", ["--config", "miniature", "--out", "file/out"]),
        ("generate.program.command:main", ["a castle", "--out", "file/scroll.png"]),
        ("drspo.demo.command:main", ["--out", "file/out"]),
    ],
    ids=["train", "build", "generate", "demo"],
)
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys, target, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert cli.execute(resolve(target), arguments) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "file") in said and "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_console_command_is_immune_to_a_users_own_train(tmp_path, repository):
    (tmp_path / "train.py").write_text("print('mine')\n")
    done = run(["-m", "drspo", "train", "--help"], tmp_path, repository)
    assert done.returncode == 0, done.stderr
    assert "mine" not in done.stdout and "--stage" in done.stdout


def test_a_shadow_of_a_package_that_a_program_needs_is_named(tmp_path, repository):
    (tmp_path / "generate.py").write_text("print('mine')\n")
    done = run(["-m", "train", "--config", "miniature"], tmp_path, repository)
    assert_refused(done, str(tmp_path / "generate.py"), "shadows our package 'generate'", "drspo generate")
    assert "mine" not in done.stdout


def test_doctor_names_what_shadows(tmp_path, repository):
    (tmp_path / "elsewhere").mkdir()
    shadow = tmp_path / "elsewhere" / "eval.py"
    shadow.write_text("")
    environment = f"{tmp_path / 'elsewhere'}{os.pathsep}{repository}"
    env = {**os.environ, "PYTHONPATH": environment}
    done = subprocess.run(
        [sys.executable, "-m", "drspo", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        env=env,
    )
    assert done.returncode == 0 and f"SHADOWED by {shadow}" in done.stdout, done.stdout + done.stderr
