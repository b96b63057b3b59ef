"""Every command that a page shows is taken by its program: parsed to the end, with nothing started."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from drspo import cli
from drspo.registry import resolve

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "configs").rglob("*.md"))]
PROGRAMS = {"train": "train", "generate": "generate", "dataset_builder": "build", "eval": "eval"}
MODES = ("--selftest", "--coverage", "score", "worker")
"""Ways to call `eval` that have a parser of their own."""
FORWARDS = {"benchmarks.it_learns": "train"}
"""Benchmarks that hand on what they do not know."""
GIVEN = ("mine.yaml", "RUN/config.yaml")
"""Files that the pages suppose a reader to have."""


def shown(page: Path) -> list[list[str]]:
    """The words of each command in the page's code blocks, without comments, redirections and `...`."""
    lines = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```|((?:^    .+\n)+)", page.read_text(), re.M | re.S):
        lines += re.sub(r"\\\n", " ", "".join(block)).splitlines()
    found = re.findall(
        r"^ *(?:ray job submit [^\n]*-- *)?((?:drspo [a-z-]+|python -m [a-z_.]+)(?: [^\n]*)?)$",
        "\n".join(lines),
        re.M,
    )
    calls = [[word for word in shlex.split(line, comments=True) if word != "..."] for line in found]
    calls = [call[: call.index(">")] if ">" in call else call for call in calls]
    return [call for call in calls if call[0] == "python" or call[1] in cli.COMMANDS]


def commands() -> list[tuple[str, list[str]]]:
    return [(page.name, call) for page in PAGES for call in shown(page) if call[2] != "pip"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in GIVEN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(call: list[str]) -> tuple[str, list[str]]:
    """What is called, as `drspo` names it or as a module, and its arguments."""
    if call[0] == "drspo":
        return call[1], call[2:]
    called = "drspo" if call[2] == "drspo" else PROGRAMS.get(call[2], call[2])
    return (call[3], call[4:]) if called == "drspo" else (called, call[3:])


def test_the_pages_show_commands_of_every_program():
    called = {words(call)[0] for _, call in commands()}
    assert {*PROGRAMS.values(), "status", "view", "vote", "score", "publish"} <= called
    assert len(commands()) > 100


@pytest.mark.parametrize("page", [page for page in PAGES if shown(page)], ids=lambda page: page.name)
def test_every_command_of_the_page_is_taken(page, folder, monkeypatch, capsys):
    for call in shown(page):
        name, arguments = words(call)
        if name in PROGRAMS.values() and not {*MODES, "--resume"} & {*arguments[:1]}:
            with pytest.raises(SystemExit) as caught:
                resolve(cli.COMMANDS[name])([*arguments, "--print-config"])
            assert caught.value.code == 0, (call, capsys.readouterr().err)
            capsys.readouterr()
        else:
            mode = [word for word in arguments[:1] if word in MODES]
            asked = [name, *([FORWARDS[name]] if name in FORWARDS else [])]
            helped = "".join(help_of(one, mode, monkeypatch, capsys) for one in asked)
            flags = [word.split("=")[0] for word in arguments if re.match(r"--[a-z]", word)]
            assert [flag for flag in flags if flag not in helped and flag not in MODES] == [], call


def help_of(name, mode, monkeypatch, capsys):
    """What a command, or a benchmark, says to --help."""
    main = resolve(cli.COMMANDS[name]) if name in cli.COMMANDS else importlib.import_module(name).main
    monkeypatch.setattr(sys, "argv", [name, *mode, "--help"])
    try:
        code = main([*mode, "--help"]) if name in cli.COMMANDS else main()
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert not code, (name, said.err)
    return said.out
