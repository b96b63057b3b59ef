"""The four examples of docs/extend.md, written to files and run by the page's own commands, in its order."""

from __future__ import annotations

import json
import re
import shlex

import pyarrow.parquet as pq
import pytest

from tests.forks import Forks


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "extend.md").read_text()


@pytest.fixture(scope="module")
def ran(page, repository, tmp_path_factory):
    """The folder in which a reader did everything that the page shows."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(text)
    commands = re.findall(r"^    (python -m .+)$", page, re.MULTILINE)
    forks = Forks(repository, "generate.models.family", "train.loop", "peft", "transformers.models.clip")
    try:
        for number, command in enumerate(commands):
            log = folder.parent / f"{folder.name}-{number}.txt"
            code = forks.run(shlex.split(command)[2:], folder, log)
            assert code == 0, f"{command}\n{log.read_text()[-5000:]}"
    finally:
        forks.close()
    return folder


def test_each_example_is_about_twenty_lines(page):
    examples = re.findall(r"```python\n(# \w+\.py\n.*?)```", page, re.DOTALL)
    assert len(examples) == 4
    assert all(text.count("\n") <= 27 for text in examples)


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_the_four_examples_do_what_the_page_says(ran):
    calm, plain = next((ran / "calm").glob("*.png")), next((ran / "plain").glob("*.png"))
    assert calm.name == plain.name and calm.read_bytes() != plain.read_bytes()
    assert "warmth" in "".join(p.read_text() for p in (ran / "runs" / "warmth").rglob("*.md"))
    scores = pq.read_table(ran / "runs" / "mine" / "scores.parquet")
    assert set(scores["generator"].to_pylist()) == {"multidiffusion", "Calm"}
    assert all(set(row) == {"aesthetic", "Warmth"} for row in scores["scores"].to_pylist())
    record = json.loads((ran / "runs" / "exponential" / "drspo.json").read_text())
    assert "exponential" in json.dumps(record) and record["stage"] == "blueprint"
