"""The commands that the page on evaluation shows are ones that their programs accept."""

import re
import shlex

from drspo.config import load
from drspo.study.command import StudyConfig
from eval.benchmark.methods import rows
from eval.config import EvalConfig


def shown(page, start):
    """The arguments of the commands of a page that begin with `start`."""
    lines = re.findall(rf"^    (?:ray job submit .* -- )?{re.escape(start)} (.*)$", page, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_the_benchmarks_that_the_page_shows_are_parsed_and_their_rows_resolve(repository):
    page = (repository / "docs" / "evaluate.md").read_text()
    commands = [argv for argv in shown(page, "python -m eval") if argv[0] in ("--config", "worker")]
    assert len(commands) >= 6
    for argv in commands:
        loras = [] if "--lora-blueprint" in argv else ["--lora-blueprint", "a"]
        tokens = [*argv[argv[0] == "worker" :], *loras]
        assert rows(load(EvalConfig, tokens, package="eval", prog="eval"))


def test_the_studies_that_the_page_shows_are_parsed(repository):
    commands = shown((repository / "docs" / "evaluate.md").read_text(), "drspo study")
    assert len(commands) >= 3
    for argv in commands:
        assert load(StudyConfig, argv, package="drspo", prog="drspo study").out.startswith("runs/")
