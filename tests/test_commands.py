"""Every command answers --help, and every command that the README shows is one that exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from drspo import cli

STAGES = ("blueprint", "highres")
MODULES = ("train", "generate", "eval", "dataset_builder", "drspo")


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_answers_help(name, capsys):
    try:
        code = cli.main([name, "--help"])
    except SystemExit as stop:  # the way of argparse and tyro
        code = stop.code
    assert code == 0
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize("name", MODULES)
def test_every_package_with_a_program_runs_as_a_module(repository, name):
    done = run("-m", name, "--help", cwd=repository)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_every_command_has_a_summary():
    assert set(cli.SUMMARIES) == set(cli.COMMANDS)
    assert all(f"  {name}" in cli.usage() for name in cli.COMMANDS)


def test_the_help_of_drspo_loads_nothing_but_itself_and_the_standard_library(repository):
    """So it answers at once."""
    code = (
        "import sys; before = set(sys.modules); sys.argv[1:] = ['--help']\n"
        "from drspo import cli\n"
        "try: cli.entry()\n"
        "except SystemExit: print(*set(sys.modules) - before, file=sys.stderr)\n"
    )
    loaded = {name.partition(".")[0] for name in run("-c", code, cwd=repository).stderr.split()}
    assert "drspo" in loaded and loaded - sys.stdlib_module_names == {"drspo"}


def test_the_version_is_the_packages(repository):
    from drspo import __version__

    assert run("-m", "drspo", "--version", cwd=repository).stdout == f"drspo {__version__}\n"


def shown_commands(text: str) -> list[list[str]]:
    """The commands of a page's code blocks: lines that begin with drspo, python -m, make or .ci/run."""
    lines = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```|((?:^    .+\n)+)", text, re.MULTILINE | re.DOTALL):
        joined = "".join(block).replace("\\\n", " ")
        lines += [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if re.match(r"(drspo|python -m|make|ray job) ", line)
    ]


def test_the_readme_shows_the_two_first_commands_first(repository):
    commands = shown_commands((repository / "README.md").read_text())
    assert commands[:2] == [["make", "demo"], ["make", "test"]]


def test_the_readmes_commands_exist(repository):
    targets = re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.MULTILINE)
    for command in shown_commands((repository / "README.md").read_text()):
        if command[0] == "make":
            assert command[1] in targets, command
        elif command[0] == "drspo":
            assert command[1] in cli.COMMANDS, command
        elif command[:2] == ["python", "-m"]:
            assert command[2] in (*MODULES, "miniature.fit", "miniature.measure", "venv", "pip"), command


def test_the_example_runs_are_accepted(repository):
    """configs/: every file parses on top of the preset that its README names."""
    from dataset_builder.config import BuildConfig
    from drspo.config import load
    from train.config import TrainConfig

    files = sorted((repository / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        cls, package = (TrainConfig, "train") if file.stem in STAGES else (BuildConfig, "dataset_builder")
        load(cls, ["--config", "sdxl", "--config", str(file)], package=package, prog=package)


def test_the_pages_link_to_pages_that_exist(repository):
    pages = [
        *repository.glob("*.md"),
        *(repository / "docs").glob("*.md"),
        *(repository / "configs").rglob("*.md"),
    ]
    broken = [
        f"{page.relative_to(repository)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_doctor_says_what_is_there_and_hides_every_token(repository):
    secret = "hf_" + "s3cr3t" * 4
    done = run("-m", "drspo", "doctor", cwd=repository, HF_TOKEN=secret, OPENAI_API_KEY=secret)
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    assert re.search(r"HF_TOKEN +set\n", done.stdout) and re.search(r"torch +\d", done.stdout)
    assert re.search(r"train +ours", done.stdout) and "float32" in done.stdout


def test_doctor_speaks_json(repository):
    import json

    report = json.loads(run("-m", "drspo", "doctor", "--json", cwd=repository).stdout)
    assert {"versions", "devices", "tokens", "names", "disk"} <= set(report)


def test_an_unknown_command_is_the_users_to_mend(repository):
    done = run("-m", "drspo", "trian", cwd=repository)
    assert done.returncode == 2 and done.stderr.startswith("error:") and "'train'" in done.stderr


def test_a_reader_that_has_gone_is_no_error(repository):
    done = subprocess.run(
        f"{sys.executable} -m drspo --help | true", shell=True, cwd=repository, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
