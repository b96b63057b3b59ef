"""The pages: built without a warning, and current where they are written from the code."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys

from drspo import cli, reference


def test_the_pages_build_without_a_warning(repository, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "index.html").is_file()


def test_no_two_pages_say_the_same_words(repository):
    """Fifteen words in a row stand on one page; tables' rulers and the paper's title are no words of ours."""
    title = "Blueprint-Guided Scroll Generation with Direct Preference Optimization"
    said = {}
    for path in [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]:
        if path.name == "reference.md":
            continue
        words = re.findall(r"\w[^\s|]*", path.read_text().replace(title, ""))
        for passage in {" ".join(words[i : i + 15]) for i in range(len(words) - 14)}:
            said.setdefault(passage, []).append(path.name)
    assert {passage: pages for passage, pages in said.items() if len(pages) > 1} == {}


def test_the_page_of_settings_is_what_the_dataclasses_say(repository):
    there = (repository / "docs" / "reference.md").read_text()
    assert there == reference.page(), "write it anew: python -m drspo.reference > docs/reference.md"


def test_every_setting_is_explained():
    """A flag without a word beside it helps nobody."""
    rows = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(rows) > 300
    assert [row for row in rows if row.rstrip("| ").count(" | ") < 3 and "These" not in row] == []


def test_the_page_of_settings_names_what_the_parser_accepts(capsys):
    """Each flag of the page stands in --help, so neither can go its own way."""
    told = reference.page().split("\n## ")
    for command in ("generate", "train"):
        (section,) = [part for part in told if part.startswith(f"drspo {command}\n")]
        flags = re.findall(r"^\| `(--[\w.-]+)` ", section, re.MULTILINE)
        with contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
        helped = capsys.readouterr().out
        assert [flag for flag in flags if flag not in helped and flag[2:] not in helped] == []


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_programs(repository):
    """A message that nobody says any more must leave the page; `...` stands for names and numbers."""
    page = (repository / "docs" / "troubleshooting.md").read_text()
    packages = ("drspo", "generate", "eval", "pipeline", "dataset_builder", "train")
    sources = [path.read_text() for package in packages for path in (repository / package).rglob("*.py")]
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # one text, however it is broken into lines
    messages = [m for m in re.findall(r"\*\*`([^`]+)`\*\*", page) if m != "No space left on device"]
    parts = [part.strip() for m in messages for part in re.split(r"\.\.\.|'[a-z]+'", m) if part.strip()]
    assert len(messages) > 12
    assert [part for part in parts if part not in said] == []
